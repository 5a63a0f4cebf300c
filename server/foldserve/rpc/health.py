"""grpc.health.v1 for the server as a whole and for each model.

gRPC's own servicer sends to its watchers while it holds its lock: one that does not read keeps everybody from
asking, and one that leaves in that moment brings the thread to a halt that reads from the network.
"""

import threading
from collections.abc import Iterator
from queue import SimpleQueue

import grpc
from grpc_health.v1 import health_pb2_grpc
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse

MOST_WATCHERS = 1000
"""Each holds a thread, which waits for changes and for its caller to read them."""

LONGEST_NAME = 1000
"""Characters of a name that may be asked for; a watcher's is kept for as long as it watches."""

Status = int
"""A value of ``HealthCheckResponse.ServingStatus``."""


class Health(health_pb2_grpc.HealthServicer):
    """Tells the status of the server (empty name), a service or a model to those who ask or watch."""

    def __init__(self) -> None:
        self._statuses: dict[str, Status] = {}
        self._watchers: dict[SimpleQueue[Status | None], str] = {}
        """By what each is told, None for the end: the name that it watches."""

        self._lock = threading.Lock()
        self._has_left = self._is_over = False

    def Check(self, request: HealthCheckRequest, context: grpc.ServicerContext) -> HealthCheckResponse:
        """The status now; NOT_FOUND for a name that nobody has told anything of."""
        _check_name(request, context)
        status = self._statuses.get(request.service)
        if status is None:
            context.abort(grpc.StatusCode.NOT_FOUND, f"nothing is served under '{request.service[:100]}'")
        return HealthCheckResponse(status=status)

    def Watch(
        self, request: HealthCheckRequest, context: grpc.ServicerContext
    ) -> Iterator[HealthCheckResponse]:
        """Tell the status now and at each change, until the caller or the server goes."""
        _check_name(request, context)
        changes: SimpleQueue[Status | None] = SimpleQueue()
        if not self._add(changes, request.service):
            text = f"{MOST_WATCHERS} callers watch the server's health, the most at a time; ask instead"
            context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, text)
        try:
            if context.add_callback(lambda: changes.put(None)):
                while (status := changes.get()) is not None:
                    yield HealthCheckResponse(status=status)
        finally:
            with self._lock:
                del self._watchers[changes]

    def tell(self, name: str, serving: bool) -> None:
        """Set the status of a name; once the server has left, nothing changes that."""
        with self._lock:
            if not self._has_left:
                self._set(name, HealthCheckResponse.SERVING if serving else HealthCheckResponse.NOT_SERVING)

    def leave(self) -> None:
        """Tell whoever asks or watches that nothing serves any more."""
        with self._lock:
            self._has_left = True
            for name in self._statuses:
                self._set(name, HealthCheckResponse.NOT_SERVING)

    def end_watches(self) -> None:
        """End the stream of every watcher, and of those whose call is only about to begin."""
        with self._lock:
            self._is_over = True
            for changes in self._watchers:
                changes.put(None)

    def _add(self, changes: SimpleQueue[Status | None], name: str) -> bool:
        """Take in a watcher, if there is room."""
        with self._lock:
            if len(self._watchers) >= MOST_WATCHERS:
                return False
            self._watchers[changes] = name
            changes.put(self._statuses.get(name, HealthCheckResponse.SERVICE_UNKNOWN))
            if self._is_over:
                changes.put(None)
        return True

    def _set(self, name: str, status: Status) -> None:
        if self._statuses.get(name) == status:
            return
        self._statuses[name] = status
        for changes, watched in self._watchers.items():
            if watched == name:
                changes.put(status)


def _check_name(request: HealthCheckRequest, context: grpc.ServicerContext) -> None:
    if len(request.service) > LONGEST_NAME:
        context.abort(grpc.StatusCode.INVALID_ARGUMENT, f"a name has {LONGEST_NAME} characters at most")
