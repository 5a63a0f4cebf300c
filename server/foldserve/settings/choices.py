"""The values of settings that are one of a few."""

from enum import StrEnum


class ProviderChoice(StrEnum):
    """The execution provider that is asked for."""

    AUTO = "auto"
    CUDA = "cuda"
    CPU = "cpu"


class Precision(StrEnum):
    """In what the layers of a float32 model that cost most, convolutions and products, are computed."""

    FLOAT32 = "float32"
    BFLOAT16 = "bfloat16"
    FLOAT16 = "float16"
    TF32 = "tf32"
    INT8 = "int8"


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


class Right(StrEnum):
    """What a token lets its holder do."""

    INFERENCE = "inference"
    METADATA = "metadata"
    MANAGEMENT = "management"
