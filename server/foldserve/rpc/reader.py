"""A gRPC server that gives deferred methods no threads: the one that reads from the network begins them.

gRPC's Python server gives every call a thread of its pool until it is answered, and wakes that thread twice:
for the call and for its message. Batches would wake it a third time, and a small model takes less time than
those changes of thread. Here the thread that reads hands the request over, and whoever has the answer sends
it. What takes no longer than to wake another thread, the reading thread does itself, once nothing is left to
read (:func:`when_idle`).

gRPC offers no such thing for unary calls, so this module and :mod:`foldserve.rpc.deferred_call` use parts of
it that are not public: what ``grpc._server`` does with the events of its completion queue. All are checked at
import; a grpcio without one of them serves deferred methods from the pool, as it serves everything else.
"""

import os
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
from grpc import _server
from grpc._cython import cygrpc  # type: ignore[attr-defined]  # compiled, without stubs

from foldserve.observability.logging import get_logger
from foldserve.rpc.calls import DeferredMethod
from foldserve.rpc.deferred_call import DeferredCall
from foldserve.rpc.message_first import Awaited
from foldserve.rpc.pulse import Pulse
from foldserve.runtime.preemption import polite_threads

log = get_logger()

LONGEST_DELAY_S = 1e-3
"""What the reading thread has put off, it does after so many seconds even if there is more to read."""

LOOK_EVERY_S = 1.0
"""How often the reading thread looks whether its server was forgotten, in seconds."""

HAS_PARTS = all(
    hasattr(_server, name)
    for name in (
        "_REQUEST_CALL_TAG",
        "_Server",
        "_ServerStage",
        "_begin_shutdown_once",
        "_process_event_and_continue",
        "_request_call",
        "_request_registered_call",
        "_stop_serving",
    )
)
"""Whether this grpcio has the parts that calls are taken apart with."""

Later = Callable[[Callable[[], None]], None]
"""Has something done a little later."""

_of_thread = threading.local()


def when_idle() -> Later | None:
    """How to have something done by this thread once it has nothing to read; None if it never reads."""
    return getattr(_of_thread, "later", None)


def reading_server(
    pool: ThreadPoolExecutor,
    *,
    most_calls: int | None = None,
    options: Sequence[tuple[str, Any]] = (),
    interceptors: Sequence[grpc.ServerInterceptor] = (),
) -> grpc.Server:
    """A server of ``most_calls`` calls at once, where ``pool`` runs all methods but the deferred ones.

    Nor are ``interceptors`` asked about those: they see to refusals themselves.
    """
    if not HAS_PARTS:
        return grpc.server(
            pool, interceptors=list(interceptors), maximum_concurrent_rpcs=most_calls, options=options
        )

    class ReadingServer(_server._Server):
        pulse = Pulse()

        def start(self) -> None:
            _start(self._state, self.pulse)

        def stop(self, grace: float | None) -> threading.Event:
            try:
                return super().stop(grace)
            except RuntimeError:  # the system has no thread for the time of grace
                log.exception("the calls that are in work end at once")
                return super().stop(None)

    # gRPC's own threads hand over what they read, and may wait for the one that takes it.
    with polite_threads():
        return ReadingServer(pool, (), interceptors, options, most_calls, None, False)


def silent_s(server: grpc.Server) -> float:
    """For how long the thread that reads for ``server`` has not come round, in seconds; 0 if none has to."""
    pulse, state = getattr(server, "pulse", None), getattr(server, "_state", None)
    if pulse is None or state is None or state.stage is _server._ServerStage.STOPPED:
        return 0.0
    return float(pulse.silent_s())


def dismiss(server: grpc.Server, text: str) -> None:
    """End whatever deferred call of ``server`` is not answered, UNAVAILABLE; its answer then goes nowhere."""
    state = getattr(server, "_state", None)
    if HAS_PARTS and state is not None:
        with state.lock:
            calls = [call for call in state.rpc_states if isinstance(call, DeferredCall)]
        for call in calls:
            call.end(cygrpc.StatusCode.unavailable, text.encode())


def _start(state: Any, pulse: Pulse) -> None:
    """What ``grpc._server._start`` does, with a reader of ours."""
    with state.lock:
        if state.stage is not _server._ServerStage.STOPPED:
            raise ValueError("the server has been started before")
        state.server.start()
        state.stage = _server._ServerStage.STARTED
        for method in state.registered_method_handlers:
            _server._request_registered_call(state, method)
        _server._request_call(state)
    threading.Thread(target=_Reader(state, pulse).run, name="reader", daemon=True).start()


class _Reader:
    """Takes one event of the network after the other, until the server has stopped."""

    def __init__(self, state: Any, pulse: Pulse) -> None:
        self._state = state
        self._pulse = pulse
        self._deferred = {
            name: handler
            for name, handler in state.registered_method_handlers.items()
            if isinstance(handler.unary_unary, DeferredMethod)
        }
        self._awaited = Awaited()
        self._put_off: list[Callable[[], None]] = []
        self._due_s = 0.0

    def run(self) -> None:
        """Work until the server has stopped; without a reader, nobody would ever be answered again."""
        _of_thread.later = self._later
        try:
            self._read()
        except BaseException:
            log.critical("nothing reads from the network any more: the process ends", exc_info=True)
            os._exit(1)

    def _read(self) -> None:
        state, deferred, pulse = self._state, self._deferred, self._pulse
        goes_on = True
        while goes_on:
            event = state.completion_queue.poll(0 if self._put_off else time.time() + LOOK_EVERY_S)
            pulse.beats = True
            if state.server_deallocated:
                _server._begin_shutdown_once(state)
            try:
                if event.completion_type == cygrpc.CompletionType.queue_timeout:
                    self._catch_up()
                elif event.tag in deferred:
                    goes_on = self._take(event, deferred[event.tag])
                else:
                    goes_on = _server._process_event_and_continue(state, event)
            except Exception:
                log.exception("the thread that reads from the network could not deal with an event")
                goes_on = self._ask_again(event.tag)
            del event  # while it lives so does its call, and the queue of one that is shut down would spin
            if self._put_off and time.monotonic() > self._due_s:
                self._catch_up()

    def _later(self, do: Callable[[], None]) -> None:
        if not self._put_off:
            self._due_s = time.monotonic() + LONGEST_DELAY_S
        self._put_off.append(do)

    def _catch_up(self) -> None:
        put_off, self._put_off = self._put_off, []
        for do in put_off:
            try:
                do()
            except Exception:
                log.exception("the thread that reads from the network could not do what it put off")

    def _ask_again(self, tag: Any) -> bool:
        """Await the next call where the last one failed; whether there may be one."""
        state = self._state
        with state.lock:
            if state.stage is not _server._ServerStage.STARTED:
                return not _server._stop_serving(state)
            if tag not in state.due:
                if tag is _server._REQUEST_CALL_TAG:
                    _server._request_call(state)
                elif tag in state.registered_method_handlers:
                    _server._request_registered_call(state, tag)
            return True

    def _take(self, event: Any, handler: Any) -> bool:
        """Take the call that has arrived, and ask for the next; whether there may be one."""
        state = self._state
        refusal = handler.unary_unary.refusal(event.invocation_metadata) if event.success else None
        with state.lock:
            state.due.remove(event.tag)
            if event.success:
                call = DeferredCall(event, handler, state, self._awaited)
                state.rpc_states.add(call)
                if refusal is not None:
                    call.answer(refusal)
                else:
                    call.receive()
            if state.stage is _server._ServerStage.STARTED:
                _server._request_registered_call(state, event.tag)
                return True
            return not _server._stop_serving(state)
