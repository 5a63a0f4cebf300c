"""The descriptors that gRPC reflection shows: ours and those of health and reflection themselves."""

from foldserve_proto import fold_service_pb2, grpc_service_pb2
from google.protobuf.descriptor import FileDescriptor
from google.protobuf.descriptor_pool import DescriptorPool
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2


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
