"""What can be set: the server's and each model's settings, as frozen pydantic models without unknown keys."""

import math
from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
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

MEASURED: JsonDict = {"unset": "measured"}
"""Of a setting whose default is None: what tables and help texts say in its place."""


class ProviderChoice(StrEnum):
    """The execution provider that is asked for."""

    AUTO = "auto"
    CUDA = "cuda"
    CPU = "cpu"


class LogFormat(StrEnum):
    """How log lines are written."""

    AUTO = "auto"
    CONSOLE = "console"
    JSON = "json"


class LogLevel(StrEnum):
    """The least severe log line that is written."""

    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


class CudnnSearch(StrEnum):
    """How cuDNN finds the algorithm of a convolution, anew for each shape."""

    HEURISTIC = "heuristic"
    EXHAUSTIVE = "exhaustive"
    DEFAULT = "default"


class Objective(StrEnum):
    """What the number of instances and threads is chosen for."""

    THROUGHPUT = "throughput"
    LATENCY = "latency"


class ModelControl(StrEnum):
    """Who decides what of the repositories is loaded, and when."""

    NONE = "none"
    POLL = "poll"
    EXPLICIT = "explicit"


class ReferenceMode(StrEnum):
    """When the unfolded reference that answers are compared with in service is in memory."""

    RESIDENT = "resident"
    ON_DEMAND = "on_demand"
    OFF = "off"


class TimeoutAction(StrEnum):
    """What becomes of a request that waited in line longer than its queue policy allows."""

    REJECT = "reject"
    DELAY = "delay"


