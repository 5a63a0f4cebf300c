"""Certificates that cannot serve are refused with the reason; those that can do, and may change meanwhile."""

import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from certificates import Pki, run
from foldserve.errors import ConfigurationError
from foldserve.rpc.tls import Tls

if TYPE_CHECKING:
    from datetime import datetime

NEW = "openssl req -x509 -noenc -keyout k -out c -subj /CN=x -addext subjectAltName=DNS:localhost -newkey "


@pytest.fixture(scope="module")
def pki(tmp_path_factory: pytest.TempPathFactory) -> Pki:
    return Pki(tmp_path_factory.mktemp("pki"))


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Pki:
    return Pki(tmp_path_factory.mktemp("other"))


def _tls(certificate: Path, key: Path, client_ca: Path | None = None) -> Tls:
    return Tls(certificate, key, client_ca, lambda _: None)


def test_a_pair_that_is_none_is_refused_by_name(pki: Pki, other: Pki) -> None:
    certificate, key = pki["server.crt"], pki["server.key"]
    for wrong, text in (
        ((certificate, other["server.key"]), "do not belong together"),
        ((certificate, pki["nowhere"]), "nowhere cannot be read: No such file"),
        ((pki["nowhere"], key), "nowhere cannot be read: No such file"),
        ((key, key), "server.key has no certificate in PEM form"),
        ((certificate, certificate), "server.crt has no private key in PEM form that opens without"),
        ((certificate, pki.folder), "cannot be read: Is a directory"),
    ):
        with pytest.raises(ConfigurationError, match=text):
            _tls(*wrong)


def test_a_key_behind_a_password_is_refused_and_nobody_is_asked_for_it(pki: Pki, tmp_path: Path) -> None:
    run(f"openssl pkey -in {pki['server.key']} -aes256 -passout pass:secret -out locked.key", tmp_path)
    with pytest.raises(ConfigurationError, match=r"locked.key has no private key .* without a password"):
        _tls(pki["server.crt"], tmp_path / "locked.key")


def test_authorities_that_are_none_are_refused_by_name(pki: Pki, tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    (tmp_path / "spoilt").write_bytes(pki["ca.crt"].read_bytes().replace(b"M", b"N"))
    for name, text in (
        ("empty", "empty has no certificate"),
        ("spoilt", "spoilt does not hold certificates"),
    ):
        with pytest.raises(ConfigurationError, match=text):
            _tls(pki["server.crt"], pki["server.key"], tmp_path / name)


@pytest.mark.parametrize("kind", ["ed25519", "ed448", "ec -pkeyopt ec_paramgen_curve:P-521"])
def test_keys_that_grpc_cannot_serve_with_are_refused(tmp_path: Path, kind: str) -> None:
    run(NEW + kind, tmp_path)
    with pytest.raises(ConfigurationError, match="a kind that gRPC callers cannot take; make one with RSA"):
        _tls(tmp_path / "c", tmp_path / "k")


def _answering(tls: Tls) -> tuple[grpc.Server, int]:
    server = grpc.server(ThreadPoolExecutor(1))
    port = server.add_secure_port("localhost:0", tls.credentials())
    server.start()
    return server, port


def _is_trusted(port: int, root: Path) -> bool:
    """Whether a new connection comes about; what it asks for is not offered."""
    with grpc.secure_channel(f"localhost:{port}", grpc.ssl_channel_credentials(root.read_bytes())) as channel:
        call: Any = channel.unary_unary("/no/method")
        failure = call.future(b"", timeout=10)
        code = failure.code()
    assert code in {grpc.StatusCode.UNIMPLEMENTED, grpc.StatusCode.UNAVAILABLE}
    return code is grpc.StatusCode.UNIMPLEMENTED


@pytest.mark.parametrize("kind", ["rsa:2048", *(f"ec -pkeyopt ec_paramgen_curve:P-{n}" for n in (256, 384))])
def test_other_kinds_of_keys_serve(tmp_path: Path, kind: str) -> None:
    run(NEW + kind, tmp_path)
    server, port = _answering(_tls(tmp_path / "c", tmp_path / "k"))
    assert _is_trusted(port, tmp_path / "c")
    server.stop(0).wait()


def test_a_new_pair_serves_the_next_connection_and_half_of_one_does_not(
    pki: Pki, other: Pki, tmp_path: Path
) -> None:
    files = [tmp_path / "server.crt", tmp_path / "server.key"]
    for file in files:
        shutil.copy(pki[file.name], file)
    told: list[datetime] = []
    tls = Tls(files[0], files[1], None, told.append)
    ports = [_answering(tls) for _ in range(2)]
    for file in files:
        shutil.copy(other[file.name], file)
        tls.renewed.look()
        tls.renewed.look()
        has_changed = file is files[-1]
        for _, port in ports:
            assert _is_trusted(port, other["ca.crt"]) is has_changed
            assert _is_trusted(port, pki["ca.crt"]) is not has_changed
    assert len(told) == 2
    for server, _ in ports:
        server.stop(0).wait()
