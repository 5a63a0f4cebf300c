"""Model control: which model versions there are, and in what state."""

import grpc
from foldserve_proto import grpc_service_pb2 as pb
from foldserve_proto import grpc_service_pb2_grpc as service

from foldserve.serving.lifecycle import State
from foldserve.serving.manager import ModelManager

TRITON_STATES = {
    State.NEW: "LOADING",
    State.LOADING: "LOADING",
    State.FOLDING: "LOADING",
    State.PROVING: "LOADING",
    State.WARMING: "LOADING",
    State.READY: "READY",
    State.DRAINING: "UNLOADING",
    State.UNLOADED: "UNAVAILABLE",
    State.FAILED: "UNAVAILABLE",
}
"""What RepositoryIndex calls our states."""


class RepositoryMethods(service.GRPCInferenceServiceServicer):
    """The methods around the model repositories."""

    def __init__(self, manager: ModelManager) -> None:
        self._manager = manager

    def RepositoryIndex(
        self, request: pb.RepositoryIndexRequest, context: grpc.ServicerContext
    ) -> pb.RepositoryIndexResponse:
        """Every known model version, its state and why it failed; only what serves if asked for ``ready``."""
        response = pb.RepositoryIndexResponse()
        for entry in self._manager.entries():
            state = entry.lifecycle.state
            if state is State.READY or not request.ready:
                response.models.add(
                    name=entry.source.name,
                    version=str(entry.source.version),
                    state=TRITON_STATES[state],
                    reason=entry.lifecycle.reason,
                )
        return response
