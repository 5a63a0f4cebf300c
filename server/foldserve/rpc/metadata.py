"""What the server and its models are: liveness, readiness, metadata, configuration, statistics."""

import grpc
from foldserve_proto import grpc_service_pb2 as pb
from foldserve_proto import grpc_service_pb2_grpc as service

from foldserve import __version__
from foldserve.observability.inference import RequestCollector
from foldserve.rpc import codec
from foldserve.rpc.model_config import model_config
from foldserve.rpc.statistics import model_statistics
from foldserve.serving.datatypes import datatype_name
from foldserve.serving.facts import summary
from foldserve.serving.manager import ModelManager
from foldserve.serving.triton_config import PLATFORM
from foldserve.settings import ServerSettings

EXTENSIONS = (
    "binary_tensor_data",
    "classification",
    "logging",
    "model_configuration",
    "model_repository",
    "schedule_policy",
    "statistics",
)
"""Of the protocol's extensions, those that always work."""

INFERENCE = ("ModelInfer", "ModelStreamInfer")
"""The methods whose failures a model's statistics count."""

ON_DEMAND = ("system_shared_memory", "trace")
"""Those that work where the server's settings switch them on."""


def extensions(settings: ServerSettings) -> tuple[str, ...]:
    """The extensions that work on this server."""
    on = {"system_shared_memory": settings.shared_memory, "trace": settings.trace_file is not None}
    return (*EXTENSIONS, *(extension for extension in ON_DEMAND if on[extension]))


class MetadataMethods(service.GRPCInferenceServiceServicer):
    """The methods that tell and change nothing."""

    def __init__(self, settings: ServerSettings, manager: ModelManager, requests: RequestCollector) -> None:
        self._manager = manager
        self._requests = requests
        self._extensions = extensions(settings)

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
        return pb.ServerMetadataResponse(name="foldserve", version=__version__, extensions=self._extensions)

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
                labels = servable.metrics.labels
                requests = [self._requests.requests(*labels, method) for method in INFERENCE]
                response.model_stats.append(model_statistics(servable.metrics, requests))
        return response
