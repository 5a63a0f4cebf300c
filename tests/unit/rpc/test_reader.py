"""Deferred calls on a real gRPC server: begun by the thread that reads, and from the pool."""

import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import grpc
import pytest
from foldserve.rpc import pulse, reader
from foldserve.rpc.calls import DeferredMethod
from foldserve.rpc.outcome import Caller, Outcome
from foldserve.rpc.reader import reading_server, silent_s, when_idle

SERVICE, METHOD = "test.Service", "Call"
REFUSAL = Outcome(None, "RESOURCE_EXHAUSTED", "too much", (("retry-after", "0.5"),))
Told = Callable[[Outcome], None]
Begin = Callable[[bytes, Caller, Told], None]


@contextmanager
def _serving(begin: Begin, pool: ThreadPoolExecutor, most: int | None = None) -> Iterator[grpc.Channel]:
    server = reading_server(pool, most_calls=most)
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
    pool.shutdown()


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
    def started(request: bytes, caller: Caller, told: Told) -> None:
        threading.Thread(target=begin, args=(request, caller, told)).start()

    return started


def _echo(request: bytes, caller: Caller, told: Told) -> None:
    told(REFUSAL if request == b"refuse" else Outcome(request, "OK", ""))


@pytest.fixture(params=[True, False], ids=["by the reader", "from the pool"])
def pool(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> ThreadPoolExecutor:
    monkeypatch.setattr(reader, "HAS_PARTS", request.param)
    return ThreadPoolExecutor(4)


def test_this_grpcio_has_the_parts() -> None:
    assert reader.HAS_PARTS


@pytest.mark.parametrize("begin", [_echo, _from_another_thread(_echo)])
def test_calls_are_answered_or_refused_from_any_thread(begin: Begin, pool: ThreadPoolExecutor) -> None:
    with _serving(begin, pool) as channel:
        assert _call(channel)(b"hello") == b"hello"
        error = _status_of(lambda: _call(channel)(b"refuse"))
        assert (error.code(), error.details()) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "too much")
        assert "0.5" in [str(entry.value) for entry in error.trailing_metadata() or ()]
        assert _call(channel)(b"again") == b"again"


def test_a_call_in_work_holds_no_thread() -> None:
    waiting: list[Told] = []

    def begin(request: bytes, caller: Caller, told: Told) -> None:
        waiting.append(told)

    pool = ThreadPoolExecutor(1)
    with _serving(begin, pool) as channel:
        pending = [_call(channel).future(b"x") for _ in range(20)]
        while len(waiting) < 20:
            threading.Event().wait(0.001)
        assert not pool._threads
        for index, told in enumerate(waiting):
            told(Outcome(str(index).encode(), "OK", ""))
        assert sorted(int(call.result()) for call in pending) == list(range(20))


def test_calls_in_work_count_until_they_are_answered() -> None:
    waiting: list[Told] = []
    arrived = threading.Semaphore(0)

    def begin(request: bytes, caller: Caller, told: Told) -> None:
        waiting.append(told)
        arrived.release()

    with _serving(begin, ThreadPoolExecutor(1), most=2) as channel:
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


def test_a_cancelled_call_may_still_be_answered_and_the_server_goes_on(pool: ThreadPoolExecutor) -> None:
    waiting: list[Told] = []
    gone: list[Callable[[], bool]] = []

    def begin(request: bytes, caller: Caller, told: Told) -> None:
        if request == b"stay":
            told(Outcome(b"here", "OK", ""))
            return
        gone.append(lambda: not caller.is_active())
        waiting.append(told)

    with _serving(begin, pool) as channel:
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
    def begin(request: bytes, caller: Caller, told: Told) -> None:
        if request == b"fail":
            raise ValueError(request)
        told(Outcome(b"unparsable" if request == b"spoil" else request, "OK", ""))

    with _serving(begin, ThreadPoolExecutor(4)) as channel:
        assert _status_of(lambda: _call(channel)(b"unparsable")).code() is grpc.StatusCode.INTERNAL
        for request in (b"spoil", b"fail"):
            assert _status_of(lambda: _call(channel)(request)).code() is grpc.StatusCode.CANCELLED  # noqa: B023  # called at once
        assert _call(channel)(b"fine") == b"fine"


def test_a_call_without_a_message_is_refused() -> None:
    with _serving(_echo, ThreadPoolExecutor(4)) as channel:
        empty: Any = channel.stream_unary(f"/{SERVICE}/{METHOD}")
        assert _status_of(lambda: empty(iter(()))).code() is grpc.StatusCode.UNIMPLEMENTED
        assert _call(channel)(b"fine") == b"fine"


def test_what_is_put_off_is_done_by_the_thread_that_reads_and_not_at_once() -> None:
    steps: list[tuple[str, threading.Thread]] = []

    def begin(request: bytes, caller: Caller, told: Told) -> None:
        def answer() -> None:
            steps.append(("answered", threading.current_thread()))
            told(Outcome(request, "OK", ""))

        later = when_idle()
        assert later is not None
        later(answer)
        steps.append(("begun", threading.current_thread()))

    with _serving(begin, ThreadPoolExecutor(1)) as channel:
        assert [_call(channel)(request) for request in (b"x", b"y")] == [b"x", b"y"]
    assert [step for step, _ in steps] == ["begun", "answered"] * 2
    assert len({thread for _, thread in steps}) == 1
    assert when_idle() is None


