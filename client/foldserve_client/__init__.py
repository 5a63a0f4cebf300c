"""Clients for foldserve, sync and asyncio: numpy arrays in, numpy arrays out.

from foldserve_client import Client

with Client("localhost:8001") as client:
    scores = client.infer("digits", images).output
"""

from foldserve_client.aio import AsyncClient
from foldserve_client.client import Client
from foldserve_client.errors import (
    ClientError,
    DeadlineExceeded,
    FailedPrecondition,
    Internal,
    InvalidArgument,
    NotFound,
    ResourceExhausted,
    Unavailable,
    Unimplemented,
)
from foldserve_client.inference import InferResult

__all__ = [
    "AsyncClient",
    "Client",
    "ClientError",
    "DeadlineExceeded",
    "FailedPrecondition",
    "InferResult",
    "Internal",
    "InvalidArgument",
    "NotFound",
    "ResourceExhausted",
    "Unavailable",
    "Unimplemented",
]
