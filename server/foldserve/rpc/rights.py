"""Which right each method needs, and which requests change the server."""

from collections.abc import Callable
from typing import Any

from foldserve.settings import Right

INFERENCE, METADATA, MANAGEMENT = Right.INFERENCE, Right.METADATA, Right.MANAGEMENT

RIGHTS: dict[str, tuple[Right, ...]] = {
    **dict.fromkeys(("Check", "List", "Watch", "ServerLive", "ServerReady", "ModelReady"), ()),
    **dict.fromkeys(
        (
            "ModelInfer",
            "ModelStreamInfer",
            "SystemSharedMemoryStatus",
            "SystemSharedMemoryRegister",
            "SystemSharedMemoryUnregister",
            "CudaSharedMemoryStatus",
            "CudaSharedMemoryRegister",
            "CudaSharedMemoryUnregister",
        ),
        (INFERENCE,),
    ),
    "ModelMetadata": (INFERENCE, METADATA),  # who may infer must learn what to send
    **dict.fromkeys(
        (
            "ServerMetadata",
            "ModelConfig",
            "ModelStatistics",
            "GetFoldReport",
            "GetParity",
            "GetDrift",
            "ServerReflectionInfo",
        ),
        (METADATA,),
    ),
    "RepositoryIndex": (METADATA, MANAGEMENT),  # who may load must learn what there is
    **dict.fromkeys(("LogSettings", "TraceSetting"), (METADATA, MANAGEMENT)),
    **dict.fromkeys(("RepositoryModelLoad", "RepositoryModelUnload", "ResetFallback"), (MANAGEMENT,)),
}
"""By method, the rights of which a caller needs one; none for what everybody may ask."""

CHANGES: dict[str, Callable[[Any], bool]] = {
    **dict.fromkeys(("LogSettings", "TraceSetting"), lambda request: bool(request.settings)),
    **dict.fromkeys(("RepositoryModelLoad", "RepositoryModelUnload", "ResetFallback"), lambda _: True),
}
"""The methods that may change the server, and whether a request does: then it needs the management right."""


def needed(method: str) -> tuple[Right, ...]:
    """The rights of which one is needed; a method that nobody thought of is for those who manage."""
    return RIGHTS.get(method, (MANAGEMENT,))
