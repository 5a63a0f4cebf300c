"""Inference: convert, call the data plane, convert."""

import time
from collections.abc import Callable

import grpc
from foldserve_proto import grpc_service_pb2 as pb
from foldserve_proto import grpc_service_pb2_grpc as service

from foldserve.observability.tracing import Tracer
from foldserve.rpc import codec
from foldserve.rpc.calls import deferred
from foldserve.rpc.output_forms import Forms, encode, output_forms
from foldserve.rpc.scheduling import scheduling
from foldserve.serving.data_plane import DataPlane, InferenceRequest, InferenceResult
from foldserve.serving.shared_memory import SharedMemory

Done = Callable[[pb.ModelInferResponse | Exception], None]
Start = Callable[[pb.ModelInferRequest, float, float | None, Callable[[], bool], Done], None]
"""What :meth:`InferenceMethods.start` is."""

FOREVER_S = 1e9
"""A call without a deadline has one that is centuries away."""


class InferenceMethods(service.GRPCInferenceServiceServicer):
    """The methods that run a model."""

    def __init__(self, data_plane: DataPlane, shared_memory: SharedMemory, tracer: Tracer) -> None:
        self._data_plane = data_plane
        self._shared_memory = shared_memory
        self._tracer = tracer

    @deferred
    def ModelInfer(
        self,
        request: pb.ModelInferRequest,
        context: grpc.ServicerContext,
        done: Done,
    ) -> None:
        """Run one request through a model."""
        self.start(request, time.perf_counter(), deadline_of(context), lambda: not context.is_active(), done)

    def start(
        self,
        request: pb.ModelInferRequest,
        arrived: float,
        deadline: float | None,
        cancelled: Callable[[], bool],
        done: Done,
    ) -> None:
        """Take one request, whichever way it came; ``arrived`` is in seconds of ``time.perf_counter``.

        ``done`` is told the response, or why there is none, by another thread and exactly once; what is
        refused at once is raised instead.
        """
        forms = output_forms(request, self._shared_memory)
        typed = codec.is_typed(request)
        priority, timeout_us = scheduling(request.parameters)
        inference = InferenceRequest(
            model=request.model_name,
            version=request.model_version,
            inputs=codec.decode_inputs(request, self._shared_memory),
            outputs=codec.requested_outputs(request),
            deadline=deadline,
            cancelled=cancelled,
            priority=priority,
            timeout_us=timeout_us,
        )
        compute_input_s = time.perf_counter() - arrived

        def answered(result: InferenceResult | Exception) -> None:
            if isinstance(result, Exception):
                done(result)
                return
            try:
                response = _response(request.id, result, forms, typed=typed)
            except Exception as error:
                done(error)
                return
            elsewhere_s = compute_input_s + result.execution.queue_s + result.execution.compute_infer_s
            compute_output_s = time.perf_counter() - arrived - elsewhere_s
            stages = result.record(compute_input_s=compute_input_s, compute_output_s=compute_output_s)
            if self._tracer.active:
                servable = result.servable
                self._tracer.record(
                    servable.name, servable.version, request.id, arrived=arrived, stages=stages
                )
            done(response)

        self._data_plane.submit(inference, answered)


def _response(identity: str, result: InferenceResult, forms: Forms, *, typed: bool) -> pb.ModelInferResponse:
    servable = result.servable
    response = pb.ModelInferResponse(
        model_name=servable.name, model_version=str(servable.version), id=identity
    )
    if forms:
        encode(response, result, forms, typed=typed)
    else:
        codec.encode_outputs(response, result.outputs, typed=typed)
    return response


def deadline_of(context: grpc.ServicerContext) -> float | None:
    """The deadline of a call in seconds of ``time.monotonic``; None for none."""
    remaining = context.time_remaining()
    return time.monotonic() + remaining if remaining is not None and remaining < FOREVER_S else None
