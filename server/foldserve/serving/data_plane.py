"""The one way in for inference, whatever the transport: plain values and arrays, no protobuf."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from foldserve.observability.inference import StageSeconds
from foldserve.serving.batcher import rows_of
from foldserve.serving.line import Execution
from foldserve.serving.manager import ModelManager
from foldserve.serving.servable import Servable
from foldserve.serving.validation import Array, validate_inputs, validate_outputs


@dataclass(frozen=True, slots=True)
class InferenceRequest:
    """What a caller asks: an empty ``version`` means the newest one, empty ``outputs`` all of them.

    ``deadline`` is in seconds of ``time.monotonic``, None for none; ``cancelled`` says whether the caller is
    gone.
    """

    model: str
    version: str
    inputs: Mapping[str, Array]
    outputs: tuple[str, ...]
    deadline: float | None
    cancelled: Callable[[], bool]


@dataclass(frozen=True, slots=True)
class InferenceResult:
    """The answer: the outputs by name in the order asked for, who gave them, and what it took."""

    servable: Servable
    outputs: list[tuple[str, Array]]
    rows: int
    execution: Execution

    def record(self, *, compute_input_s: float, compute_output_s: float) -> None:
        """Count the request, once the transport knows what decoding and encoding took in seconds."""
        self.servable.metrics.record(
            self.rows,
            self.execution.runs,
            StageSeconds(
                self.execution.queue_s, compute_input_s, self.execution.compute_infer_s, compute_output_s
            ),
        )


class DataPlane:
    """Checks requests against the model and runs them."""

    def __init__(self, manager: ModelManager) -> None:
        self._manager = manager

    def infer(self, request: InferenceRequest) -> InferenceResult:
        """Answer one request.

        Raises ModelNotFound, ModelNotReady, InvalidRequest, QueueFull, DeadlineExpired, RequestCancelled or
        ExecutionFailed.
        """
        with self._manager.servable(request.model, request.version) as servable:
            validate_inputs(servable.inputs, request.inputs)
            validate_outputs(servable.outputs, request.outputs)
            names = request.outputs or servable.output_names
            execution = servable.execute(request.inputs, names, request.deadline, request.cancelled)
        return InferenceResult(
            servable, list(zip(names, execution.outputs, strict=True)), rows_of(request.inputs), execution
        )
