"""What can be set: the server's and each model's settings, as frozen pydantic models without unknown keys."""

from enum import StrEnum
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field


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


class _Settings(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class ParityBudget(_Settings):
    """How far a model's answers may move before the unfolded model is served instead."""

    relative_l2: float = Field(default=1e-5, gt=0)
    """Largest ‖served − reference‖₂ / ‖reference‖₂ of any output; by default fifty times float32's noise."""

    scaled_max: float = Field(default=1e-4, gt=0)
    """Largest max|served − reference| / max|reference| of any output."""


class ServerSettings(_Settings):
    """Everything ``foldserve serve`` can be told; each field is a flag and a ``FOLDSERVE_*`` variable."""

    repository: tuple[Path, ...] = Field(min_length=1)
    """Model repositories: folders that hold ``<model>/<version>/model.onnx`` or ``model.pt2``."""

    host: str = "0.0.0.0"
    """Address that gRPC and HTTP listen on."""

    grpc_port: int = Field(default=8001, ge=0, le=65535)
    """Port for gRPC; 0 picks a free one."""

    http_port: int = Field(default=8002, ge=0, le=65535)
    """Port for /metrics, /livez and /readyz; 0 picks a free one."""

    provider: ProviderChoice = ProviderChoice.AUTO
    """Execution provider; ``auto`` takes CUDA only where a session really runs on it."""

    max_fold_tier: int = Field(default=3, ge=0, le=3)
    """Most intrusive fold: 0 adjacent, 1 carried, 2 compensated, 3 Relu as maximum (2, 3 only if faster)."""

    parity: ParityBudget = ParityBudget()
    """Parity budget that every model must keep at load."""

    max_batch_size: int = Field(default=32, ge=1)
    """Most rows in one run of a model; larger requests are split and joined again."""

    max_queue_size: int = Field(default=128, ge=0)
    """Most requests that may wait for a model; further ones are refused with RESOURCE_EXHAUSTED."""

    grpc_workers: int = Field(default=256, ge=1)
    """Requests that the server holds at once, waiting ones included; further ones are refused."""

    max_message_bytes: int = Field(default=256 * 1024 * 1024, ge=1024, le=2**31 - 1)
    """Largest gRPC message accepted or sent, in bytes."""

    import_timeout_s: float = Field(default=600.0, gt=0)
    """Longest a ``.pt2`` import may take, in seconds."""

    import_memory_bytes: int = Field(default=32 * 1024**3, ge=1024**3)
    """Most address space that a ``.pt2`` import may take, in bytes."""

    cache_dir: Path = Path("~/.cache/foldserve")
    """Folder where imported models are kept, by content, for the next start."""

    drain_timeout_s: float = Field(default=30.0, ge=0)
    """Longest that requests in flight may take to finish at shutdown, in seconds."""

    log_format: LogFormat = LogFormat.AUTO
    """``auto`` writes for people on a terminal and JSON elsewhere."""

    log_level: LogLevel = LogLevel.INFO
    """The least severe log line that is written."""
