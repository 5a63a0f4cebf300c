"""foldserve_client's connections: secured, with a token, to several servers; what it says of failed ones."""

import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest
from certificates import Pki
from foldserve.server import Server
from foldserve_client import (
    AsyncClient,
    Client,
    PermissionDenied,
    Tls,
    Unauthenticated,
    Unavailable,
)
from foldserve_client.commands import app
from foldserve_client.connection import Addresses
from running import EXAMPLE_MODELS, serving
from typer.testing import CliRunner

ONE_CPU = {"provider": "cpu", "instances": 1, "intra_op_threads": 1}
IMAGE = np.zeros((1, 1, 8, 8), np.float32)
TOKEN = "0123456789abcdef-alice"


@pytest.fixture(scope="module")
def pki(tmp_path_factory: pytest.TempPathFactory) -> Pki:
    return Pki(tmp_path_factory.mktemp("pki") / "own")


@pytest.fixture(scope="module")
def secured(pki: Pki, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server with mTLS and a token that may infer only."""
    tokens = tmp_path_factory.mktemp("tokens") / "tokens.yaml"
    tokens.write_text(f"- {{name: alice, rights: [inference], token: {TOKEN}}}\n")
    settings = {**pki.settings, "tls_client_ca_file": pki["ca.crt"], "token_file": tokens}
    with serving(EXAMPLE_MODELS, **ONE_CPU, **settings) as server:
        yield server


@pytest.fixture(scope="module")
def tls(pki: Pki) -> Tls:
    return Tls(pki["ca.crt"], pki["client.crt"], pki["client.key"])


def test_a_client_with_certificate_and_token_is_let_in(secured: Server, tls: Tls) -> None:
    with Client(f"localhost:{secured.grpc_port}", tls=tls, token=TOKEN) as client:
        assert client.infer("digits", np.repeat(IMAGE, 50, 0)).output.shape == (50, 10)
        assert [answer.error for answer in client.stream("digits", [IMAGE] * 3)] == [None] * 3
        with pytest.raises(PermissionDenied, match="metadata"):
            client.statistics()


async def test_so_is_an_asyncio_client(secured: Server, tls: Tls) -> None:
    async with AsyncClient(f"localhost:{secured.grpc_port}", tls=tls, token=TOKEN) as client:
        assert (await client.infer("digits", IMAGE)).output.shape == (1, 10)
        assert [answer.error async for answer in client.stream("digits", [IMAGE] * 3)] == [None] * 3


@pytest.mark.parametrize("token", [None, "another-token-of-nobody"])
def test_without_its_token_nobody_is_let_in(secured: Server, tls: Tls, token: str | None) -> None:
    with Client(f"localhost:{secured.grpc_port}", tls=tls, token=token) as client:
        assert client.ready()
        with pytest.raises(Unauthenticated):
            client.infer("digits", IMAGE)


def test_the_command_takes_certificates_and_tokens(secured: Server, pki: Pki, tmp_path: Path) -> None:
    token = tmp_path / "alice.token"
    token.write_text(f"{TOKEN}\n")
    options = ["--address", f"localhost:{secured.grpc_port}", "--ca-file", pki["ca.crt"]]
    options += ["--cert-file", pki["client.crt"], "--key-file", pki["client.key"]]

    def run(*more: object, **environment: str) -> tuple[int, str]:
        ran = CliRunner(env={"COLUMNS": "200", **environment}).invoke(
            app, ["metadata", "digits", *map(str, options), *map(str, more)]
        )
        return ran.exit_code, ran.stdout + ran.stderr

    assert run("--token-file", token)[0] == 0
    assert run(FOLDSERVE_TOKEN=TOKEN)[0] == 0
    code, told = run()
    assert code == 1
    assert told.startswith("UNAUTHENTICATED")


def test_settings_that_cannot_work_are_refused_before_connecting(pki: Pki, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="cert_file and key_file together"):
        Tls(cert_file=pki["client.crt"])
    with pytest.raises(OSError, match=r"none\.pem"):
        Client("localhost:1", tls=Tls(ca_file=tmp_path / "none.pem"))
    with pytest.raises(ValueError, match=r"server_name"):
        Client(["localhost:1", "127.0.0.1:2"], tls=Tls())


@pytest.mark.parametrize(
    ("address", "text"),
    [
        ("localhost", "write host:port"),
        (":8001", "write host:port"),
        ("http://localhost:8001", "without 'http://'"),
        ([], "needs an address"),
        (["localhost:1", "no.such.host.invalid:1"], "must be host:port"),
        (["localhost:1", "unix:/tmp/x"], "must be host:port"),
    ],
)
def test_addresses_that_cannot_work_are_refused(address: Addresses, text: str) -> None:
    with pytest.raises(ValueError, match=text):
        Client(address)
    ran = CliRunner().invoke(app, ["ready", "--address", ",".join(address) if address else ","])
    assert ran.exit_code == 2


def told(address: str, tls: Tls | None = None) -> str:
    with Client(address, tls=tls, retries=0) as client, pytest.raises(Unavailable) as caught:
        client.live()
    return caught.value.details


def test_a_failed_connection_is_told_with_what_to_do(
    server: Server, secured: Server, pki: Pki, tls: Tls
) -> None:
    plain, protected = f"localhost:{server.grpc_port}", f"localhost:{secured.grpc_port}"
    assert "no server listens at 127.0.0.1:1: start one" in told("127.0.0.1:1")
    assert "there is no such socket" in told("unix:/tmp/no/such/socket")
    assert "is not known" in told("no.such.host.invalid:8001")
    assert "is it the port for HTTP?" in told(f"localhost:{server.http_port}")
    assert "does not speak TLS" in told(plain, tls)
    assert "it may speak TLS only" in told(protected)
    assert "is not signed by anyone" in told(protected, Tls())
    assert "may want a certificate of the client" in told(protected, Tls(pki["ca.crt"]))
    assert "is for another name" in told(
        protected, Tls(tls.ca_file, tls.cert_file, tls.key_file, "elsewhere")
    )


def test_a_refusal_of_the_servers_is_told_as_it_is(server: Server) -> None:
    with Client(f"localhost:{server.grpc_port}") as client, pytest.raises(PermissionDenied) as caught:
        client.unload_model("digits")
    assert server.management_address in caught.value.details


def answered(server: Server) -> int:
    """Requests that one server answered."""
    with Client(f"127.0.0.1:{server.grpc_port}") as client:
        return client.statistics("digits").model_stats[0].inference_stats.success.count


def test_several_servers_take_turns_and_leave_without_a_lost_request() -> None:
    with serving(EXAMPLE_MODELS, **ONE_CPU) as first, ExitStack() as until_it_leaves:
        second = until_it_leaves.enter_context(serving(EXAMPLE_MODELS, **ONE_CPU))
        with Client([f"127.0.0.1:{one.grpc_port}" for one in (first, second)]) as client:
            deadline = time.monotonic() + 30
            while not (answered(first) and answered(second)):
                assert time.monotonic() < deadline
                client.infer("digits", IMAGE)
            before = answered(first), answered(second)
            for _ in range(40):
                client.infer("digits", IMAGE)
            assert (answered(first) - before[0], answered(second) - before[1]) == (20, 20)
            until_it_leaves.close()
            for _ in range(20):
                client.infer("digits", IMAGE)


def test_a_name_with_its_scheme_is_one_of_several(server: Server) -> None:
    with Client(f"dns:///localhost:{server.grpc_port}") as client:
        assert client.ready()


def test_compressed_requests_are_answered(server: Server) -> None:
    for compression in ("gzip", "deflate"):
        with Client(f"127.0.0.1:{server.grpc_port}", compression=compression) as client:
            assert client.infer("digits", np.repeat(IMAGE, 500, 0)).output.shape == (500, 10)


def test_shared_memory_is_for_one_server_only() -> None:
    with pytest.raises(ValueError, match="one address"):
        Client(["127.0.0.1:1", "127.0.0.1:2"], shared_memory=True)
