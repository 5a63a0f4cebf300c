"""TLS of a real server: who connects, and certificates that change while it is busy."""

import shutil
import socket
import ssl
import threading
import warnings
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import grpc
import numpy as np
import pytest
from certificates import Pki
from foldserve.errors import ConfigurationError
from foldserve.rpc import renewal
from foldserve.server import Server
from foldserve_proto import grpc_service_pb2 as pb
from foldserve_proto.grpc_service_pb2_grpc import GRPCInferenceServiceStub
from integration.repositories import ONE_CPU, eventually
from running import EXAMPLE_MODELS, scraped, serving
from server_process import FREE_PORTS, ServerProcess

QUICKLY_S = 20
IMAGES = np.zeros((1, 1, 8, 8), np.float32)
REQUEST = pb.ModelInferRequest(model_name="digits", raw_input_contents=[IMAGES.tobytes()])
REQUEST.inputs.add(name="images", datatype="FP32", shape=IMAGES.shape)


@pytest.fixture(scope="module")
def pki(tmp_path_factory: pytest.TempPathFactory) -> Pki:
    return Pki(tmp_path_factory.mktemp("pki"))


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Pki:
    """Another authority with its own certificates of the same names."""
    return Pki(tmp_path_factory.mktemp("other"))


@pytest.fixture(scope="module")
def in_place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder whose certificates serve; tests replace them."""
    return tmp_path_factory.mktemp("in place")


def _put(pki: Pki, folder: Path) -> None:
    for name in ("server.crt", "server.key", "ca.crt"):
        shutil.copy(pki[name], folder / f"new {name}")
        (folder / f"new {name}").rename(folder / name)


@pytest.fixture(scope="module")
def mutual(tmp_path_factory: pytest.TempPathFactory, pki: Pki, in_place: Path) -> Iterator[Server]:
    """A server that asks for certificates of its own authority."""
    repository = tmp_path_factory.mktemp("models")
    (repository / "digits").symlink_to(EXAMPLE_MODELS / "digits")
    _put(pki, in_place)
    settings = {
        "tls_cert_file": in_place / "server.crt",
        "tls_key_file": in_place / "server.key",
        "tls_client_ca_file": in_place / "ca.crt",
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(renewal, "LOOK_EVERY_S", 0.05)
        with serving(repository, **ONE_CPU, **settings) as server:
            yield server


def _code(address: str, credentials: grpc.ChannelCredentials | None) -> grpc.StatusCode:
    """What an inference over a new connection ends with."""
    channel = (
        grpc.insecure_channel(address) if credentials is None else grpc.secure_channel(address, credentials)
    )
    with channel:
        return GRPCInferenceServiceStub(channel).ModelInfer.future(REQUEST, timeout=QUICKLY_S).code()


OK, UNAVAILABLE = grpc.StatusCode.OK, grpc.StatusCode.UNAVAILABLE


def _connects(address: str, credentials: grpc.ChannelCredentials) -> bool:
    return _code(address, credentials) is OK


def test_only_who_shows_a_certificate_of_the_authority_connects_to_either_port(
    mutual: Server, pki: Pki, other: Pki
) -> None:
    for address in (f"localhost:{mutual.grpc_port}", mutual.management_address):
        assert _code(address, pki.trust(client=pki)) is OK
        assert _code(address, pki.trust(client=other)) is UNAVAILABLE
        assert _code(address, pki.trust()) is UNAVAILABLE
        assert _code(address, other.trust(client=pki)) is UNAVAILABLE
        assert _code(address, None) is UNAVAILABLE


def test_who_changes_something_is_written_down_by_certificate(
    mutual: Server, pki: Pki, capsys: pytest.CaptureFixture[str]
) -> None:
    request = pb.TraceSettingRequest()
    request.settings["trace_rate"].value.append("7")
    capsys.readouterr()
    with grpc.secure_channel(mutual.management_address, pki.trust(client=pki)) as channel:
        GRPCInferenceServiceStub(channel).TraceSetting(request)
    assert '"certificate": "alice"' in capsys.readouterr().err


def test_the_end_of_the_certificate_is_a_metric(mutual: Server, in_place: Path) -> None:
    ends = {
        dict(labels)["file"]: value
        for (name, labels), value in scraped(mutual).items()
        if name == "foldserve_tls_certificate_expiry_timestamp_seconds"
    }
    assert list(ends) == [str(in_place / "server.crt")]


def test_certificates_are_renewed_under_load_and_nobody_notices(
    mutual: Server, pki: Pki, other: Pki, in_place: Path
) -> None:
    """Callers that trust both authorities, and connect anew for every request or once for all."""
    both = pki["ca.crt"].read_bytes() + other["ca.crt"].read_bytes()
    address = f"localhost:{mutual.grpc_port}"
    shown = threading.Event()
    shown.set()
    codes: list[grpc.StatusCode] = []
    ended = threading.Event()

    def credentials() -> grpc.ChannelCredentials:
        mine = pki if shown.is_set() else other
        key, certificate = mine["client.key"].read_bytes(), mine["client.crt"].read_bytes()
        return grpc.ssl_channel_credentials(both, key, certificate)

    def connect_anew() -> None:
        while not ended.is_set():
            codes.append(_code(address, credentials()))

    def stay() -> None:
        with grpc.secure_channel(address, credentials()) as channel:
            stub = GRPCInferenceServiceStub(channel)
            while not ended.is_set():
                codes.append(stub.ModelInfer.future(REQUEST, timeout=QUICKLY_S).code())

    (in_place / "ca.crt").write_bytes(both)  # first both authorities, then the certificate, as one does
    eventually(partial(_connects, address, pki.trust(client=other)))
    callers = [threading.Thread(target=one) for one in (connect_anew, connect_anew, stay)]
    for caller in callers:
        caller.start()
    for _ in range(2):
        for new, old in ((other, pki), (pki, other)):
            for name in ("server.crt", "server.key"):
                shutil.copy(new[name], in_place / name)
            eventually(partial(_connects, address, new.trust(client=pki)))
            assert _code(address, old.trust(client=pki)) is UNAVAILABLE
    ended.set()
    for caller in callers:
        caller.join()
    _put(pki, in_place)
    eventually(lambda: _code(address, pki.trust(client=other)) is UNAVAILABLE)
    assert len(codes) > 50
    assert set(codes) == {OK}


def test_a_broken_certificate_keeps_the_old_one_and_is_told(
    mutual: Server, pki: Pki, in_place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    capsys.readouterr()
    said: list[str] = []

    def is_told(text: str) -> bool:
        said.append(capsys.readouterr().err)
        return text in "".join(said)

    (in_place / "server.crt").write_text("half of one")
    eventually(lambda: is_told("the TLS certificate cannot be renewed"))
    assert _code(f"localhost:{mutual.grpc_port}", pki.trust(client=pki)) is OK
    _put(pki, in_place)
    eventually(lambda: is_told("the TLS certificate renewed"))
    assert _code(f"localhost:{mutual.grpc_port}", pki.trust(client=pki)) is OK


def test_without_an_authority_for_callers_nobody_needs_a_certificate(pki: Pki, tmp_path: Path) -> None:
    (tmp_path / "digits").symlink_to(EXAMPLE_MODELS / "digits")
    with serving(tmp_path, **ONE_CPU, **pki.settings) as server:
        assert _code(f"127.0.0.1:{server.grpc_port}", pki.trust()) is OK
        assert _code(f"127.0.0.1:{server.grpc_port}", None) is UNAVAILABLE


def test_strangers_cannot_write_into_the_log(pki: Pki, tmp_path: Path) -> None:
    """Handshakes that fail are their callers' business; every line of the log is ours."""
    (tmp_path / "models" / "digits").mkdir(parents=True)
    options = ["--repository", str(tmp_path / "models"), "--model-control", "explicit"]
    options += ["--tls-cert-file", str(pki["server.crt"]), "--tls-key-file", str(pki["server.key"])]
    with ServerProcess(tmp_path / "log", *FREE_PORTS, *options) as process:
        old = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        old.check_hostname, old.verify_mode = False, ssl.CERT_NONE
        old.set_ciphers("ALL:@SECLEVEL=0")
        with warnings.catch_warnings(action="ignore"):
            old.maximum_version = ssl.TLSVersion.TLSv1_1
        host, _, port = process.address.rpartition(":")
        with socket.create_connection((host, int(port))) as connection, pytest.raises(ssl.SSLError):
            old.wrap_socket(connection)
        with socket.create_connection((host, int(port))) as connection:
            connection.sendall(b"GET / HTTP/1.1\r\n\r\n")
            connection.recv(100)
        assert process.finish() == 0
        events = [record["event"] for record in process.records()]
        assert (events[0], events[-1]) == ("listening", "stopped")


def test_a_server_with_half_a_pair_does_not_start(pki: Pki, other: Pki) -> None:
    settings = {"tls_cert_file": pki["server.crt"], "tls_key_file": other["server.key"]}
    with (
        pytest.raises(ConfigurationError, match="do not belong together"),
        serving(EXAMPLE_MODELS, **settings),
    ):
        pass
