"""Callers that speak HTTP/2 to do harm: the server stays, and who asks beside them notices nothing."""

import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack, closing, suppress
from pathlib import Path
from typing import Any

import grpc
import h2.exceptions
import h2.settings
import pytest
from foldserve_proto import grpc_service_pb2 as pb
from foldserve_proto.grpc_service_pb2_grpc import GRPCInferenceServiceStub
from grpc_health.v1 import health_pb2, health_pb2_grpc
from integration.attacked import QUICKLY_S, Attacked, attacked, bystander, digits_alone, request
from integration.raw_http2 import RawConnection, message

MANY = 1000
LARGEST_MESSAGE = 32 * 2**20
INFER = message(request().SerializeToString())
FEW_FILES = ["bash", "-c", 'ulimit -Sn 256; exec "$0" "$@"']
"""Starts a command that may have 256 files open, unless it helps itself to more."""

REFLECTION = "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo"
WATCH = "/grpc.health.v1.Health/Watch"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Attacked]:
    repository = digits_alone(tmp_path_factory.mktemp("models"))
    options = ["--max-message-bytes", str(LARGEST_MESSAGE)]
    with attacked(repository, *options, prefix=FEW_FILES) as server:
        yield server


@pytest.fixture(autouse=True)
def _nobody_notices(server: Attacked) -> Iterator[None]:
    with bystander(server.address):
        yield


@pytest.fixture
def stub(server: Attacked) -> Iterator[GRPCInferenceServiceStub]:
    unlimited = [("grpc.max_send_message_length", -1)]
    with grpc.insecure_channel(server.address, unlimited) as channel:
        yield GRPCInferenceServiceStub(channel)


def _answered(server: Attacked) -> None:
    """Somebody who comes while the attack goes on is answered."""
    with grpc.insecure_channel(server.address, [("grpc.use_local_subchannel_pool", 1)]) as channel:
        assert GRPCInferenceServiceStub(channel).ModelInfer(request(), timeout=QUICKLY_S).outputs
        health: Any = health_pb2_grpc.HealthStub(channel)  # its type has no methods
        told = health.Check(health_pb2.HealthCheckRequest(), timeout=QUICKLY_S)
        assert told.status == health_pb2.HealthCheckResponse.SERVING


