"""Inference: convert, call the data plane, convert."""

import time
from collections.abc import Callable

import grpc
from foldserve_proto import grpc_service_pb2 as pb
from foldserve_proto import grpc_service_pb2_grpc as service

from foldserve.rpc import codec
from foldserve.rpc.output_forms import encode, output_forms
from foldserve.serving.data_plane import DataPlane, InferenceRequest
from foldserve.serving.shared_memory import SharedMemory

FOREVER_S = 1e9
"""A call without a deadline has one that is centuries away."""


class InferenceMethods(service.GRPCInferenceServiceServicer):
    """The methods that run a model."""

    def __init__(self, data_plane: DataPlane, shared_memory: SharedMemory) -> None:
        self._data_plane = data_plane
        self._shared_memory = shared_memory

    def ModelInfer(
        self, request: pb.ModelInferRequest, context: grpc.ServicerContext
    ) -> pb.ModelInferResponse:
        """Run one request through a model."""
        arrived = time.perf_counter()
        return self.infer(request, arrived, _deadline(context), lambda: not context.is_active())

    def infer(
        self,
        request: pb.ModelInferRequest,
        arrived: float,
        deadline: float | None,
        cancelled: Callable[[], bool],
    ) -> pb.ModelInferResponse:
        """Answer one request, whichever way it came; ``arrived`` is in seconds of ``time.perf_counter``."""
        forms = output_forms(request, self._shared_memory)
        result = self._data_plane.infer(
            InferenceRequest(
                model=request.model_name,
                version=request.model_version,
                inputs=codec.decode_inputs(request, self._shared_memory),
                outputs=codec.requested_outputs(request),
                deadline=deadline,
                cancelled=cancelled,
            )
        )
        computed = time.perf_counter()
        response = pb.ModelInferResponse(
            model_name=request.model_name, model_version=str(result.servable.version), id=request.id
        )
        if forms:
            encode(response, result, forms, typed=codec.is_typed(request))
        else:
            codec.encode_outputs(response, result.outputs, typed=codec.is_typed(request))
        result.record(
            compute_input_s=computed - arrived - result.execution.queue_s - result.execution.compute_infer_s,
            compute_output_s=time.perf_counter() - computed,
        )
        return response


def _deadline(context: grpc.ServicerContext) -> float | None:
    remaining = context.time_remaining()
    return time.monotonic() + remaining if remaining is not None and remaining < FOREVER_S else None
