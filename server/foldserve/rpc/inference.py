"""KServe V2 inference: every method converts, calls, converts."""

import time

import grpc
from foldserve_proto import grpc_service_pb2 as pb
from foldserve_proto import grpc_service_pb2_grpc as service

from foldserve import __version__
from foldserve.observability.inference import RequestCollector
from foldserve.rpc import codec
from foldserve.rpc.model_config import PLATFORM, model_config
from foldserve.rpc.statistics import model_statistics
from foldserve.serving.data_plane import DataPlane, InferenceRequest
from foldserve.serving.datatypes import datatype_name
from foldserve.serving.facts import summary
from foldserve.serving.lifecycle import State
from foldserve.serving.manager import ModelManager

EXTENSIONS = ("binary_tensor_data", "model_configuration", "statistics")
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

FOREVER_S = 1e9
"""A call without a deadline has one that is centuries away."""


class InferenceServicer(service.GRPCInferenceServiceServicer):
    """The six methods of KServe V2 and some of Triton's; the others are answered UNIMPLEMENTED."""

    def __init__(self, manager: ModelManager, data_plane: DataPlane, requests: RequestCollector) -> None:
        self._manager = manager
        self._data_plane = data_plane
        self._requests = requests

    def ServerLive(
        self, request: pb.ServerLiveRequest, context: grpc.ServicerContext
    ) -> pb.ServerLiveResponse:
        """Answering is living."""
        return pb.ServerLiveResponse(live=True)

    def ServerReady(
        self, request: pb.ServerReadyRequest, context: grpc.ServicerContext
    ) -> pb.ServerReadyResponse:
        """Whether the models of the start have been tried and the server is not stopping."""
        return pb.ServerReadyResponse(ready=not self._manager.not_ready())

    def ModelReady(
        self, request: pb.ModelReadyRequest, context: grpc.ServicerContext
    ) -> pb.ModelReadyResponse:
        """Whether a model answers requests; false, not an error, for one that does not exist."""
        return pb.ModelReadyResponse(ready=self._manager.is_ready(request.name, request.version))

    def ServerMetadata(
        self, request: pb.ServerMetadataRequest, context: grpc.ServicerContext
    ) -> pb.ServerMetadataResponse:
        """Name, version and the protocol extensions that work."""
        return pb.ServerMetadataResponse(name="foldserve", version=__version__, extensions=EXTENSIONS)

    def ModelMetadata(
        self, request: pb.ModelMetadataRequest, context: grpc.ServicerContext
    ) -> pb.ModelMetadataResponse:
        """Inputs, outputs and, as properties, what is known of fold, parity and provider."""
        servable = self._manager.servable(request.name, request.version)
        response = pb.ModelMetadataResponse(
            name=servable.name,
            versions=[str(version) for version in self._manager.versions(servable.name)],
            platform=PLATFORM,
            properties={f"foldserve.{key}": str(value) for key, value in summary(servable).items()},
        )
        for specs, tensors in ((servable.inputs, response.inputs), (servable.outputs, response.outputs)):
            for spec in specs:
                tensors.add(name=spec.name, datatype=datatype_name(spec.dtype), shape=codec.wire_shape(spec))
        return response

    def ModelConfig(
        self, request: pb.ModelConfigRequest, context: grpc.ServicerContext
    ) -> pb.ModelConfigResponse:
        """The configuration that a model runs with, in Triton's form."""
        return pb.ModelConfigResponse(
            config=model_config(self._manager.servable(request.name, request.version))
        )

    def ModelStatistics(
        self, request: pb.ModelStatisticsRequest, context: grpc.ServicerContext
    ) -> pb.ModelStatisticsResponse:
        """Counts and durations of one model version, of all versions of a model, or of all models."""
        names = [request.name] if request.name else self._manager.ready_models()
        response = pb.ModelStatisticsResponse()
        for name in names:
            ready = [str(version) for version in self._manager.versions(name)]
            for version in [request.version] if request.version else ready or [""]:
                servable = self._manager.servable(name, version)
                requests = self._requests.requests(*servable.metrics.labels, "ModelInfer")
                response.model_stats.append(model_statistics(servable.metrics, requests))
        return response

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

    def ModelInfer(
        self, request: pb.ModelInferRequest, context: grpc.ServicerContext
    ) -> pb.ModelInferResponse:
        """Run one request through a model."""
        arrived = time.perf_counter()
        result = self._data_plane.infer(
            InferenceRequest(
                model=request.model_name,
                version=request.model_version,
                inputs=codec.decode_inputs(request),
                outputs=codec.requested_outputs(request),
                deadline=_deadline(context),
                cancelled=lambda: not context.is_active(),
            )
        )
        computed = time.perf_counter()
        response = pb.ModelInferResponse(
            model_name=request.model_name, model_version=str(result.servable.version), id=request.id
        )
        codec.encode_outputs(response, result.outputs, typed=codec.is_typed(request))
        result.record(
            compute_input_s=computed - arrived - result.execution.queue_s - result.execution.compute_infer_s,
            compute_output_s=time.perf_counter() - computed,
        )
        return response


def _deadline(context: grpc.ServicerContext) -> float | None:
    remaining = context.time_remaining()
    return time.monotonic() + remaining if remaining is not None and remaining < FOREVER_S else None