def test_what_fails_when_put_off_stops_nobody() -> None:
    def fail() -> None:
        raise ValueError("put off")

    def begin(request: bytes, caller: Caller, told: Told) -> None:
        later = when_idle()
        assert later is not None
        later(fail)
        later(lambda: told(Outcome(request, "OK", "")))

    with _serving(begin, ThreadPoolExecutor(1)) as channel:
        assert [_call(channel)(b"x") for _ in range(2)] == [b"x", b"x"]


def test_a_call_that_was_cancelled_counts_until_its_method_is_done_with_it() -> None:
    waiting: list[Told] = []
    gone = threading.Event()

    def begin(request: bytes, caller: Caller, told: Told) -> None:
        waiting.append(told)
        if request == b"leave":
            threading.Thread(target=_watch, args=(caller, gone)).start()

    with _serving(begin, ThreadPoolExecutor(1), most=1) as channel:
        call = _call(channel).future(b"leave")
        while not waiting:
            threading.Event().wait(0.001)
        call.cancel()
        assert gone.wait(60)
        assert _status_of(lambda: _call(channel)(b"x")).code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        waiting[0](Outcome(b"too late", "OK", ""))
        again = _call(channel).future(b"x")
        while len(waiting) < 2:
            threading.Event().wait(0.001)
        waiting[1](Outcome(b"y", "OK", ""))
        assert again.result() == b"y"


def _watch(caller: Caller, gone: threading.Event) -> None:
    while caller.is_active():
        threading.Event().wait(0.001)
    gone.set()


def _soon(holds: Callable[[], bool]) -> Iterator[bool]:
    """Whether something holds, asked for twenty seconds."""
    for _ in range(2000):
        yield holds()
        threading.Event().wait(0.01)


class _FailsOnce(ThreadPoolExecutor):
    failures = 1

    def submit(self, *work: Any, **named: Any) -> Any:
        if self.failures:
            self.failures -= 1
            raise ValueError("an event that nobody thought of")
        return super().submit(*work, **named)


@pytest.mark.parametrize("is_registered", [True, False])
def test_an_event_that_fails_does_not_end_the_reading(is_registered: bool) -> None:
    pool = _FailsOnce(2)
    server = reading_server(pool)
    handler = grpc.unary_unary_rpc_method_handler(lambda request, _: request, _checked, _checked)
    if is_registered:
        server.add_registered_method_handlers(SERVICE, {METHOD: handler})
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, {METHOD: handler}),))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        failing = _call(channel).future(b"x", timeout=60)
        assert any(_soon(lambda: not pool.failures))
        for _ in range(3):
            assert _call(channel)(b"hello", timeout=20, wait_for_ready=True) == b"hello"
        failing.cancel()
    server.stop(0)


READING_ENDS = """
import sys, time
from concurrent.futures import ThreadPoolExecutor
from foldserve.rpc.reader import reading_server
server = reading_server(ThreadPoolExecutor(1))

class Queue:
    def poll(self, deadline):
        raise MemoryError

server._state.completion_queue = Queue()
server._state.server = type("Server", (), {"start": lambda self: None, "request_call": lambda *_: None})()
server.start()
time.sleep(10)
"""


def test_a_server_that_can_read_no_more_ends_its_process() -> None:
    """Whoever watches over it starts it again; it would be silent for ever."""
    ended = subprocess.run(
        [sys.executable, "-c", READING_ENDS], capture_output=True, text=True, timeout=50, check=False
    )
    assert ended.returncode == 1
    assert "nothing reads from the network any more" in ended.stdout + ended.stderr
    assert "MemoryError" in ended.stdout + ended.stderr


def test_a_reader_that_does_not_come_round_is_silent(monkeypatch: pytest.MonkeyPatch) -> None:
    begun, release = threading.Event(), threading.Event()

    def begin(request: bytes, caller: Caller, told: Told) -> None:
        begun.set()
        assert release.wait(60)
        told(Outcome(request, "OK", ""))

    now_s = 1000.0
    monkeypatch.setattr(pulse, "time", SimpleNamespace(monotonic=lambda: now_s))
    server = reading_server(ThreadPoolExecutor(1))
    assert silent_s(server) == 0  # it has not begun
    handler = grpc.unary_unary_rpc_method_handler(DeferredMethod(begin), _checked, _checked)
    server.add_registered_method_handlers(SERVICE, {METHOD: handler})
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        answer = _call(channel).future(b"x")
        assert begun.wait(60)
        assert silent_s(server) == 0
        now_s += 100
        assert silent_s(server) == 100
        release.set()
        assert answer.result(60) == b"x"
    for _ in range(2):  # it comes round with nothing to read, too
        now_s += 100
        assert any(_soon(lambda: silent_s(server) == 0))
    server.stop(None)
    now_s += 100
    assert silent_s(server) == 0


def test_a_server_stops_where_the_system_has_no_more_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    server = reading_server(ThreadPoolExecutor(1))
    server.start()

    def fail(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", fail)
    assert server.stop(60).wait(20)
