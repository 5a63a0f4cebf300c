"""Model control: which model versions there are, in what state; loading and unloading on request."""

import grpc
from foldserve_proto import grpc_service_pb2 as pb
from foldserve_proto import grpc_service_pb2_grpc as service

from foldserve.errors import InvalidRequest
from foldserve.serving.lifecycle import State
from foldserve.serving.model_control import ModelController

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

FILE = "file:"
"""What the names of parameters that hold a model's file begin with."""


class RepositoryMethods(service.GRPCInferenceServiceServicer):
    """The methods around the model repositories."""

    def __init__(self, controller: ModelController) -> None:
        self._controller = controller

    def RepositoryIndex(
        self, request: pb.RepositoryIndexRequest, context: grpc.ServicerContext
    ) -> pb.RepositoryIndexResponse:
        """Every known model version, its state and why it failed; only what serves if asked for ``ready``."""
        response = pb.RepositoryIndexResponse()
        for status in self._controller.index(request.repository_name):
            if status.state is State.READY or not request.ready:
                response.models.add(
                    name=status.name,
                    version="" if status.version is None else str(status.version),
                    state=TRITON_STATES[status.state],
                    reason=status.reason,
                )
        return response

    def RepositoryModelLoad(
        self, request: pb.RepositoryModelLoadRequest, context: grpc.ServicerContext
    ) -> pb.RepositoryModelLoadResponse:
        """Load a model, or load it again; the answer comes when it serves."""
        config, files = None, {}
        for name, parameter in request.parameters.items():
            kind = parameter.WhichOneof("parameter_choice")
            if name == "config" and kind == "string_param":
                config = parameter.string_param
            elif name.startswith(FILE) and kind == "bytes_param":
                files[name.removeprefix(FILE)] = parameter.bytes_param
            else:
                raise InvalidRequest(
                    f"load parameter '{name[:100]}' as {kind} is unknown; there are 'config' as string_param "
                    f"and '{FILE}<version>/<name>' as bytes_param"
                )
        self._controller.load(
            request.model_name,
            wanted=context.is_active,
            repository=request.repository_name,
            config=config,
            files=files,
        )
        return pb.RepositoryModelLoadResponse()

    def RepositoryModelUnload(
        self, request: pb.RepositoryModelUnloadRequest, context: grpc.ServicerContext
    ) -> pb.RepositoryModelUnloadResponse:
        """Take a model out of service; requests in flight finish.

        ``unload_dependents`` is accepted: no model here depends on another.
        """
        for name in request.parameters:
            if name != "unload_dependents":
                raise InvalidRequest(
                    f"unload parameter '{name[:100]}' is unknown; there is 'unload_dependents'"
                )
        self._controller.unload(
            request.model_name, wanted=context.is_active, repository=request.repository_name
        )
        return pb.RepositoryModelUnloadResponse()