class _Settings(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class ParityBudget(_Settings):
    """How far a model's answers may move before the unfolded model is served instead."""

    relative_l2: float = Field(default=1e-5, gt=0)
    """Largest ‖served − reference‖₂ / ‖reference‖₂ of any output; by default fifty times float32's noise."""

    scaled_max: float = Field(default=1e-4, gt=0)
    """Largest max|served − reference| / max|reference| of any output."""


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


class ServerSettings(ModelDefaults):
    """Everything ``foldserve serve`` can be told; each field is a flag and a ``FOLDSERVE_*`` variable."""

    repository: tuple[Path, ...] = Field(min_length=1)
    """Model repositories: folders that hold ``<model>/<version>/model.onnx``; with commas in a variable."""

    model_control: ModelControl = ModelControl.NONE
    """``none`` loads all at start, ``poll`` also follows changes, ``explicit`` loads what RPCs ask for."""

    poll_interval_s: float = Field(default=15.0, gt=0)
    """Time between two looks at the repositories in mode ``poll``, in seconds."""

    load_models: tuple[str, ...] = ()
    """Models that mode ``explicit`` loads at start, ``*`` for all; with commas in a variable."""

    load_threads: PositiveInt = 2
    """Models that are loaded at the same time."""

    host: str = "0.0.0.0"
    """Address that gRPC and HTTP listen on."""

    grpc_port: int = Field(default=8001, ge=0, le=65535)
    """Port for gRPC; 0 picks a free one."""

    http_port: int = Field(default=8002, ge=0, le=65535)
    """Port for /metrics, /livez and /readyz; 0 picks a free one."""

    grpc_workers: int = Field(default=256, ge=1)
    """Requests that the server holds at once, waiting ones included; further ones are refused."""

    max_streams: int = Field(default=32, ge=0)
    """Streams (ModelStreamInfer) at once; further ones are refused. They come on top of ``grpc_workers``."""

    max_stream_requests: int = Field(default=16, ge=1)
    """Requests of one stream in work, or answered but unread; the next is read when one of them is done."""

    shared_memory: bool = False
    """Whether callers on this machine may pass tensors in shared memory; only for callers that you trust."""

    max_message_bytes: int = Field(default=256 * 1024 * 1024, ge=1024, le=2**31 - 1)
    """Largest gRPC message accepted or sent, in bytes."""

    import_timeout_s: float = Field(default=600.0, gt=0)
    """Longest a ``.pt2`` import may take, in seconds."""

    import_memory_bytes: int = Field(default=32 * 1024**3, ge=1024**3)
    """Most address space that a ``.pt2`` import may take, in bytes."""

    cache_dir: Path = Path("~/.cache/foldserve")
    """Folder where imported and folded models are kept, by content, for the next start."""

    cache_max_bytes: int = Field(default=50 * 1024**3, ge=0)
    """Most that the cache may hold, in bytes; what was used longest ago goes first."""

    shadow_cpu_share: float = Field(default=0.05, gt=0)
    """CPU time that comparing with unfolded models may take, all models together, as a share of one core."""

    breach_dir: Path | None = None
    """Folder where inputs that broke parity are kept with both answers, as ``.npz``; unset, none are."""

    breach_max_files: PositiveInt = 16
    """Most files that are kept there; then no more are written."""

    breach_max_bytes: int = Field(default=256 * 1024**2, ge=0)
    """Most bytes that these files may take together."""

    drain_timeout_s: float = Field(default=30.0, ge=0)
    """Longest that requests in flight may take to finish at shutdown, in seconds."""

    log_format: LogFormat = LogFormat.AUTO
    """``auto`` writes for people on a terminal and JSON elsewhere."""

    log_level: LogLevel = LogLevel.INFO
    """The least severe log line that is written."""

    trace_file: Path | None = None
    """File that traces of requests are added to, once TraceSetting asks for them; unset, there are none."""

    @field_validator("repository", "load_models", mode="before")
    @classmethod
    def _one_or_several(cls, value: Any) -> Any:
        """One may be given by itself."""
        return (value,) if isinstance(value, str | Path) else value

    @model_validator(mode="after")
    def _contradictions(self) -> Self:
        """Refuse settings that cannot hold together, by both names."""
        if self.grpc_port and self.grpc_port == self.http_port:
            raise ValueError(f"grpc_port and http_port are both {self.grpc_port}; each needs its own")
        if self.instances is not None and self.instances > self.grpc_workers:
            raise ValueError(
                f"instances is {self.instances} and grpc_workers {self.grpc_workers}: no more instances than "
                f"requests at once can ever run; raise grpc_workers"
            )
        for setting, mode in (("load_models", ModelControl.EXPLICIT), ("poll_interval_s", ModelControl.POLL)):
            if setting in self.model_fields_set and self.model_control is not mode:
                raise ValueError(
                    f"{setting} is given, but model_control is '{self.model_control}'; set it to '{mode}'"
                )
        at_once = self.grpc_workers + self.max_streams * self.max_stream_requests
        if "max_queue_size" in self.model_fields_set and self.max_queue_size > at_once:
            raise ValueError(
                f"max_queue_size is {self.max_queue_size}, but no more than {at_once} requests are ever "
                f"in the server (grpc_workers + max_streams * max_stream_requests); lower it, or raise those"
            )
        if self.provider is ProviderChoice.CPU and "cudnn_search" in self.model_fields_set:
            raise ValueError(
                f"cudnn_search is {self.cudnn_search}, but provider is cpu and cuDNN runs on CUDA; "
                f"leave one out"
            )
        return self


def model_settings(server: ServerSettings, *given: Mapping[str, Any]) -> ModelSettings:
    """The settings of one model: what is ``given``, the later over the earlier; the rest is the server's.

    Raises pydantic's ``ValidationError``.
    """
    # What nobody set stays unset: some defaults depend on the model.
    values = server.model_dump(include=set(ModelDefaults.model_fields), exclude_unset=True)
    for layer in given:
        values = _laid_over(values, layer)
    return ModelSettings.model_validate(values)


def _laid_over(lower: Mapping[str, Any], upper: Mapping[str, Any]) -> dict[str, Any]:
    both = {
        name: _laid_over(lower[name], value)
        for name, value in upper.items()
        if isinstance(value, Mapping) and isinstance(lower.get(name), Mapping)
    }
    return {**lower, **upper, **both}
