"""Clients for foldserve, sync and asyncio: numpy arrays in, numpy arrays out.

from foldserve_client import Client

with Client("localhost:8001") as client:
    scores = client.infer("digits", images).output
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from foldserve_client.aio import AsyncClient
    from foldserve_client.client import Client
    from foldserve_client.connection import Tls
    from foldserve_client.errors import (
        AlreadyExists,
        Cancelled,
        ClientError,
        DeadlineExceeded,
        FailedPrecondition,
        Internal,
        InvalidArgument,
        NotFound,
        PermissionDenied,
        ResourceExhausted,
        Unauthenticated,
        Unavailable,
        Unimplemented,
    )
    from foldserve_client.inference import InferResult
    from foldserve_client.inferring import ClassScore
    from foldserve_client.streaming import StreamAnswer

__all__ = [
    "AlreadyExists",
    "AsyncClient",
    "Cancelled",
    "ClassScore",
    "Client",
    "ClientError",
    "DeadlineExceeded",
    "FailedPrecondition",
    "InferResult",
    "Internal",
    "InvalidArgument",
    "NotFound",
    "PermissionDenied",
    "ResourceExhausted",
    "StreamAnswer",
    "Tls",
    "Unauthenticated",
    "Unavailable",
    "Unimplemented",
]

_MODULES = {
    "AsyncClient": "aio",
    "ClassScore": "inferring",
    "Client": "client",
    "InferResult": "inference",
    "StreamAnswer": "streaming",
    "Tls": "connection",
}
"""Where each name is, if not in ``errors``: they are imported when they are asked for, so that a command that
needs no numpy, say its help, does not wait for it."""


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'foldserve_client' has no attribute '{name}'")
    module = import_module(f"foldserve_client.{_MODULES.get(name, 'errors')}")
    return getattr(module, name)
