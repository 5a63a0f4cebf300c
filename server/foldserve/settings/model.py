"""What can be set for one model, in its own files, and for all models by the server's settings."""

import math
from typing import Any, Literal, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    PositiveInt,
    ValidationError,
    ValidatorFunctionWrapHandler,
    field_validator,
    model_validator,
)
from pydantic.config import JsonDict
from pydantic_core import PydanticCustomError

from foldserve.settings.choices import (
    CudnnSearch,
    Objective,
    Precision,
    ProviderChoice,
    ReferenceMode,
    TimeoutAction,
)

MEASURED: JsonDict = {"unset": "measured"}
"""Of a setting whose default is None: what tables and help texts say in its place."""

NONE = "none"

SCALED_MAX_TIMES = 10.0
"""A single element may be off by so many times what a whole output may, unless its owner says otherwise."""


class _Settings(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class ParityBudget(_Settings):
    """How far a model's answers may move: the fastest engine within it serves, and outside it none does."""

    relative_l2: float = Field(default=1e-5, gt=0)
    """Largest ‖served − reference‖₂ / ‖reference‖₂ of any output; by default fifty times float32's noise."""

    scaled_max: float = Field(
        default_factory=lambda before: SCALED_MAX_TIMES * before.get("relative_l2", 1e-5),
        gt=0,
        json_schema_extra={"unset": "10 × relative L2"},
    )
    """Largest max|served − reference| / max|reference| of any output."""

    top1_agreement: float = Field(default=0.0, ge=0, le=1)
    """Smallest share of rows whose arg-max is the reference's, for outputs that look like class scores."""


class ShadowSettings(_Settings):
    """How answers are compared with the unfolded model's while the model serves."""

    sample_rate: float = Field(default=0.01, ge=0, le=1)
    """Share of the requests that are run again on the unfolded model and compared."""

    reference: ReferenceMode = ReferenceMode.RESIDENT
    """``resident`` keeps the unfolded model open, ``on_demand`` opens it for checks, ``off`` never checks."""

    window: PositiveInt = 50
    """Number of the last checks that count for a fallback, and that gauges tell of."""

    breaches: PositiveInt = 3
    """Breaches of the parity budget among them that make the unfolded model serve."""

    drift_window: int = Field(default=256, ge=64)
    """Rows after which the inputs' drift from what the BatchNorms saw in training is scored."""

    @model_validator(mode="after")
    def _can_trip(self) -> Self:
        """Refuse more breaches than there are checks to count."""
        if self.breaches > self.window:
            raise ValueError(
                f"breaches is {self.breaches} and window {self.window}: so many never fit; raise window"
            )
        return self


class ModelDefaults(_Settings):
    """What can be set for all models by flag or variable, and for one model in its own files."""

    provider: ProviderChoice = ProviderChoice.AUTO
    """Execution provider; ``auto`` takes CUDA only where a session really runs on it."""

    precisions: tuple[Precision, ...] = (
        Precision.FLOAT32,
        Precision.BFLOAT16,
        Precision.TF32,
        Precision.FLOAT16,
    )
    """Precisions in which engines are tried, or ``none``; ``int8``, calibrated on samples, wants naming."""

    cudnn_search: CudnnSearch = CudnnSearch.HEURISTIC
    """How cuDNN chooses algorithms; ``exhaustive`` tries all, which takes a while for each new shape."""

    max_fold_tier: int = Field(default=3, ge=0, le=3)
    """Most intrusive fold: 0 adjacent, 1 carried, 2 compensated, 3 Relu as maximum (2, 3 only if faster)."""

    parity: ParityBudget = ParityBudget()
    """Parity budget that every model must keep at load."""

    shadow: ShadowSettings = ShadowSettings()
    """What of the model is compared with its unfolded form in service."""

    max_batch_size: int = Field(default=32, ge=0)
    """Most rows in one run of a model; larger requests are split and joined again. 0: no batching."""

    max_queue_size: int = Field(default=128, ge=0)
    """Most requests that may wait for a model; further ones are refused with RESOURCE_EXHAUSTED."""

    objective: Objective = Objective.THROUGHPUT
    """What instances and threads are measured for at load, where they are not set."""

    instances: int | None = Field(default=None, ge=1, le=1024, json_schema_extra=MEASURED)
    """Runs of one model at the same time; measured at load unless set."""

    intra_op_threads: int | None = Field(default=None, ge=1, le=1024, json_schema_extra=MEASURED)
    """Threads within one run of a model; measured at load unless set."""

    @field_validator("precisions", mode="before")
    @classmethod
    def _none_or_some(cls, value: Any) -> Any:
        """A flag or variable cannot be an empty list."""
        return () if value in (NONE, [NONE]) else value


class LatestVersions(_Settings):
    """Serve the highest versions of a model."""

    latest: PositiveInt = 1
    """How many."""


class QueuePolicy(_Settings):
    """How long, and how many, requests of one priority may wait."""

    timeout_action: TimeoutAction = TimeoutAction.REJECT
    """``reject`` answers an overdue request DEADLINE_EXCEEDED; ``delay`` lets its priority's others pass."""

    default_timeout_us: int = Field(default=0, ge=0)
    """Longest wait of a request that names no ``timeout``, in microseconds; 0: no limit."""

    allow_timeout_override: bool = True
    """Whether a request's own ``timeout`` counts, where it is the shorter one."""

    max_queue_size: int = Field(default=0, ge=0)
    """Most requests of this priority that may wait; 0: only the model's own limit."""


class Batching(_Settings):
    """Triton's dynamic batching: nothing of it is needed, all of it is honoured when given."""

    max_queue_delay_us: int = Field(default=0, ge=0, le=60_000_000)
    """Longest that a request may wait for others to fill a batch, in microseconds; a minute at most."""

    preferred_batch_sizes: tuple[PositiveInt, ...] = ()
    """Rows of a batch that is not kept waiting for more."""

    priority_levels: int = Field(default=0, ge=0)
    """Number of priorities, 1 the highest; 0: requests are not told apart."""

    default_priority_level: int = Field(default=0, ge=0)
    """Priority of a request that names none."""

    queue_policy: QueuePolicy = QueuePolicy()
    """Queue policy of every priority that has none of its own."""

    priority_queue_policies: dict[int, QueuePolicy] = {}
    """Queue policy by priority."""

    @model_validator(mode="after")
    def _contradictions(self) -> Self:
        """Refuse priorities that do not exist."""
        levels = self.priority_levels
        if levels and not 1 <= self.default_priority_level <= levels:
            raise ValueError(
                f"default_priority_level is {self.default_priority_level}; "
                f"with priority_levels {levels} it is one of 1 to {levels}"
            )
        for priority in self.priority_queue_policies:
            if not 1 <= priority <= levels:
                raise ValueError(
                    f"priority_queue_policies has one for {priority}, but priority_levels is {levels}"
                )
        return self


class DeclaredTensor(_Settings):
    """What a configuration says of an input or output; a model that differs is refused."""

    name: str
    """The tensor's name in the model."""

    datatype: str | None = None
    """The protocol's name of the element type, such as ``FP32``; any unless given."""

    shape: tuple[int, ...] | None = None
    """Sizes with the batch axis, -1 where a size varies; any unless given."""

    reshape: tuple[int, ...] | None = None
    """The sizes in the model itself, where callers are to see others."""

    @model_validator(mode="after")
    def _same_elements(self) -> Self:
        """Refuse a reshape that changes the number of elements, or leaves open what would vary where."""
        if self.reshape is None:
            return self
        if self.shape is None:
            raise ValueError(f"tensor '{self.name}' has a reshape but no shape; declare both")
        fixed = [[size for size in sizes if size != -1] for sizes in (self.shape, self.reshape)]
        as_many_open = self.shape.count(-1) == self.reshape.count(-1)
        if not as_many_open or math.prod(fixed[0]) != math.prod(fixed[1]):
            raise ValueError(
                f"tensor '{self.name}' cannot be reshaped from {list(self.shape)} to {list(self.reshape)}: "
                "both must hold the same elements, and as many open sizes"
            )
        return self


class ModelSettings(ModelDefaults):
    """Everything that can be set for one model, in its ``foldserve.yaml`` or ``config.pbtxt``."""

    versions: LatestVersions | Literal["all"] | tuple[PositiveInt, ...] = LatestVersions()
    """Versions to serve: ``{latest: 2}``, ``all``, or a list."""

    file: str | None = None
    """Name of the model file in each version folder; ``model.onnx`` or ``model.pt2`` unless set."""

    batching: Batching = Batching()
    """How requests wait and meet in batches."""

    labels: dict[str, str] = {}
    """For outputs with ``classification``: the file in the model's folder with one label per line."""

    inputs: tuple[DeclaredTensor, ...] = ()
    """Inputs that the model must have; all of them or none."""

    outputs: tuple[DeclaredTensor, ...] = ()
    """Outputs that the model must have; any of them."""

    @field_validator("versions", mode="wrap")
    @classmethod
    def _one_of_three_forms(cls, value: Any, validate: ValidatorFunctionWrapHandler) -> Any:
        """Say once what may be given, not for each form by itself why it is not that one."""
        try:
            return validate(value)
        except ValidationError:
            raise PydanticCustomError(
                "versions", "Input should be {latest: 2}, all, or a list of positive integers"
            ) from None

    @model_validator(mode="after")
    def _batches_that_may_be(self) -> Self:
        """Refuse to wait for batches that are larger than any may be."""
        largest = max(self.batching.preferred_batch_sizes, default=0)
        if largest > self.max_batch_size:
            raise ValueError(
                f"preferred_batch_sizes has {largest}, but max_batch_size is {self.max_batch_size}; "
                f"raise that, or leave this out"
            )
        return self
