"""A whole server in one process: models, gRPC and HTTP, from start to clean end."""

import threading
import time
from contextlib import ExitStack
from types import TracebackType
from typing import Self

from foldserve.observability.http import HttpServer
from foldserve.observability.logging import get_logger
from foldserve.observability.metrics import Metrics
from foldserve.observability.span_export import spans_to
from foldserve.rpc.server import GrpcServer
from foldserve.serving.lifecycle import State
from foldserve.serving.manager import ModelManager
from foldserve.serving.model_control import ModelController
from foldserve.settings import ServerSettings
from foldserve.status.gather import Gatherer
from foldserve.status.page import StatusPages

log = get_logger()


class Server:
    """Listens at once, loads in the background, and leaves in an order that one can read.

    Raises :class:`ConfigurationError` where it cannot start.
    """

    def __init__(self, settings: ServerSettings) -> None:
        self._settings = settings
        metrics = Metrics()
        self._manager = ModelManager(settings, metrics, self._model_ready)
        self._controller = ModelController(settings, self._manager)
        self._spans = (
            spans_to(settings.otlp_endpoint, settings.otlp_sample_rate) if settings.otlp_endpoint else None
        )
        self._grpc = GrpcServer(settings, self._manager, self._controller, metrics, self._spans)
        self._controller.discover()
        facts = Gatherer(self._manager, metrics)
        self._http_host = settings.http_host or settings.host
        self._http = HttpServer(
            self._http_host,
            settings.http_port,
            metrics.registry,
            not_live=self._grpc.not_live,
            not_ready=self._manager.not_ready,
            pages=StatusPages(facts.server, facts.model).answer,
        )
        self._loading = threading.Thread(target=self._load, name="load", daemon=True)
        self._running = ExitStack()

    @property
    def grpc_port(self) -> int:
        """The port gRPC listens on."""
        return self._grpc.port

    @property
    def management_address(self) -> str:
        """Where the server is managed, for clients to dial: the public port's address if there."""
        return self._grpc.management_address

    @property
    def http_port(self) -> int:
        """The port HTTP listens on."""
        return self._http.port

    @property
    def unfinished(self) -> bool:
        """Whether threads load or run a model still, for which Python would wait."""
        return self._manager.unfinished

    def not_ready(self) -> str:
        """Why the server is not ready; empty when it is."""
        return self._manager.not_ready()

    def __enter__(self) -> Self:
        self._running.enter_context(self._http)
        self._running.enter_context(self._grpc)
        log.info(
            "listening",
            host=self._settings.host,
            grpc_port=self.grpc_port,
            management=self.management_address,
            http_host=self._http_host,
            http_port=self.http_port,
        )
        self._loading.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Not ready → delay → no new requests → drain, by a deadline → close the models → close the ports."""
        delay_s, drain_s = self._settings.not_ready_delay_s, self._settings.drain_timeout_s
        log.info("stopping: not ready", not_ready_delay_s=delay_s)
        self._controller.stop()
        self._manager.stop_accepting()
        self._grpc.leave()
        time.sleep(delay_s)
        log.info("draining: no new requests", drain_timeout_s=drain_s)
        deadline = time.monotonic() + drain_s
        self._grpc.stop(drain_s)
        self._manager.close(deadline)
        self._running.close()
        if self._spans is not None:
            self._spans.close()
        log.info("stopped")

    def _load(self) -> None:
        self._controller.start()
        self._grpc.set_ready(True)
        ready = self._manager.ready_models()
        statuses = self._manager.statuses()
        failed = sorted({one.name for one in statuses if one.state is State.FAILED} - set(ready))
        log.info("ready", models=ready, failed=failed)

    def _model_ready(self, model: str, ready: bool) -> None:
        self._grpc.set_model_ready(model, ready)