@pytest.mark.parametrize("method", ["ModelInfer", "ServerLive", "ModelStreamInfer", WATCH, REFLECTION])
def test_a_flood_of_calls_that_never_send_their_message(server: Attacked, method: str) -> None:
    """On ten connections, half of them with a part of a message."""
    with ExitStack() as connections:
        for half in range(10):
            attacker = connections.enter_context(closing(RawConnection(server.grpc_port)))
            for _ in range(MANY // 10):
                stream = attacker.begin(method)
                if half % 2:
                    attacker.http.send_data(stream, INFER[:20])
            attacker.send()
        for _ in range(5):
            _answered(server)
    _answered(server)


@pytest.mark.parametrize("content", [b"", INFER], ids=["headers", "requests"])
def test_a_flood_of_resets(server: Attacked, content: bytes) -> None:
    """HTTP/2 rapid reset: each call is given up in the moment in which it was made."""
    with closing(RawConnection(server.grpc_port)) as attacker, suppress(OSError, h2.exceptions.ProtocolError):
        for index in range(20_000):
            stream = attacker.begin("ModelInfer")
            if content:
                attacker.http.send_data(stream, content, end_stream=True)
            attacker.http.reset_stream(stream)
            if index % 100 == 0:
                attacker.send()
                attacker.receive_what_is_there()
        attacker.send()
    _answered(server)


def test_a_flood_of_connections(server: Attacked) -> None:
    """Half of them say nothing, the others begin to speak HTTP/2 and stop."""
    before = server.status("Threads")
    with ExitStack() as connections:
        for index in range(MANY):
            connection = connections.enter_context(socket.create_connection(("127.0.0.1", server.grpc_port)))
            if index % 2:
                connection.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
        _answered(server)
        assert server.status("Threads") <= before + 16


def test_a_flood_of_streams(server: Attacked, stub: GRPCInferenceServiceStub) -> None:
    over = threading.Event()

    def requests() -> Iterator[pb.ModelInferRequest]:
        yield request()
        over.wait(QUICKLY_S)

    streams = [stub.ModelStreamInfer(requests()) for _ in range(200)]
    try:
        refused = [stream for stream in streams if _is_refused(stream)]
        assert len(refused) == 200 - 32
        _answered(server)
    finally:
        over.set()
    assert [len(list(stream)) for stream in streams if stream not in refused] == [0] * 32  # read before


def _is_refused(stream: Any) -> bool:
    with suppress(grpc.RpcError):
        next(stream)
        return False
    return bool(stream.code() is grpc.StatusCode.RESOURCE_EXHAUSTED)


def test_a_stream_that_is_never_read(server: Attacked) -> None:
    """Nothing is read from it any more, so it ends up waiting for itself; nobody's memory grows."""
    with closing(RawConnection(server.grpc_port)) as attacker:
        attacker.http.update_settings({h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: 0})
        stream = attacker.begin("ModelStreamInfer")
        attacker.send()
        attacker.socket.settimeout(1)
        before, sent = server.status("VmRSS"), 0
        with suppress(OSError, h2.exceptions.FlowControlError):
            for _ in range(100_000):
                attacker.http.send_data(stream, INFER)
                attacker.send()
                attacker.receive_what_is_there()
                sent += 1
        assert 16 <= sent < 100_000
        _answered(server)
        assert server.status("VmRSS") - before < 2**26


def test_watchers_that_do_not_read(server: Attacked) -> None:
    with closing(RawConnection(server.grpc_port)) as attacker:
        attacker.http.update_settings({h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: 0})
        for _ in range(100):
            attacker.http.send_data(attacker.begin(WATCH), message(b""), end_stream=True)
        attacker.send()
        for _ in range(5):
            _answered(server)


def test_a_flood_of_watchers_and_of_unknown_methods(server: Attacked) -> None:
    with grpc.insecure_channel(server.address) as channel:
        health: Any = health_pb2_grpc.HealthStub(channel)
        watches = [health.Watch(health_pb2.HealthCheckRequest(service=f"{index}")) for index in range(MANY)]
        unknown: Any = channel.unary_unary(f"/nobody/{'x' * 1000}")
        calls = [unknown.future(b"") for _ in range(MANY)]
        assert {call.code() for call in calls} == {grpc.StatusCode.UNIMPLEMENTED}
        _answered(server)
        for watch in watches:
            watch.cancel()


@pytest.mark.parametrize(
    "metadata",
    [
        [("key", "x" * 10_000_000)],
        [(f"key-{index}", "x" * 100) for index in range(5000)],
        [("k" * 100_000, "x")],
    ],
    ids=["long value", "many", "long name"],
)
def test_giant_metadata(stub: GRPCInferenceServiceStub, metadata: list[tuple[str, str]]) -> None:
    with pytest.raises(grpc.RpcError) as failure:
        stub.ModelInfer(request(), metadata=tuple(metadata), timeout=QUICKLY_S)
    assert failure.value.code() in (grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.UNAVAILABLE)


@pytest.mark.parametrize("megabytes", [100, 31])
def test_a_decompression_bomb(server: Attacked, stub: GRPCInferenceServiceStub, megabytes: int) -> None:
    """The limit is that of the message when it is unpacked; what is within it costs four times its size."""
    bomb = request()
    bomb.raw_input_contents[0] = bytes(megabytes * 2**20)
    server.forget_peak()
    before = server.status("VmRSS")
    with pytest.raises(grpc.RpcError) as failure:
        stub.ModelInfer(bomb, compression=grpc.Compression.Gzip, timeout=QUICKLY_S)
    too_large = megabytes * 2**20 > LARGEST_MESSAGE
    wanted = grpc.StatusCode.RESOURCE_EXHAUSTED if too_large else grpc.StatusCode.INVALID_ARGUMENT
    assert failure.value.code() is wanted
    assert server.status("VmHWM") - before < 6 * LARGEST_MESSAGE


PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0\0\0\4" + bytes(5)
"""The first bytes of a connection, and empty settings."""


@pytest.mark.parametrize(
    "content",
    [
        b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"\x16\x03\x01" + bytes(500),
        bytes(range(256)) * 4000,
        PREFACE + b"\xff\xff\xff\x01\x04" + b"\x00\x00\x00\x01" + bytes(1000),
        PREFACE + b"".join(b"\x00\x00\x00\x04\x00\x00\x00\x00\x00" for _ in range(20_000)),
        PREFACE + b"".join(b"\x00\x00\x08\x06\x00\x00\x00\x00\x00" + bytes(8) for _ in range(20_000)),
        PREFACE
        + b"\x00\x40\x00\x01\x00\x00\x00\x00\x01"
        + bytes(16384)
        + b"\x00\x40\x00\x09\x00\x00\x00\x00\x01" * 2000,
    ],
    ids=["HTTP/1", "TLS", "noise", "frame of 16 MB", "settings", "pings", "continuations"],
)
def test_bytes_that_are_no_call(server: Attacked, content: bytes) -> None:
    with socket.create_connection(("127.0.0.1", server.grpc_port), timeout=QUICKLY_S) as attacker:
        with suppress(OSError):
            attacker.sendall(content)
        _answered(server)


@pytest.mark.parametrize(
    "content",
    [
        b"\x00\xff\xff\xff\xff" + bytes(100),
        b"\x01" + INFER[1:],
        b"\x02" + INFER[1:],
        INFER * 2,
        message(b"\xff" * 100),
        message(b"\x0a" + b"\xff" * 9 + b"\x7f"),
        message(b"\x2b" * 10_000),
    ],
    ids=["4 GB", "not gzip", "unknown flag", "two messages", "noise", "length of 2^63", "nested groups"],
)
@pytest.mark.parametrize("method", ["ModelInfer", "ModelStreamInfer", "ServerLive"])
def test_messages_that_are_none(server: Attacked, method: str, content: bytes) -> None:
    with closing(RawConnection(server.grpc_port)) as attacker:
        stream = attacker.begin(method, [("grpc-encoding", "gzip")])
        attacker.http.send_data(stream, content, end_stream=True)
        attacker.send()
        assert attacker.status(stream) is not None
    _answered(server)


def test_no_thread_or_file_stays_behind(server: Attacked) -> None:
    """After a flood of everything the server is as large as before it."""
    files = Path(f"/proc/{server.process.pid}/fd")
    _answered(server)
    threads, before = server.status("Threads"), len(list(files.iterdir()))
    for _ in range(20):
        test_messages_that_are_none(server, "ModelStreamInfer", message(b"\xff" * 100))
    deadline = threading.Event()
    for _ in range(100):
        if server.status("Threads") <= threads + 2 and len(list(files.iterdir())) <= before + 2:
            break
        deadline.wait(0.1)
    assert server.status("Threads") <= threads + 2
    assert len(list(files.iterdir())) <= before + 2
