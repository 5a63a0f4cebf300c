"""Unary calls that are answered later, by whatever thread has the answer.

gRPC's Python server gives every call a thread of its pool until it is answered, and wakes that thread twice:
for the call and for its message. Batches would wake it a third time, and a small model takes less time than
those changes of thread. So ModelInfer goes another way: the thread that reads from the network hands the
request over, and the thread of the engine that has the answers sends them.

gRPC offers no such thing for unary calls, so this module, and no other, uses parts of it that are not public:
what ``grpc._server`` does with a call around the method. All of them are checked at import; a grpcio without
one of them serves ModelInfer from the pool, as it serves everything else.
"""

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial, wraps
from queue import SimpleQueue
from typing import Any, TypeVar

import grpc
from grpc import _server
from grpc._cython import cygrpc  # type: ignore[attr-defined]  # compiled, without stubs

from foldserve.observability.logging import get_logger
from foldserve.rpc.outcome import Outcome

log = get_logger()

Servicer = TypeVar("Servicer")
Request = TypeVar("Request")
Response = TypeVar("Response")

REST_S = 3e-5
"""A thread that waited for so long, in seconds, had nothing else to do."""

HAS_PARTS = all(
    hasattr(_server, name)
    for name in (
        "_Context",
        "_RECEIVE_MESSAGE_TOKEN",
        "_abort",
        "_is_rpc_state_active",
        "_receive_message",
        "_status",
        "_unary_response_in_pool",
    )
)
"""Whether this grpcio has the parts that calls are taken apart with."""


class DeferredMethod:
    """A unary method that is begun with a request and a context, and tells a callback the outcome later."""

    def __init__(self, begin: Callable[[Any, grpc.ServicerContext, Callable[[Outcome], None]], None]) -> None:
        self.begin = begin

    def __call__(self, request: Any, context: grpc.ServicerContext) -> Any:
        """Answer as other methods do, in a thread that waits."""
        outcomes: SimpleQueue[Outcome] = SimpleQueue()
        self.begin(request, context, outcomes.put)
        return outcomes.get().answer(context)


def deferred(
    begin: Callable[[Servicer, Request, grpc.ServicerContext, Callable[[Response | Exception], None]], None],
) -> Callable[[Servicer, Request, grpc.ServicerContext], Response]:
    """Make a servicer's method of a function that tells its last argument the response, or why there is none.

    ``begin_of`` finds the function again.
    """

    @wraps(begin)
    def method(self: Servicer, request: Request, context: grpc.ServicerContext) -> Response:
        response: Response = wait_for(lambda done: begin(self, request, context, done))
        return response

    return method


def begin_of(method: Any) -> Callable[..., None] | None:
    """The function behind a :func:`deferred` method of a servicer, bound to the servicer; None for others."""
    begin = getattr(method, "__wrapped__", None)
    return partial(begin, method.__self__) if begin is not None else None


def wait_for(start: Callable[[Callable[[Any], None]], None]) -> Any:
    """Start something that tells a callback what became of it, and wait for that; raises what it is told."""
    results: SimpleQueue[Any] = SimpleQueue()
    start(results.put)
    result = results.get()
    if isinstance(result, Exception):
        raise result
    return result


class CallExecutor(ThreadPoolExecutor):
    """The pool for a gRPC server, which gives deferred methods no thread of its own."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        """Run a call; gRPC submits its own function, with the call, its state and the method."""
        if HAS_PARTS and len(args) == 7 and args[0] is _server._unary_response_in_pool:
            _, event, state, method, _, deserializer, serializer = args
            if isinstance(method, DeferredMethod):
                return _begin(event, state, method, deserializer, serializer)
        return super().submit(fn, *args, **kwargs)


class _Reader(threading.local):
    """What a thread that reads from the network did since it began a call last."""

    has_rested = False
    _began_s = _worked_s = 0.0

    def begins(self) -> None:
        """See whether the thread had to wait: time went by in which it did nothing."""
        by_s = time.monotonic() - self._began_s
        self.has_rested = by_s - (time.thread_time() - self._worked_s) > REST_S

    def has_begun(self) -> None:
        """Count from now on."""
        self.has_rested = False
        self._began_s, self._worked_s = time.monotonic(), time.thread_time()


_reader = _Reader()


def is_only_call() -> bool:
    """Whether the thread that begins this call had to wait for it: then no other call is at the door."""
    return _reader.has_rested


class _Finish:
    """As much of a future as gRPC wants: to be told that a call is over, so that it counts calls.

    A whole one costs as much as parsing a request. The thread that begins a call adds the callback before it
    reads the message, so there is no race with whoever answers.
    """

    def __init__(self) -> None:
        self._reached = False
        self._callback: Callable[[Any], None] | None = None

    def add_done_callback(self, callback: Callable[[Any], None]) -> None:
        if self._reached:
            callback(self)
        else:
            self._callback = callback

    def reached(self) -> None:
        callback, self._callback = self._callback, None
        self._reached = True
        if callback is not None:
            callback(self)


def _begin(event: Any, state: Any, method: DeferredMethod, deserializer: Any, serializer: Any) -> "_Finish":
    """Receive the message, begin the method with it, send what it answers; finished when it has."""
    finish = _Finish()
    context = _server._Context(event, state, deserializer)
    take_message = _server._receive_message(state, event.call, deserializer)

    def answer(outcome: Outcome) -> None:
        try:
            content = None
            if outcome.response is None:
                outcome.tell(context)
            else:
                content = serializer(outcome.response)
            _server._status(event, state, content)
        except Exception:
            fail()
        finish.reached()

    def received(message_event: Any) -> Any:
        ended = take_message(message_event)
        request, state.request = state.request, None
        _reader.begins()
        try:
            if request is None:
                refuse_emptiness()
            else:
                method.begin(request, context, answer)
        except Exception:
            fail()
            finish.reached()
        _reader.has_begun()
        return ended

    def refuse_emptiness() -> None:
        with state.condition:
            if _server._is_rpc_state_active(state):
                _server._abort(state, event.call, cygrpc.StatusCode.unimplemented, b"a message is missing")
        finish.reached()

    def fail() -> None:
        """End the call: whoever called this one serves others too, and could do no more about it."""
        log.exception("a call could not be answered")
        context.cancel()

    with state.condition:
        if _server._is_rpc_state_active(state):
            operations: Sequence[Any] = (cygrpc.ReceiveMessageOperation(0),)
            event.call.start_server_batch(operations, received)
            state.due.add(_server._RECEIVE_MESSAGE_TOKEN)
        else:
            finish.reached()
    return finish
