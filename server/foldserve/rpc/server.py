"""The gRPC server: our services, health and reflection on the public port and on that for management."""

import time
from types import TracebackType
from typing import Self

import grpc
from foldserve_proto import fold_service_pb2, fold_service_pb2_grpc, grpc_service_pb2, grpc_service_pb2_grpc
from grpc_health.v1 import health, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from foldserve.observability.metrics import Metrics
from foldserve.observability.spans import Spans
from foldserve.rpc.counted import counted
from foldserve.rpc.fold import FoldServicer
from foldserve.rpc.guard import Guard
from foldserve.rpc.health import MOST_WATCHERS, Health
from foldserve.rpc.listening import listen
from foldserve.rpc.message_first import MessageFirstPool
from foldserve.rpc.outcome import Outcomes
from foldserve.rpc.reader import dismiss, reading_server, silent_s
from foldserve.rpc.reflection import MOST_LOOKING_AROUND, add_reflection
from foldserve.rpc.security import Security
from foldserve.rpc.servicer import InferenceServicer
from foldserve.serving.manager import ModelManager
from foldserve.serving.model_control import ModelController
from foldserve.settings import ServerSettings
from foldserve.settings.addresses import PUBLIC, host_and_port, joined

INFERENCE_SERVICE = grpc_service_pb2.DESCRIPTOR.services_by_name["GRPCInferenceService"].full_name
FOLD_SERVICE = fold_service_pb2.DESCRIPTOR.services_by_name["FoldService"].full_name
MANAGEMENT_WORKERS = 64
"""Requests that the management port holds at once, loads that take minutes included."""

STOPPING = "the server stops, and its drain time-out has passed; send this to another one"
LAST_WORDS_S = 1.0
"""Time to say so; then gRPC cancels what is left."""

LAST_WAIT_S = 5.0
"""For threads that nothing ends: no run of the engine can be broken off, and the process ends anyway."""

LONGEST_SILENCE_S = 30.0
"""A thread that reads from the network comes round each second; one that has not for so long never will."""

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
        self._security = Security(settings, metrics)
        self._outcomes = Outcomes(metrics.requests, manager.labels, spans)
        self._inference = InferenceServicer(settings, manager, controller, metrics.requests, self._outcomes)
        self._fold = FoldServicer(manager)
        self._options = [
            ("grpc.max_receive_message_length", settings.max_message_bytes),
            ("grpc.max_send_message_length", settings.max_message_bytes),
            ("grpc.so_reuseport", 0),
            *_connection_age(settings.max_connection_age_s),
        ]
        self._servers: list[grpc.Server] = []
        managed_at = None
        if settings.management_address != PUBLIC:
            server = self._assembled("management", MANAGEMENT_WORKERS, elsewhere=None)
            way_out = "take another management_address: 127.0.0.1:0 picks a free port"
            managed_at = self._listen(server, settings.management_address, way_out)
        public = self._assembled("rpc", settings.grpc_workers + settings.max_streams, elsewhere=managed_at)
        way_out = "mend --host, or take another port: --grpc-port 0 picks a free one"
        address = self._listen(public, joined(settings.host, settings.grpc_port), way_out)
        self.port = host_and_port(address)[1]
        self.management_address = managed_at or address

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

    def not_live(self) -> str:
        """Why only a new start would help; empty where nothing is known."""
        silent = max(silent_s(server) for server in self._servers)
        if silent < LONGEST_SILENCE_S:
            return ""
        return f"gRPC has read nothing for {silent:.0f} s"

    def stop(self, grace_s: float) -> None:
        """Refuse new RPCs, let the running ones finish for ``grace_s`` seconds, then end them UNAVAILABLE."""
        self._health.leave()
        self._inference.refuse_those_that_come()
        stopped = [server.stop(grace_s + LAST_WORDS_S) for server in self._servers]
        self._health.end_watches()
        self._inference.stop_streams()
        deadline = time.monotonic() + grace_s
        if not all(one.wait(max(deadline - time.monotonic(), 0)) for one in stopped):
            self._inference.abandon_streams()
            for server in self._servers:
                dismiss(server, STOPPING)
            for one in stopped:
                one.wait(LAST_WAIT_S)

    def __enter__(self) -> Self:
        self.set_ready(False)
        self._security.start()
        for server in self._servers:
            server.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for stopped in [server.stop(0) for server in self._servers]:
            stopped.wait(LAST_WAIT_S)
        self._security.close()

    def _assembled(self, name: str, workers: int, elsewhere: str | None) -> grpc.Server:
        """All services for one port; ``elsewhere`` is where the server is managed, if not there."""
        access = self._security.access(elsewhere)
        server = reading_server(
            # One more than there are threads would wait unseen, without a deadline.
            MessageFirstPool(workers + MOST_WATCHERS + MOST_LOOKING_AROUND, name, most=workers),
            most_calls=workers + MOST_LOOKING_AROUND,
            options=self._options,
            interceptors=[Guard(access, self._outcomes)],
        )
        grpc_service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(
            counted(self._inference, self._outcomes, access), server
        )
        fold_service_pb2_grpc.add_FoldServiceServicer_to_server(
            counted(self._fold, self._outcomes, access), server
        )
        health_pb2_grpc.add_HealthServicer_to_server(self._health, server)
        services = (INFERENCE_SERVICE, FOLD_SERVICE, health.SERVICE_NAME, reflection.SERVICE_NAME)
        add_reflection(services, server)
        self._servers.append(server)
        return server

    def _listen(self, server: grpc.Server, address: str, way_out: str) -> str:
        return listen(server, address, self._security.credentials(), way_out)


def _connection_age(most_s: float | None) -> list[tuple[str, int]]:
    """When callers are told to connect anew, in gRPC's options; their calls in flight finish."""
    return [] if most_s is None else [("grpc.max_connection_age_ms", round(1000 * most_s))]
