"""The RPCs that register memory for tensors."""

import grpc
from foldserve_proto import grpc_service_pb2 as pb
from foldserve_proto import grpc_service_pb2_grpc as service

from foldserve.errors import NotSupported, RegionNotFound
from foldserve.serving.shared_memory import SharedMemory


class SharedMemoryMethods(service.GRPCInferenceServiceServicer):
    """System shared memory as Triton has it; of CUDA shared memory there is never a region."""

    def __init__(self, shared_memory: SharedMemory) -> None:
        self._regions = shared_memory

    def SystemSharedMemoryStatus(
        self, request: pb.SystemSharedMemoryStatusRequest, context: grpc.ServicerContext
    ) -> pb.SystemSharedMemoryStatusResponse:
        """The regions that are registered."""
        response = pb.SystemSharedMemoryStatusResponse()
        for region in self._regions.regions(request.name):
            status = response.regions[region.name]
            status.name, status.key = region.name, region.key
            status.offset, status.byte_size = region.offset, region.byte_size
        return response

    def SystemSharedMemoryRegister(
        self, request: pb.SystemSharedMemoryRegisterRequest, context: grpc.ServicerContext
    ) -> pb.SystemSharedMemoryRegisterResponse:
        """Register a part of a POSIX shared memory object."""
        self._regions.register(request.name, request.key, request.offset, request.byte_size)
        return pb.SystemSharedMemoryRegisterResponse()

    def SystemSharedMemoryUnregister(
        self, request: pb.SystemSharedMemoryUnregisterRequest, context: grpc.ServicerContext
    ) -> pb.SystemSharedMemoryUnregisterResponse:
        """Forget one region, or all; requests that use it finish first."""
        self._regions.unregister(request.name)
        return pb.SystemSharedMemoryUnregisterResponse()

    def CudaSharedMemoryStatus(
        self, request: pb.CudaSharedMemoryStatusRequest, context: grpc.ServicerContext
    ) -> pb.CudaSharedMemoryStatusResponse:
        """No region, as a Triton without GPU says it."""
        if request.name:
            raise RegionNotFound(f"no CUDA shared memory region is registered as '{request.name[:100]}'")
        return pb.CudaSharedMemoryStatusResponse()

    def CudaSharedMemoryRegister(
        self, request: pb.CudaSharedMemoryRegisterRequest, context: grpc.ServicerContext
    ) -> pb.CudaSharedMemoryRegisterResponse:
        """Refused: sessions take their inputs from the memory of the host."""
        raise NotSupported(
            "CUDA shared memory is not offered: models take their inputs from host memory here; "
            "use system shared memory, or send the tensors"
        )

    def CudaSharedMemoryUnregister(
        self, request: pb.CudaSharedMemoryUnregisterRequest, context: grpc.ServicerContext
    ) -> pb.CudaSharedMemoryUnregisterResponse:
        """There is nothing to forget, which clients that clean up take for success."""
        return pb.CudaSharedMemoryUnregisterResponse()
