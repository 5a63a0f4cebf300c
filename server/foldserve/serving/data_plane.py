"""The one way in for inference, whatever the transport: plain values and arrays, no protobuf."""

from collections.abc import Mapping
from dataclasses import dataclass

from foldserve.observability.metrics import Metrics, StageSeconds
from foldserve.serving.manager import ModelManager
from foldserve.serving.validation import Array, validate_inputs, validate_outputs


@dataclass(frozen=True, slots=True)
class InferenceRequest:
    """What a caller asks: an empty ``version`` means the newest one, empty ``outputs`` all of them.

    ``deadline`` is in seconds of ``time.monotonic``, None for none.
    """

    model: str
    version: str
    inputs: Mapping[str, Array]
    outputs: tuple[str, ...]
    deadline: float | None


@dataclass(frozen=True, slots=True)
class InferenceResult:
    """The answer: the outputs by name in the order asked for, and what queue and model took in seconds."""

    model: str
    version: int
    variant: str
    outputs: list[tuple[str, Array]]
    rows: int
    queue_s: float
    compute_infer_s: float


class DataPlane:
    """Checks requests against the model, runs them, counts what they took."""

    def __init__(self, manager: ModelManager, metrics: Metrics) -> None:
        self._manager = manager
        self._metrics = metrics

    def infer(self, request: InferenceRequest) -> InferenceResult:
        """Answer one request.

        Raises ModelNotFound, ModelNotReady, InvalidRequest, QueueFull, DeadlineExpired or ExecutionFailed.
        """
        with self._manager.servable(request.model, request.version).handle() as servable:
            validate_inputs(servable.inputs, request.inputs)
            validate_outputs(servable.outputs, request.outputs)
            names = request.outputs or tuple(spec.name for spec in servable.outputs)
            execution = servable.execute(request.inputs, names, request.deadline)
            return InferenceResult(
                model=servable.name,
                version=servable.version,
                variant=servable.provenance.variant,
                outputs=list(zip(names, execution.outputs, strict=True)),
                rows=_rows(request.inputs),
                queue_s=execution.queue_s,
                compute_infer_s=execution.compute_infer_s,
            )

    def record(self, result: InferenceResult, *, compute_input_s: float, compute_output_s: float) -> None:
        """Count an answered request, once the transport knows what decoding and encoding took in seconds."""
        stages = StageSeconds(result.queue_s, compute_input_s, result.compute_infer_s, compute_output_s)
        self._metrics.record_inference(result.model, str(result.version), result.variant, result.rows, stages)


def _rows(inputs: Mapping[str, Array]) -> int:
    """Rows of a request: the first dimension of its first input, 1 for a scalar or a model without inputs."""
    first = next(iter(inputs.values()), None)
    return int(first.shape[0]) if first is not None and first.ndim else 1
