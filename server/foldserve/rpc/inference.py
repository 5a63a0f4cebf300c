"""Inference: convert, call the data plane, convert."""

import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

from foldserve_proto import grpc_service_pb2 as pb
from foldserve_proto import grpc_service_pb2_grpc as service

from foldserve.errors import FoldserveError, ModelNotReady, RequestCancelled
from foldserve.observability.inference import StageSeconds
from foldserve.observability.spans import Answered
from foldserve.observability.tracing import Tracer
from foldserve.rpc import codec
from foldserve.rpc.calls import deferred
from foldserve.rpc.outcome import Caller, Traced
from foldserve.rpc.output_forms import Forms, encode, output_forms
from foldserve.rpc.reader import when_idle
from foldserve.rpc.scheduling import scheduling
from foldserve.serving.batcher import Later
from foldserve.serving.data_plane import DataPlane, InferenceRequest, InferenceResult
from foldserve.serving.shared_memory import SharedMemory
from foldserve.serving.validation import Array

Done = Callable[[pb.ModelInferResponse | Traced | Exception], None]
Start = Callable[[pb.ModelInferRequest, float, float | None, Callable[[], bool], Done], None]
"""What :meth:`InferenceMethods.start` is."""

DECODERS = 2
"""Threads that decode what takes long; one long decoding must not hold up all others."""

QUIET_S, REFUSING_S = 0.02, 0.25
"""A stopping server refuses requests until none has come for so long, at most for so long, in seconds."""

FOREVER_S = 1e9
"""A call without a deadline has one that is centuries away."""


class InferenceMethods(service.GRPCInferenceServiceServicer):
    """The methods that run a model."""

    def __init__(
        self, data_plane: DataPlane, shared_memory: SharedMemory, tracer: Tracer, *, has_spans: bool
    ) -> None:
        """``has_spans`` says that whoever is told a response wants to know what it took, too."""
        self._has_spans = has_spans
        self._data_plane = data_plane
        self._shared_memory = shared_memory
        self._tracer = tracer
        self._decoders = ThreadPoolExecutor(DECODERS, thread_name_prefix="decoder")
        self._is_stopping = False
        self._refused = 0

    @deferred
    def ModelInfer(
        self,
        request: pb.ModelInferRequest,
        caller: Caller,
        done: Done,
    ) -> None:
        """Run one request; this thread reads from the network, so it must not decode for long."""
        arrived, deadline = time.perf_counter(), deadline_of(caller)
        start = partial(self.start, request, arrived, deadline, lambda: not caller.is_active(), done)
        if codec.decodes_slowly(request):
            self._decoders.submit(_told, start, done)
        else:
            start(later=when_idle())

    def refusal(self) -> FoldserveError | None:
        """Why no inference would be taken now, whatever it asks for; None if one might be."""
        if self._is_stopping:
            self._refused += 1
            return ModelNotReady("the server is stopping; send this to another one")
        return self._data_plane.refusal()

    def refuse_those_that_come(self) -> None:
        """Take no request any more; return once callers have stopped sending, or would not for long.

        gRPC tells a call that meets its own end CANCELLED, which nobody repeats elsewhere; UNAVAILABLE is.
        """
        self._is_stopping = True
        before = -1
        give_up = time.monotonic() + REFUSING_S
        while self._refused != before and time.monotonic() < give_up:
            before = self._refused
            time.sleep(QUIET_S)

    def start(
        self,
        request: pb.ModelInferRequest,
        arrived: float,
        deadline: float | None,
        cancelled: Callable[[], bool],
        done: Done,
        *,
        later: Later | None = None,
    ) -> None:
        """Take one request, whichever way it came; ``arrived`` is in seconds of ``time.perf_counter``.

        ``done`` is told the response, or why there is none, exactly once, mostly by another thread; what is
        refused at once is raised instead. ``later`` is :meth:`Batcher.submit`'s.
        """
        forms = output_forms(request, self._shared_memory)
        typed = codec.is_typed(request)
        priority, timeout_us = scheduling(request.parameters)
        compute_input_s = 0.0

        def decode() -> Mapping[str, Array]:
            nonlocal compute_input_s
            inputs = codec.decode_inputs(request, self._shared_memory)
            compute_input_s = time.perf_counter() - arrived
            return inputs

        def answered(result: InferenceResult | Exception) -> None:
            if isinstance(result, Exception):
                done(result)
                return
            response: pb.ModelInferResponse | Exception
            try:
                if cancelled():
                    raise RequestCancelled("the caller went away while the model ran")
                response = _response(request.id, result, forms, typed=typed)
            except Exception as error:
                response = error
            is_answered = not isinstance(response, Exception)
            elsewhere_s = compute_input_s + result.execution.queue_s + result.execution.compute_infer_s
            compute_output_s = time.perf_counter() - arrived - elsewhere_s
            stages = result.record(
                compute_input_s=compute_input_s, compute_output_s=compute_output_s, answered=is_answered
            )
            if is_answered and self._tracer.active:
                servable = result.servable
                self._tracer.record(
                    servable.name, servable.version, request.id, arrived=arrived, stages=stages
                )
            done(_traced(response, result, stages) if is_answered and self._has_spans else response)

        inference = InferenceRequest(
            model=request.model_name,
            version=request.model_version,
            inputs=codec.input_forms(request),
            decode=decode,
            outputs=codec.requested_outputs(request),
            deadline=deadline,
            cancelled=cancelled,
            priority=priority,
            timeout_us=timeout_us,
            later=later,
        )
        self._data_plane.submit(inference, answered)


def _told(start: Callable[[], None], done: Done) -> None:
    try:
        start()
    except Exception as error:
        done(error)


def _traced(response: Any, result: InferenceResult, stages: StageSeconds) -> Traced:
    return Traced(response, Answered(result.servable.variant, result.rows, stages))


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


def deadline_of(caller: Caller) -> float | None:
    """The deadline of a call in seconds of ``time.monotonic``; None for none."""
    remaining = caller.time_remaining()
    return time.monotonic() + remaining if remaining is not None and remaining < FOREVER_S else None
