"""Calls get a thread, and a place among those in work, once their message is there.

gRPC's Python server gives them both when the headers have come: a few hundred calls whose messages never
follow would keep everybody else out, for ever and from a single connection. Here such a call holds nothing
but its own memory, and where there are too many of them, the oldest makes room: a caller who means it has
sent the message long before.

Like :mod:`foldserve.rpc.reader` this uses parts of ``grpc._server`` that are not public, for gRPC has no hook
there; a grpcio without one of them hands out threads as ever.
"""

import threading
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from grpc import _server
from grpc._cython import cygrpc  # type: ignore[attr-defined]  # compiled, without stubs

MOST_AWAITED = 1000
"""Calls whose message may be missing at the same time."""

TOO_MANY_AWAITED = "this call brought no message while a thousand later ones came; send it again"
TOO_MANY_AT_WORK = "the server has as many calls in work as it takes; retry later"
NO_THREAD = "the system gives the server no more threads; retry later"

SMALL_BYTES = 64 * 1024
"""The most that a message may have of a method that is open to strangers."""

TOO_LARGE = object()
"""Stands for a message that was not parsed."""

NO_FLAGS = 0

HAS_PARTS = all(
    hasattr(_server, name)
    for name in (
        "_RECEIVE_MESSAGE_TOKEN",
        "_abort",
        "_is_rpc_state_active",
        "_receive_message",
        "_unary_request",
        "_unary_response_in_pool",
    )
)
"""Whether this grpcio has the parts that calls are held back with."""


class Awaited:
    """Calls that lack their message, with what ends each of them; any thread may use it."""

    def __init__(self, most: int = MOST_AWAITED) -> None:
        self._most = most
        self._calls: OrderedDict[object, Callable[[], None]] = OrderedDict()
        self._lock = threading.Lock()

    def add(self, call: object, end: Callable[[], None]) -> None:
        """Wait for the message of a call; the oldest one ends where there are too many."""
        with self._lock:
            self._calls[call] = end
            end_oldest = self._calls.popitem(last=False)[1] if len(self._calls) > self._most else None
        if end_oldest is not None:
            end_oldest()

    def remove(self, call: object) -> None:
        """The message of a call has come, or never will; unknown calls are passed over."""
        with self._lock:
            self._calls.pop(call, None)


def small(deserialise: Callable[[bytes], Any]) -> Callable[[bytes], Any]:
    """A method's deserialiser with which calls that bring more than ``SMALL_BYTES`` are refused."""
    return lambda content: deserialise(content) if len(content) <= SMALL_BYTES else TOO_LARGE


class MessageFirstPool(ThreadPoolExecutor):
    """The threads of a gRPC server, for calls whose message is there; streams bring theirs later.

    ``most`` unary calls may be in work; further ones are refused. How many streams there may be, is for those
    to say who answer them.
    """

    def __init__(self, threads: int, name: str, *, most: int) -> None:
        super().__init__(threads, name)
        self._awaited = Awaited()
        self._most = most
        self._at_work = 0
        self._at_work_lock = threading.Lock()
        self._lacks_thread = False

    def submit(self, run: Callable[..., Any], /, *work: Any, **named: Any) -> Any:
        """What ``grpc._server`` does with each call that has come; None for one that lacks its message."""
        if not HAS_PARTS or len(work) < 6:
            return super().submit(run, *work, **named)
        if not _takes_one_message(work[4]):
            return self._run(run, *work)
        respond, event, state, behaviour, _, deserialise, *others = work
        received = _server._receive_message(state, event.call, deserialise)
        is_counted = respond is _server._unary_response_in_pool

        def came(message: Any) -> Any:
            self._awaited.remove(state)
            ended = received(message)
            with state.condition:
                request, state.request = state.request, None
                refusal = self._refusal(request, is_counted=is_counted)
                if _server._is_rpc_state_active(state) and refusal is not None:
                    _server._abort(state, event.call, *refusal)
            if refusal is None:
                work = (respond, event, state, behaviour, lambda: request, deserialise, *others)
                done = self._run(run, *work)
                if is_counted:
                    done.add_done_callback(self._discount)
            return ended

        state.due.add(_server._RECEIVE_MESSAGE_TOKEN)
        event.call.start_server_batch((cygrpc.ReceiveMessageOperation(NO_FLAGS),), came)
        self._awaited.add(state, lambda: _give_up(state, event.call))
        return None

    def _run(self, run: Callable[..., Any], *work: Any) -> "Future[Any]":
        """Give a call a thread; one for which the system has none ends, and its future is cancelled."""
        self._lacks_thread = False
        done = super().submit(run, *work)
        if self._lacks_thread and done.cancel():
            _, event, state, *_ = work
            with state.condition:
                if _server._is_rpc_state_active(state):
                    _server._abort(
                        state, event.call, cygrpc.StatusCode.resource_exhausted, NO_THREAD.encode()
                    )
        return done

    def _adjust_thread_count(self) -> None:
        """Where this raises, ``submit`` has queued the call already, and could not say which."""
        try:
            super()._adjust_thread_count()
        except RuntimeError:
            self._lacks_thread = True

    def _refusal(self, request: Any, *, is_counted: bool) -> tuple[Any, bytes] | None:
        """Why a call gets no thread; None if it does, and then it counts, if such calls do."""
        if request is None:
            return cygrpc.StatusCode.unimplemented, b"a message is missing"
        if request is TOO_LARGE:
            text = f"this method takes messages of {SMALL_BYTES} bytes at most"
            return cygrpc.StatusCode.invalid_argument, text.encode()
        with self._at_work_lock:
            if is_counted and self._at_work >= self._most:
                return cygrpc.StatusCode.resource_exhausted, TOO_MANY_AT_WORK.encode()
            self._at_work += is_counted
        return None

    def _discount(self, _done: "Future[Any]") -> None:
        with self._at_work_lock:
            self._at_work -= 1


def _takes_one_message(argument: Any) -> bool:
    """Whether a method's argument is what waits for a call's only message."""
    return bool(getattr(argument, "__qualname__", "").startswith(_server._unary_request.__name__))


def _give_up(state: Any, call: Any) -> None:
    with state.condition:
        if _server._is_rpc_state_active(state):
            _server._abort(state, call, cygrpc.StatusCode.resource_exhausted, TOO_MANY_AWAITED.encode())
