"""Calls without a message: they cost nobody a place, and the oldest make room."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import grpc
import pytest
from foldserve.rpc import message_first
from foldserve.rpc.calls import DeferredMethod
from foldserve.rpc.message_first import SMALL_BYTES, Awaited, MessageFirstPool, small
from foldserve.rpc.outcome import Outcome
from foldserve.rpc.reader import reading_server
from integration.raw_http2 import RawConnection, grpc_status, message

SERVICE = "test.Service"
KINDS = ["Deferred", "Pooled", "Listed"]
IN_THREADS = ["Pooled", "Listed", "Stream"]


def _handlers(release: threading.Event) -> "dict[str, grpc.RpcMethodHandler[bytes, bytes]]":
    def pooled(request: bytes, context: grpc.ServicerContext) -> bytes:
        if request == b"wait":
            assert release.wait(20)
        return request

    def listed(request: bytes, context: grpc.ServicerContext) -> Iterator[bytes]:
        yield request

    def streamed(requests: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[bytes]:
        yield from requests

    echo = DeferredMethod(lambda request, _caller, told: told(Outcome(request, "OK", "")))
    return {
        "Deferred": grpc.unary_unary_rpc_method_handler(echo, _checked, bytes),
        "Pooled": grpc.unary_unary_rpc_method_handler(pooled, _checked, bytes),
        "Listed": grpc.unary_stream_rpc_method_handler(listed, _checked, bytes),
        "Stream": grpc.stream_stream_rpc_method_handler(streamed, _checked, bytes),
        "Small": grpc.unary_unary_rpc_method_handler(pooled, small(_checked), bytes),
    }


def _checked(content: bytes) -> bytes:
    if content == b"unparsable":
        raise ValueError(content)
    return content


@contextmanager
def _serving(release: threading.Event | None = None) -> Iterator[int]:
    server = reading_server(MessageFirstPool(2, "test", most=2), most_calls=2)
    handlers = _handlers(release or threading.Event())
    server.add_registered_method_handlers(SERVICE, handlers)
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, handlers),))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield port
    finally:
        server.stop(0).wait()


def _statuses(connection: RawConnection, streams: set[int]) -> dict[int, str]:
    """The gRPC status of each of the streams, all of which end."""
    found: dict[int, str] = {}
    while streams - found.keys():
        for event in connection.receive():
            status = grpc_status(event)
            if status is not None:
                found[getattr(event, "stream_id", 0)] = status
    return found


def test_this_grpcio_has_the_parts() -> None:
    assert message_first.HAS_PARTS


@pytest.mark.parametrize("method", KINDS)
def test_calls_without_a_message_take_no_place(method: str) -> None:
    with _serving() as port, grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        attacker = RawConnection(port)
        for _ in range(50):
            attacker.begin(f"/{SERVICE}/{method}")
        attacker.send()
        listed: Any = channel.unary_stream(f"/{SERVICE}/Listed")
        for _ in range(5):
            for kind in ("Deferred", "Pooled"):
                call: Any = channel.unary_unary(f"/{SERVICE}/{kind}")
                assert call(b"hello", timeout=20) == b"hello"
            assert list(listed(b"hello", timeout=20)) == [b"hello"]
        attacker.close()


@pytest.mark.parametrize("method", KINDS)
def test_the_oldest_make_room(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Awaited.__init__, "__defaults__", (10,))
    with _serving() as port:
        caller = RawConnection(port)
        streams = []
        for _ in range(14):
            streams.append(caller.begin(f"/{SERVICE}/{method}"))
            caller.send()
        assert set(_statuses(caller, set(streams[:4])).values()) == {"8"}
        for stream in streams[4:]:  # and those that are left may still send theirs
            caller.http.send_data(stream, message(b"late"), end_stream=True)
        caller.send()
        assert set(_statuses(caller, set(streams[4:])).values()) <= {"0", "8"}
        caller.close()


@pytest.mark.parametrize("method", KINDS)
@pytest.mark.parametrize(("content", "code"), [(b"", "12"), (message(b"unparsable"), "13")])
def test_what_is_no_message_ends_its_call(method: str, content: bytes, code: str) -> None:
    with _serving() as port:
        caller = RawConnection(port)
        stream = caller.begin(f"/{SERVICE}/{method}")
        caller.http.send_data(stream, content, end_stream=True)
        caller.send()
        assert _statuses(caller, {stream}) == {stream: code}
        caller.close()


def test_calls_beyond_the_threads_are_refused_not_kept_waiting() -> None:
    release = threading.Event()
    with _serving(release=release) as port, grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        call: Callable[..., grpc.Future[bytes]] = channel.unary_unary(f"/{SERVICE}/Pooled").future
        calls = [call(b"wait", timeout=20) for _ in range(5)]
        refused = [one for one in calls if _refused(one)]
        assert len(refused) == 3
        release.set()
        assert [one.result() for one in calls if one not in refused] == [b"wait", b"wait"]
        assert call(b"hello", timeout=20).result() == b"hello"


@pytest.mark.parametrize("method", IN_THREADS)
def test_a_call_for_which_the_system_has_no_thread_ends_and_gives_its_place_back(
    method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    start = threading.Thread.start

    def fail(thread: threading.Thread) -> None:
        if thread.name.startswith("test_"):
            raise RuntimeError("can't start new thread")
        start(thread)

    with _serving() as port, grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        call: Any = channel.stream_stream(f"/{SERVICE}/{method}")
        with monkeypatch.context() as patch:
            patch.setattr(threading.Thread, "start", fail)
            for _ in range(5):  # more than there are places
                with pytest.raises(grpc.RpcError) as refusal:
                    list(call(iter([b"hello"]), timeout=20))
                assert refusal.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
                assert refusal.value.details() == message_first.NO_THREAD
        assert list(call(iter([b"hello"]), timeout=20)) == [b"hello"]


def test_a_large_message_is_refused_unparsed_where_small_ones_are_taken() -> None:
    with _serving() as port, grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        call: Any = channel.unary_unary(f"/{SERVICE}/Small")
        with pytest.raises(grpc.RpcError) as refusal:
            call(bytes(SMALL_BYTES + 1), timeout=20)
        assert refusal.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert call(bytes(SMALL_BYTES), timeout=20) == bytes(SMALL_BYTES)


def _refused(call: "grpc.Future[bytes]") -> bool:
    """Those that were refused are done while the others wait."""
    try:
        call.result(timeout=1)
    except grpc.FutureTimeoutError:
        return False
    except grpc.RpcError as error:
        return error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    return False
