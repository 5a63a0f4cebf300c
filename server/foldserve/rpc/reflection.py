"""gRPC reflection, with the descriptors that it shows: ours and those of health and reflection themselves."""

import threading
from collections.abc import Iterable, Iterator
from typing import Any

import grpc
from foldserve_proto import fold_service_pb2, grpc_service_pb2
from google.protobuf.descriptor import FileDescriptor
from google.protobuf.descriptor_pool import DescriptorPool
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection, reflection_pb2, reflection_pb2_grpc

MOST_LOOKING_AROUND = 8
"""Each holds a thread for as long as its caller likes, and people who look around are few."""


class Reflection(reflection.ReflectionServicer):
    """gRPC's own servicer, for a few callers at a time."""

    def __init__(self, services: tuple[str, ...]) -> None:
        super().__init__(services, pool=reflection_pool())
        self._places = threading.BoundedSemaphore(MOST_LOOKING_AROUND)

    def ServerReflectionInfo(self, request_iterator: Iterable[Any], context: Any) -> Iterator[Any]:
        """Answer what a caller asks about the services, until it has no more questions."""
        if not self._places.acquire(blocking=False):
            text = f"{MOST_LOOKING_AROUND} callers use reflection, the most at a time; retry later"
            context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, text)
        try:
            yield from super().ServerReflectionInfo(request_iterator, context)
        finally:
            self._places.release()


def add_reflection(services: tuple[str, ...], server: grpc.Server) -> None:
    """Offer reflection of these services."""
    add: Any = reflection_pb2_grpc.add_ServerReflectionServicer_to_server  # generated without types
    add(Reflection(services), server)


def reflection_pool() -> DescriptorPool:
    """A pool with every served file: our messages live in a pool of their own, gRPC's in the default one."""
    pool = DescriptorPool()
    added: set[str] = set()
    for module in (grpc_service_pb2, fold_service_pb2, health_pb2, reflection_pb2):
        _add(pool, module.DESCRIPTOR, added)
    return pool


def _add(pool: DescriptorPool, file: FileDescriptor, added: set[str]) -> None:
    if file.name in added:
        return
    for dependency in file.dependencies:
        _add(pool, dependency, added)
    pool.AddSerializedFile(file.serialized_pb)
    added.add(file.name)
