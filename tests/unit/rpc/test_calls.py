"""Deferred calls on a real gRPC server, taken apart as ModelInfer is and from the pool."""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import grpc
import pytest
from foldserve.rpc import calls
from foldserve.rpc.calls import CallExecutor, DeferredMethod, begin_of, deferred
from foldserve.rpc.outcome import Outcome

SERVICE, METHOD = "test.Service", "Call"
REFUSAL = Outcome(None, "RESOURCE_EXHAUSTED", "too much", (("retry-after", "0.5"),))
Told = Callable[[Outcome], None]
Begin = Callable[[bytes, grpc.ServicerContext, Told], None]


@contextmanager
def _serving(begin: Begin, executor: ThreadPoolExecutor, most: int | None = None) -> Iterator[grpc.Channel]:
    server = grpc.server(executor, maximum_concurrent_rpcs=most)
    handler = grpc.unary_unary_rpc_method_handler(
        DeferredMethod(begin), request_deserializer=_checked, response_serializer=_checked
    )
    server.add_registered_method_handlers(SERVICE, {METHOD: handler})
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, {METHOD: handler}),))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        yield channel
    server.stop(None).wait()
    executor.shutdown()


def _checked(content: bytes) -> bytes:
    if content == b"unparsable":
        raise ValueError(content)
    return content


def _call(channel: grpc.Channel) -> Any:
    return channel.unary_unary(f"/{SERVICE}/{METHOD}")


def _status_of(call: Callable[[], object]) -> grpc.RpcError:
    with pytest.raises(grpc.RpcError) as failure:
        call()
    return failure.value


def _from_another_thread(begin: Begin) -> Begin:
    def started(request: bytes, context: grpc.ServicerContext, told: Told) -> None:
        threading.Thread(target=begin, args=(request, context, told)).start()

    return started


def _echo(request: bytes, context: grpc.ServicerContext, told: Told) -> None:
    told(REFUSAL if request == b"refuse" else Outcome(request, "OK", ""))


@pytest.fixture(params=[True, False], ids=["taken apart", "from the pool"])
def executor(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> ThreadPoolExecutor:
    if not request.param:
        monkeypatch.setattr(calls, "HAS_PARTS", False)
    return CallExecutor(4)


def test_this_grpcio_has_the_parts() -> None:
    assert calls.HAS_PARTS


@pytest.mark.parametrize("begin", [_echo, _from_another_thread(_echo)])
def test_calls_are_answered_or_refused_from_any_thread(begin: Begin, executor: ThreadPoolExecutor) -> None:
    with _serving(begin, executor) as channel:
        assert _call(channel)(b"hello") == b"hello"
        error = _status_of(lambda: _call(channel)(b"refuse"))
        assert (error.code(), error.details()) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "too much")
        assert "0.5" in [str(entry.value) for entry in error.trailing_metadata() or ()]
        assert _call(channel)(b"again") == b"again"


def test_a_call_in_work_holds_no_thread() -> None:
    waiting: list[Told] = []

    def begin(request: bytes, context: grpc.ServicerContext, told: Told) -> None:
        waiting.append(told)

    executor = CallExecutor(1)
    with _serving(begin, executor) as channel:
        pending = [_call(channel).future(b"x") for _ in range(20)]
        while len(waiting) < 20:
            threading.Event().wait(0.001)
        assert not executor._threads
        for index, told in enumerate(waiting):
            told(Outcome(str(index).encode(), "OK", ""))
        assert sorted(int(call.result()) for call in pending) == list(range(20))


def test_calls_in_work_count_until_they_are_answered() -> None:
    waiting: list[Told] = []
    arrived = threading.Semaphore(0)

    def begin(request: bytes, context: grpc.ServicerContext, told: Told) -> None:
        waiting.append(told)
        arrived.release()

    with _serving(begin, CallExecutor(1), most=2) as channel:
        pending = []
        for _ in range(2):
            pending.append(_call(channel).future(b"x"))
            arrived.acquire()
        error = _status_of(lambda: _call(channel)(b"x"))
        assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        for told in waiting:
            told(Outcome(b"y", "OK", ""))
        assert [call.result() for call in pending] == [b"y", b"y"]
        last = _call(channel).future(b"x")
        arrived.acquire()
        waiting[-1](Outcome(b"z", "OK", ""))
        assert last.result() == b"z"


def test_a_cancelled_call_may_still_be_answered_and_the_server_goes_on(executor: ThreadPoolExecutor) -> None:
    waiting: list[Told] = []
    gone: list[Callable[[], bool]] = []

    def begin(request: bytes, context: grpc.ServicerContext, told: Told) -> None:
        if request == b"stay":
            told(Outcome(b"here", "OK", ""))
            return
        gone.append(lambda: not context.is_active())
        waiting.append(told)

    with _serving(begin, executor) as channel:
        call = _call(channel).future(b"go")
        while not waiting:
            threading.Event().wait(0.001)
        assert not gone[0]()
        call.cancel()
        while not gone[0]():
            threading.Event().wait(0.001)
        waiting[0](Outcome(b"too late", "OK", ""))
        assert _call(channel)(b"stay") == b"here"


def test_a_message_that_cannot_be_parsed_or_sent_ends_its_call_only() -> None:
    def begin(request: bytes, context: grpc.ServicerContext, told: Told) -> None:
        if request == b"fail":
            raise ValueError(request)
        told(Outcome(b"unparsable" if request == b"spoil" else request, "OK", ""))

    with _serving(begin, CallExecutor(4)) as channel:
        assert _status_of(lambda: _call(channel)(b"unparsable")).code() is grpc.StatusCode.INTERNAL
        for request in (b"spoil", b"fail"):
            assert _status_of(lambda: _call(channel)(request)).code() is grpc.StatusCode.CANCELLED  # noqa: B023  # called at once
        assert _call(channel)(b"fine") == b"fine"


def test_a_call_without_a_message_is_refused() -> None:
    with _serving(_echo, CallExecutor(4)) as channel:
        empty: Any = channel.stream_unary(f"/{SERVICE}/{METHOD}")
        assert _status_of(lambda: empty(iter(()))).code() is grpc.StatusCode.UNIMPLEMENTED
        assert _call(channel)(b"fine") == b"fine"


def test_a_deferred_method_is_a_method_too() -> None:
    class Servicer:
        @deferred
        def method(
            self, request: int, _context: grpc.ServicerContext, done: Callable[[str | Exception], None]
        ) -> None:
            done(str(request) if request else ValueError("nothing"))

        def other(self, request: int) -> None:
            """No deferred one."""

    servicer = Servicer()
    context: Any = None
    assert servicer.method(7, context) == "7"
    with pytest.raises(ValueError, match="nothing"):
        servicer.method(0, context)
    told: list[object] = []
    begin = begin_of(servicer.method)
    assert begin is not None
    begin(8, context, told.append)
    assert told == ["8"]
    assert begin_of(servicer.other) is None
