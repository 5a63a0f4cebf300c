"""One call of a deferred method: begun by the thread that reads, answered by whoever has the answer.

Like :mod:`foldserve.rpc.reader`, which checks that they are there, it uses parts of gRPC that are not public.
"""

import threading
import time
from collections.abc import Callable
from typing import Any

import grpc
from grpc import _common
from grpc._cython import cygrpc  # type: ignore[attr-defined]  # compiled, without stubs

from foldserve.observability.logging import get_logger
from foldserve.rpc.message_first import TOO_MANY_AWAITED, Awaited
from foldserve.rpc.outcome import Outcome

log = get_logger()

NO_FLAGS = 0
UNCOUNTED: tuple[Any, tuple[()]] = (None, ())
"""What ``grpc._server`` is told of an event that does not end its call."""


class DeferredCall:
    """A call of a deferred method, and who waits for its answer (:class:`~foldserve.rpc.outcome.Caller`).

    The methods for events return what ``grpc._server`` expects: the call with its last event, else nothing.
    """

    __slots__ = (
        "_awaited",
        "_call",
        "_deadline",
        "_handler",
        "_has_method",
        "_is_answered",
        "_is_cancelled",
        "_is_counted",
        "_lock",
        "_metadata",
        "_operations",
        "_server",
    )

    def __init__(self, event: Any, handler: Any, server: Any, awaited: Awaited) -> None:
        self._awaited = awaited
        self._call = event.call
        self._deadline: float = event.call_details.deadline
        self._metadata: tuple[tuple[str, str | bytes], ...] = event.invocation_metadata
        self._handler = handler
        self._server = server
        self._lock = threading.Lock()
        self._operations = 0
        self._has_method = self._is_answered = self._is_cancelled = self._is_counted = False
        self._begin((cygrpc.ReceiveCloseOnServerOperation(NO_FLAGS),), self._closed)

    def is_active(self) -> bool:
        """Whether somebody waits still."""
        return not (self._is_answered or self._is_cancelled)

    def time_remaining(self) -> float:
        """Seconds until the deadline; infinity where there is none."""
        return max(self._deadline - time.time(), 0.0)

    def invocation_metadata(self) -> tuple[tuple[str, str | bytes], ...]:
        """What came with the call, by lower-case names."""
        return self._metadata

    def receive(self) -> None:
        """Ask for the message."""
        self._begin((cygrpc.ReceiveMessageOperation(NO_FLAGS),), self._received)
        too_many = cygrpc.StatusCode.resource_exhausted, TOO_MANY_AWAITED.encode()
        self._awaited.add(self, lambda: self.end(*too_many))

    def answer(self, outcome: Outcome) -> None:
        """End the call as its method says; any thread may."""
        try:
            if outcome.response is None:
                code = _common.STATUS_CODE_TO_CYGRPC_STATUS_CODE[grpc.StatusCode[outcome.code]]
                self.end(code, outcome.text.encode(), outcome.metadata)
            else:
                content = self._handler.response_serializer(outcome.response)
                self.end(cygrpc.StatusCode.ok, b"", None, cygrpc.SendMessageOperation(content, NO_FLAGS))
        except Exception:
            self._give_up()
        self._leave()

    def end(self, code: Any, text: bytes, metadata: Any = None, *message: Any) -> None:
        """Send a status, unless the call is over: after the message, if there is one."""
        with self._lock:
            if self.is_active():
                self._is_answered = True
                first = cygrpc.SendInitialMetadataOperation(None, NO_FLAGS)
                last = cygrpc.SendStatusFromServerOperation(metadata, code, text, NO_FLAGS)
                self._begin((first, *message, last), self._sent)

    def _begin(self, operations: tuple[Any, ...], ended: Callable[[Any], tuple[Any, tuple[()]]]) -> None:
        self._call.start_server_batch(operations, ended)
        self._operations += 1

    def _received(self, event: Any) -> tuple[Any, tuple[()]]:
        self._awaited.remove(self)
        content = event.batch_operations[0].message()
        if not self.is_active():
            return self._ended()
        if content is None:
            self.end(cygrpc.StatusCode.unimplemented, b"a message is missing")
            return self._ended()
        request = _common.deserialize(content, self._handler.request_deserializer)
        del content
        if request is None:
            self.end(cygrpc.StatusCode.internal, b"Exception deserializing request!")
            return self._ended()
        if not self._counts():
            self.end(cygrpc.StatusCode.resource_exhausted, b"Concurrent RPC limit exceeded!")
            return self._ended()
        self._has_method = True
        try:
            self._handler.unary_unary.begin(request, self, self.answer)
        except Exception:
            self._give_up()
            self._leave()
        return self._ended()

    def _closed(self, event: Any) -> tuple[Any, tuple[()]]:
        if event.batch_operations[0].cancelled():
            self._is_cancelled = True
        return self._ended()

    def _sent(self, _event: Any) -> tuple[Any, tuple[()]]:
        return self._ended()

    def _ended(self) -> tuple[Any, tuple[()]]:
        with self._lock:
            self._operations -= 1
            if self._operations or self.is_active():
                return UNCOUNTED
            is_done = not self._has_method
        if is_done:
            self._discount()
        return self, ()

    def _leave(self) -> None:
        """The method is done with the call, which may have been over long before."""
        with self._lock:
            self._has_method = False
            is_done = not self._operations
        if is_done:
            self._discount()

    def _counts(self) -> bool:
        """Count as one in work from now on; False if the server has as many as it takes."""
        server = self._server
        with server.lock:
            most = server.maximum_concurrent_rpcs
            self._is_counted = most is None or server.active_rpc_count < most
            server.active_rpc_count += self._is_counted
        return self._is_counted

    def _discount(self) -> None:
        if self._is_counted:
            with self._server.lock:
                self._server.active_rpc_count -= 1

    def _give_up(self) -> None:
        """End the call: whoever called this one serves others too, and could do no more about it."""
        log.exception("a call could not be answered")
        self._call.cancel()
