"""grpc.health.v1 for the server as a whole and for each model."""

import threading
from collections.abc import Callable
from typing import Any

import grpc
from grpc_health.v1 import health
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse

from foldserve.rpc.message_first import MessageFirstPool

WATCHER_THREADS = 4

SendResponse = Callable[[HealthCheckResponse | None], None]


class Health(health.HealthServicer):
    """gRPC's own servicer, whose watchers do not keep a stopping server waiting."""

    def __init__(self) -> None:
        super().__init__(
            experimental_non_blocking=True,
            experimental_thread_pool=MessageFirstPool(WATCHER_THREADS, "health"),
        )
        self._watchers: set[SendResponse] = set()
        self._watchers_lock = threading.Lock()
        self._is_over = False

    def Watch(
        self,
        request: HealthCheckRequest,
        context: grpc.ServicerContext,
        send_response_callback: Callable[..., Any] | None = None,
    ) -> Any:
        """Tell the status now and at each change, until the caller or the server goes."""
        assert send_response_callback is not None  # as long as gRPC knows experimental_non_blocking
        watcher: SendResponse = send_response_callback
        with self._watchers_lock:
            self._watchers.add(watcher)
            is_over = self._is_over
        context.add_callback(lambda: self._forget(watcher))
        answer = super().Watch(request, context, send_response_callback)
        if is_over:
            watcher(None)
        return answer

    def tell(self, name: str, serving: bool) -> None:
        """Set the status of the server (empty name), a service or a model."""
        self.set(name, HealthCheckResponse.SERVING if serving else HealthCheckResponse.NOT_SERVING)

    def leave(self) -> None:
        """Tell whoever asks or watches that nothing serves any more; from now on nothing changes that."""
        self.enter_graceful_shutdown()

    def end_watches(self) -> None:
        """End the stream of every watcher, and of those whose call is only about to begin."""
        with self._watchers_lock:
            self._is_over = True
            watchers = list(self._watchers)
        for watcher in watchers:
            watcher(None)

    def _forget(self, watcher: SendResponse) -> None:
        with self._watchers_lock:
            self._watchers.discard(watcher)
