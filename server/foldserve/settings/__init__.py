"""What can be set: the server's and each model's settings, as frozen pydantic models without unknown keys."""

from foldserve.settings.choices import (
    CudnnSearch,
    LogFormat,
    LogLevel,
    ModelControl,
    Objective,
    Precision,
    ProviderChoice,
    ReferenceMode,
    Right,
    TimeoutAction,
)
from foldserve.settings.model import (
    Batching,
    DeclaredTensor,
    LatestVersions,
    ModelDefaults,
    ModelSettings,
    ParityBudget,
    QueuePolicy,
    ShadowSettings,
)
from foldserve.settings.server import ServerSettings, model_settings

__all__ = [
    "Batching",
    "CudnnSearch",
    "DeclaredTensor",
    "LatestVersions",
    "LogFormat",
    "LogLevel",
    "ModelControl",
    "ModelDefaults",
    "ModelSettings",
    "Objective",
    "ParityBudget",
    "Precision",
    "ProviderChoice",
    "QueuePolicy",
    "ReferenceMode",
    "Right",
    "ServerSettings",
    "ShadowSettings",
    "TimeoutAction",
    "model_settings",
]
