"""Where a server may be told to listen."""

from pathlib import Path
from typing import Any

import pytest
from foldserve.settings import ServerSettings
from foldserve.settings.addresses import host_and_port, is_loopback, joined, socket_path
from pydantic import ValidationError

MODELS = (Path("models"),)


@pytest.mark.parametrize("text", ["127.0.0.1:8003", "localhost:0", "[::1]:65535", "0.0.0.0:1"])
def test_a_host_and_a_port(text: str) -> None:
    assert joined(*host_and_port(text)) == text
    assert socket_path(text) is None


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("8003", "no address; give host:port, or unix:/path"),
        (":8003", "no address"),
        ("[]:8003", "no address"),
        ("::1:8003", "no address"),
        ("localhost", "no address"),
        ("localhost:", "needs a port from 0 to 65535"),
        ("localhost:65536", "needs a port"),
        ("localhost:-1", "needs a port"),
        ("localhost:²", "needs a port"),
        ("unix:relative.sock", "needs the whole path of the socket"),
        ("Public", "no address"),
    ],
)
def test_what_is_no_address_is_refused_with_what_it_should_be(text: str, why: str) -> None:
    with pytest.raises(ValidationError, match=why):
        ServerSettings(repository=MODELS, management_address=text)


@pytest.mark.parametrize(
    ("host", "local"),
    [
        *((host, True) for host in ("127.0.0.1", "127.8.8.8", "::1", "localhost")),
        *((host, False) for host in ("0.0.0.0", "::", "10.0.0.1", "example.org")),
    ],
)
def test_which_hosts_are_this_machine_only(host: str, local: bool) -> None:
    assert is_loopback(host) is local


@pytest.mark.parametrize(
    ("given", "names"),
    [
        ({"tls_cert_file": "a"}, ("tls_cert_file", "tls_key_file")),
        ({"tls_key_file": "a"}, ("tls_key_file", "tls_cert_file")),
        ({"tls_client_ca_file": "a"}, ("tls_client_ca_file", "tls_cert_file")),
        ({"management_address": "127.0.0.1:7", "grpc_port": 7}, ("management_address", "grpc_port")),
        ({"management_address": "127.0.0.1:7", "http_port": 7}, ("management_address", "http_port")),
    ],
)
def test_contradictions_are_refused_naming_both(given: dict[str, Any], names: tuple[str, str]) -> None:
    with pytest.raises(ValidationError) as failure:
        ServerSettings.model_validate({"repository": MODELS, **given})
    assert all(name in str(failure.value) for name in names)


def test_free_ports_and_sockets_contradict_nothing() -> None:
    for address in ("127.0.0.1:0", "unix:/run/x", "public"):
        settings = ServerSettings(repository=MODELS, grpc_port=0, http_port=0, management_address=address)
        assert settings.management_address == address
