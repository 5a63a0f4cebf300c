"""KServe V2 inference: every method converts, calls, converts."""

import time

import grpc
from foldserve_proto import grpc_service_pb2 as pb
from foldserve_proto import grpc_service_pb2_grpc as service

from foldserve import __version__
from foldserve.rpc import codec
from foldserve.serving.data_plane import DataPlane, InferenceRequest
from foldserve.serving.datatypes import datatype_name
from foldserve.serving.facts import summary
from foldserve.serving.manager import ModelManager

EXTENSIONS = ("binary_tensor_data",)
PLATFORM = "onnxruntime_onnx"
FOREVER_S = 1e9
"""A call without a deadline has one that is centuries away."""


class InferenceServicer(service.GRPCInferenceServiceServicer):
    """The six methods of KServe V2; Triton's further ones are answered UNIMPLEMENTED."""

    def __init__(self, manager: ModelManager, data_plane: DataPlane) -> None:
        self._manager = manager
        self._data_plane = data_plane

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
