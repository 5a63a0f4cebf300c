"""The gRPC server: our services, health and reflection on one port."""

import socket
from types import TracebackType
from typing import Self

from foldserve_proto import fold_service_pb2, fold_service_pb2_grpc, grpc_service_pb2, grpc_service_pb2_grpc
from grpc_health.v1 import health, health_pb2_grpc
from grpc_reflection.v1alpha import reflection, reflection_pb2_grpc

from foldserve.errors import ConfigurationError
from foldserve.observability.metrics import Metrics
from foldserve.observability.spans import Spans
from foldserve.rpc.counted import counted
from foldserve.rpc.fold import FoldServicer
from foldserve.rpc.health import Health
from foldserve.rpc.message_first import MessageFirstPool
from foldserve.rpc.outcome import Outcomes
from foldserve.rpc.reader import dismiss, reading_server
from foldserve.rpc.reflection import Reflection
from foldserve.rpc.servicer import InferenceServicer
from foldserve.serving.manager import ModelManager
from foldserve.serving.model_control import ModelController
from foldserve.settings import ServerSettings

INFERENCE_SERVICE = grpc_service_pb2.DESCRIPTOR.services_by_name["GRPCInferenceService"].full_name
FOLD_SERVICE = fold_service_pb2.DESCRIPTOR.services_by_name["FoldService"].full_name
RESERVED_FOR_WATCHES = 64
"""Streams of health watchers hold no thread, but gRPC counts them."""

STOPPING = "the server stops, and its drain time-out has passed; send this to another one"
LAST_WORDS_S = 1.0
"""Time to say so; then gRPC cancels what is left."""

SERVER_HEALTH = ("", INFERENCE_SERVICE)
"""Health names that stand for the server as a whole; every other name is a model's."""


class GrpcServer:
    """Listens from ``__enter__`` to ``stop``; health follows what it is told."""

    def __init__(
        self,
        settings: ServerSettings,
        manager: ModelManager,
        controller: ModelController,
        metrics: Metrics,
        spans: Spans | None,
    ) -> None:
        self._health = Health()
        outcomes = Outcomes(metrics.requests, manager.labels, spans)
        workers = settings.grpc_workers + settings.max_streams
        self._server = reading_server(
            MessageFirstPool(workers, "rpc", most=workers),
            # One more than there are threads would wait unseen, without a deadline.
            most_calls=workers + RESERVED_FOR_WATCHES,
            options=[
                ("grpc.max_receive_message_length", settings.max_message_bytes),
                ("grpc.max_send_message_length", settings.max_message_bytes),
                ("grpc.so_reuseport", 0),
                *_connection_age(settings.max_connection_age_s),
            ],
        )
        self._inference = InferenceServicer(settings, manager, controller, metrics.requests, outcomes)
        grpc_service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(
            counted(self._inference, outcomes), self._server
        )
        fold_service_pb2_grpc.add_FoldServiceServicer_to_server(
            counted(FoldServicer(manager), outcomes), self._server
        )
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        services = (INFERENCE_SERVICE, FOLD_SERVICE, health.SERVICE_NAME, reflection.SERVICE_NAME)
        reflection_pb2_grpc.add_ServerReflectionServicer_to_server(Reflection(services), self._server)
        self.port = self._listen(settings)

    def set_ready(self, ready: bool) -> None:
        """Tell health whether the server as a whole serves."""
        for name in SERVER_HEALTH:
            self._health.tell(name, ready)

    def set_model_ready(self, model: str, ready: bool) -> None:
        """Tell health whether a model serves."""
        self._health.tell(model, ready)

    def leave(self) -> None:
        """Tell health that nothing serves any more; RPCs are taken and answered as before."""
        self._health.leave()

    def stop(self, grace_s: float) -> None:
        """Refuse new RPCs, let the running ones finish for ``grace_s`` seconds, then end them UNAVAILABLE."""
        self._health.leave()
        self._inference.refuse_those_that_come()
        stopped = self._server.stop(grace_s + LAST_WORDS_S)
        self._health.end_watches()
        self._inference.stop_streams()
        if not stopped.wait(grace_s):
            self._inference.abandon_streams()
            dismiss(self._server, STOPPING)
            stopped.wait()

    def __enter__(self) -> Self:
        self.set_ready(False)
        self._server.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.stop(0).wait()

    def _listen(self, settings: ServerSettings) -> int:
        host = f"[{settings.host}]" if ":" in settings.host else settings.host
        address = f"{host}:{settings.grpc_port}"
        try:
            return self._server.add_insecure_port(address)
        except RuntimeError as error:
            raise ConfigurationError(
                f"gRPC cannot listen on {address}: {_why_not(settings) or error}; mend --host, or take "
                f"another port: --grpc-port 0 picks a free one"
            ) from None


def _connection_age(most_s: float | None) -> list[tuple[str, int]]:
    """When callers are told to connect anew, in gRPC's options; their calls in flight finish."""
    return [] if most_s is None else [("grpc.max_connection_age_ms", round(1000 * most_s))]


def _why_not(settings: ServerSettings) -> str:
    """What the system says of an address that gRPC cannot take, for it does not say; empty if nothing."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            settings.host, settings.grpc_port, type=socket.SOCK_STREAM
        )[0]
        with socket.socket(family, kind, protocol) as attempt:
            attempt.bind(address)
    except OSError as error:
        return error.strerror or str(error)
    return ""
