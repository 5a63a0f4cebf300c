"""Tensors in shared memory, for a server on this machine that offers it (``--shared-memory``).

A request's inputs, and the outputs whose sizes are known beforehand, lie in one region, which is used again
by later requests. Its name is taken away as soon as the server has it open, so that nothing stays behind
whatever happens to this process.
"""

import mmap
import os
import secrets
import threading
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from foldserve_proto import grpc_service_pb2 as pb

from foldserve_client.errors import (
    ClientError,
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    ResourceExhausted,
    Unimplemented,
)
from foldserve_client.inference import InferResult, Signature, Spec
from foldserve_client.splitting import rows_of
from foldserve_client.steps import MODEL_INFER, Call, Exchange
from foldserve_client.tensors import Array, dtype_of

if TYPE_CHECKING:
    from google.protobuf.internal.containers import MessageMap

OBJECTS = Path("/dev/shm")
"""Where Linux keeps shared memory."""

LEAST_BYTES = 64 << 10
"""Smaller requests travel in the message: both ways cost the same there."""

UNREGISTER_S = 2.0
"""Longest that closing a client waits for the server to forget its regions."""

ALIGNMENT = 64
REGION, OFFSET, BYTE_SIZE = "shared_memory_region", "shared_memory_offset", "shared_memory_byte_size"

Output = pb.ModelInferResponse.InferOutputTensor


class Region:
    """Shared memory of this process, under a name that the server opens it by."""

    def __init__(self, byte_size: int) -> None:
        """Make it; raises OSError where the machine has no such memory left."""
        self.name = f"foldserve-client-{os.getpid()}-{secrets.token_hex(8)}"
        self.byte_size = byte_size
        descriptor = os.open(OBJECTS / self.name, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600)
        try:
            os.posix_fallocate(descriptor, 0, byte_size)
            self._memory = mmap.mmap(descriptor, byte_size)
        except OSError:
            self.unlink()
            raise
        finally:
            os.close(descriptor)

    def unlink(self) -> None:
        """Take the name away; the memory lasts as long as anyone has it open."""
        (OBJECTS / self.name).unlink(missing_ok=True)

    def write(self, offset: int, array: Array) -> None:
        """Put an array there."""
        place: Array = np.ndarray(array.shape, array.dtype, self._memory, offset)
        np.copyto(place, array)

    def read(self, offset: int, dtype: np.dtype[np.generic], shape: Sequence[int]) -> Array:
        """A copy of an array there: the region has other uses."""
        return np.ndarray(tuple(shape), dtype, self._memory, offset).copy()


