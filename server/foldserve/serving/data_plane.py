"""The one way in for inference, whatever the transport: plain values and arrays, no protobuf."""

from collections.abc import Callable, Mapping
from math import inf
from typing import NamedTuple

from foldserve.errors import QueueFull
from foldserve.observability.inference import StageSeconds
from foldserve.serving.batcher import Later, rows_of
from foldserve.serving.manager import ModelManager
from foldserve.serving.servable import Servable
from foldserve.serving.validation import (
    Array,
    Form,
    validate_elements,
    validate_inputs,
    validate_outputs,
    validate_rows,
)
from foldserve.serving.waiting import Execution, Waiting


class InferenceRequest(NamedTuple):
    """What a caller asks: an empty ``version`` means the newest one, empty ``outputs`` all of them.

    ``decode`` gives the inputs, which are of the forms said; it is not called before these suit the model.
    ``deadline`` is in seconds of ``time.monotonic``, None for none; ``cancelled`` says whether the caller is
    gone. ``priority`` and ``timeout_us`` are those of :func:`~foldserve.serving.queue_policy.place`.
    """

    model: str
    version: str
    inputs: Mapping[str, Form]
    decode: Callable[[], Mapping[str, Array]]
    outputs: tuple[str, ...]
    deadline: float | None
    cancelled: Callable[[], bool]
    priority: int = 0
    timeout_us: int = 0
    later: Later | None = None
    """How the thread that brings the request can be made to run it; None: it has better things to do."""


class InferenceResult(NamedTuple):
    """The answer: the outputs by name in the order asked for, who gave them, and what it took."""

    servable: Servable
    outputs: list[tuple[str, Array]]
    rows: int
    execution: Execution

    def record(self, *, compute_input_s: float, compute_output_s: float, answered: bool) -> StageSeconds:
        """Count the request, once the transport knows what decoding and encoding took in seconds.

        Of one that is not ``answered`` only the runs count, of which others may have had their answers.
        """
        execution, metrics = self.execution, self.servable.metrics
        stages = StageSeconds(execution.queue_s, compute_input_s, execution.compute_infer_s, compute_output_s)
        if answered:
            metrics.record(self.rows, execution.runs, stages)
        else:
            metrics.record_runs(execution.runs, stages)
        return stages


class DataPlane:
    """Checks requests against the model and runs them."""

    def __init__(self, manager: ModelManager) -> None:
        self._manager = manager

    def refusal(self) -> QueueFull | None:
        """Why no request would be taken now, whatever it asks for: no line has room; None if one has."""
        refusal: QueueFull | None = None
        for servable in self._manager.serving():
            refusal = servable.refusal()
            if refusal is None:
                return None
        return refusal

    def submit(self, request: InferenceRequest, done: Callable[[InferenceResult | Exception], None]) -> None:
        """Take one request; ``done`` is told the result, or why there is none, by a thread of the engine.

        It is told so exactly once, unless this raises: ModelNotFound, ModelNotReady, InvalidRequest,
        QueueFull or DeadlineExpired for a request that is refused at once. Later DeadlineExpired,
        RequestCancelled, ModelNotReady and ExecutionFailed may follow.
        """
        servable = self._manager.acquire(request.model, request.version)
        try:
            validate_inputs(servable.inputs, request.inputs)
            if servable.needs_elements:
                validate_elements(request.inputs)
            validate_outputs(servable.outputs, request.outputs)
            names = request.outputs or servable.output_names
            if servable.most_rows is not None:
                validate_rows(request.inputs)
            inputs = request.decode()
            rows = rows_of(inputs) if servable.most_rows is not None else 1
            shadow = servable.shadow
            generation = shadow.generation if shadow is not None else 0

            def answered(outcome: Execution | Exception) -> None:
                servable.release()
                if isinstance(outcome, Execution):
                    named = list(zip(names, outcome.outputs, strict=True))
                    done(InferenceResult(servable, named, rows, outcome))
                    if shadow is not None:
                        # Rows that depend on each other are compared as one.
                        parts = rows if servable.rows_of_a_run is not None else 1
                        shadow.offer(inputs, named, parts, generation)
                else:
                    done(outcome)

            servable.submit(
                Waiting(
                    inputs,
                    names,
                    rows,
                    request.cancelled,
                    answered,
                    inf if request.deadline is None else request.deadline,
                ),
                priority=request.priority,
                timeout_us=request.timeout_us,
                later=request.later,
            )
        except BaseException:
            servable.release()
            raise