class Regions:
    """The regions of one client, each used by one request at a time."""

    def __init__(self) -> None:
        self._free: list[Region] = []
        self._names: set[str] = set()
        """All that the server may have: a call that failed here may have been done there."""

        self._abandoned: set[str] = set()
        """Those of them that no request will use again."""

        self._unsized: set[str] = set()
        """Models whose outputs turned out larger than the number of rows says."""

        self._lock = threading.Lock()

    def infer(
        self, signature: Signature, request: pb.ModelInferRequest, arrays: Sequence[Array]
    ) -> Exchange[InferResult]:
        """Send a request without inputs, and ``arrays`` in shared memory; what is small goes by message.

        A server that was started anew does not know the region; the request is sent once more with another.
        It is sent once more, too, with the outputs by message where the server refuses it: one of them may
        not fit its place.
        """
        if sum(array.nbytes for array in arrays) < LEAST_BYTES or any(a.dtype.hasobject for a in arrays):
            message = signature.with_contents(request, arrays)
            return InferResult((yield from Call(MODEL_INFER, message)))
        bare = pb.ModelInferRequest()
        bare.CopyFrom(request)
        sized = [] if signature.name in self._unsized else _known_outputs(signature, request, arrays)
        try:
            return (yield from self._infer(signature, request, arrays, sized))
        except NotFound as error:
            if "shared memory region" not in error.details:
                raise
            with self._lock:
                self._free.clear()
        except InvalidArgument:
            if not sized:
                raise
            result = yield from self._infer(signature, bare, arrays, [])
            self._unsized.add(signature.name)
            return result
        return (yield from self._infer(signature, bare, arrays, sized))

    def unregister(self) -> Exchange[None]:
        """Have the server forget all regions; what it still uses lasts until then."""
        with self._lock:
            self._free.clear()
            self._abandoned.update(self._names)
        yield from self._unregister_abandoned()

    def _infer(
        self,
        signature: Signature,
        request: pb.ModelInferRequest,
        arrays: Sequence[Array],
        outputs: Sequence[tuple[str, int]],
    ) -> Exchange[InferResult]:
        """Send it with room for these outputs, (name, bytes), in the region."""
        byte_sizes = [array.nbytes for array in arrays] + [size for _, size in outputs]
        offsets = _offsets(byte_sizes)
        region = yield from self._take(offsets[-1])
        for spec, array, offset in zip(signature.inputs, arrays, offsets, strict=False):
            region.write(offset, array)
            tensor = request.inputs.add(name=spec.name, datatype=spec.datatype, shape=array.shape)
            _place(tensor.parameters, region, offset, array.nbytes)
        asked = {output.name: output for output in request.outputs}
        if outputs and not asked:
            asked = {spec.name: request.outputs.add(name=spec.name) for spec in signature.outputs}
        for (name, size), offset in zip(outputs, offsets[len(arrays) :], strict=False):
            _place(asked[name].parameters, region, offset, size)

        def elsewhere(tensor: Output) -> Array | None:
            if REGION not in tensor.parameters:
                return None
            return region.read(tensor.parameters[OFFSET].int64_param, dtype_of(tensor.datatype), tensor.shape)

        is_free = False
        try:
            response = yield from Call(MODEL_INFER, request)
            result = InferResult(response, elsewhere)
            is_free = True
        except (InvalidArgument, ResourceExhausted):
            is_free = True
            raise
        finally:
            with self._lock:
                if is_free:
                    self._free.append(region)
                else:  # the server may still be writing to it
                    self._abandoned.add(region.name)
        return result

    def _take(self, byte_size: int) -> Exchange[Region]:
        with self._lock:
            for region in self._free:
                if region.byte_size >= byte_size:
                    self._free.remove(region)
                    return region
        yield from self._unregister_abandoned()
        try:
            region = Region(1 << max(20, (byte_size - 1).bit_length()))
        except OSError as error:
            raise FailedPrecondition(f"no shared memory of {byte_size} bytes: {error}") from None
        request = pb.SystemSharedMemoryRegisterRequest(
            name=region.name, key=f"/{region.name}", byte_size=region.byte_size
        )
        with self._lock:
            self._names.add(region.name)
        try:
            yield from Call(lambda stubs: stubs.inference.SystemSharedMemoryRegister, request)
        except Unimplemented as error:
            self._forget(region.name)
            raise FailedPrecondition(
                f"the server takes no tensors in shared memory: {error.details}"
            ) from None
        except BaseException:  # a coroutine that is cancelled closes the exchange
            with self._lock:
                self._abandoned.add(region.name)
            raise
        finally:
            region.unlink()
        return region

    def _unregister_abandoned(self) -> Exchange[None]:
        """Have the server forget them; those that it does not hear of now, it does another time."""
        with self._lock:
            names = sorted(self._abandoned)
        with suppress(ClientError):
            for name in names:
                request = pb.SystemSharedMemoryUnregisterRequest(name=name)
                yield from Call(lambda stubs: stubs.inference.SystemSharedMemoryUnregister, request)
                self._forget(name)

    def _forget(self, name: str) -> None:
        with self._lock:
            self._abandoned.discard(name)
            self._names.discard(name)


def _known_outputs(
    signature: Signature, request: pb.ModelInferRequest, arrays: Sequence[Array]
) -> list[tuple[str, int]]:
    """The outputs that are asked for whose sizes follow from the number of rows: (name, bytes)."""
    if any(output.parameters for output in request.outputs):  # classes, which are text
        return []
    asked = {output.name for output in request.outputs}
    known = []
    for spec in signature.outputs:
        shape = _known_shape(signature, spec, arrays)
        if (not asked or spec.name in asked) and shape is not None and not dtype_of(spec.datatype).hasobject:
            known.append((spec.name, int(np.prod(shape)) * dtype_of(spec.datatype).itemsize))
    return known


def _known_shape(signature: Signature, spec: Spec, arrays: Sequence[Array]) -> tuple[int, ...] | None:
    if -1 not in spec.shape:
        return spec.shape
    if (rows := rows_of(signature, arrays)) and -1 not in spec.shape[1:]:
        return (rows, *spec.shape[1:])
    return None


def _offsets(byte_sizes: Sequence[int]) -> list[int]:
    """Where each tensor begins, and where the last one ends."""
    offsets = [0]
    for size in byte_sizes:
        offsets.append(offsets[-1] + -(-size // ALIGNMENT) * ALIGNMENT)
    return offsets


def _place(
    parameters: "MessageMap[str, pb.InferParameter]",
    region: Region,
    offset: int,
    size: int,
) -> None:
    parameters[REGION].string_param = region.name
    parameters[OFFSET].int64_param = offset
    parameters[BYTE_SIZE].int64_param = size
