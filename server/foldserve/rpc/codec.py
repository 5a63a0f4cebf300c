"""Tensors on the wire: protocol messages to numpy arrays and back.

Raw contents are read in place: the array is a read-only view of the message's bytes. A request with typed
contents is answered with typed contents, unless an output has a type that exists only in raw form.
"""

import math
import struct
from collections.abc import Iterator, Sequence
from functools import lru_cache

import numpy as np
from foldserve_proto import grpc_service_pb2 as pb

from foldserve.errors import InvalidRequest
from foldserve.rpc.parameters import Parameters, integer, string
from foldserve.runtime.tensors import TensorSpec
from foldserve.serving.datatypes import DTYPES, datatype_name
from foldserve.serving.shared_memory import SharedMemory, Slot
from foldserve.serving.validation import Array, Form

TYPED_FIELDS = {
    "BOOL": "bool_contents",
    "UINT8": "uint_contents",
    "UINT16": "uint_contents",
    "UINT32": "uint_contents",
    "UINT64": "uint64_contents",
    "INT8": "int_contents",
    "INT16": "int_contents",
    "INT32": "int_contents",
    "INT64": "int64_contents",
    "FP32": "fp32_contents",
    "FP64": "fp64_contents",
    "BYTES": "bytes_contents",
}
"""Field of InferTensorContents for each datatype; FP16 and BF16 exist only as raw contents."""

MAX_ELEMENTS = 2**40
MAX_DIMENSIONS = 64
"""No tensor has more elements or dimensions than these: a larger shape is a mistake or an attack."""

MAX_BESIDE_EMPTY = 2**24
"""Most elements of an empty tensor, were its empty dimensions 1: it costs its sender nothing, whatever its
other dimensions, but what a model makes of it need not be empty."""

DECODED_AT_ONCE = 4096
"""Elements, one by one, that the thread that reads from the network may decode: less than a millisecond."""

REGION = "shared_memory_region"
OFFSET = "shared_memory_offset"
BYTE_SIZE = "shared_memory_byte_size"


def input_forms(request: pb.ModelInferRequest) -> dict[str, Form]:
    """What a request says its inputs are, by name; raises :class:`InvalidRequest` naming the one at fault."""
    forms: dict[str, Form] = {}
    for tensor in request.inputs:
        if tensor.name in forms:
            raise InvalidRequest(f"input '{tensor.name}' is given twice")
        shape = _shape(tensor)
        forms[tensor.name] = Form(DTYPES[tensor.datatype], shape)
    return forms


def decodes_slowly(request: pb.ModelInferRequest) -> bool:
    """Whether many elements must be looked at one by one; all other contents are taken as they lie."""
    for tensor in request.inputs:
        if tensor.datatype == "BYTES" or tensor.HasField("contents"):
            shape = tensor.shape
            if len(shape) <= MAX_DIMENSIONS and math.prod(shape) > DECODED_AT_ONCE:
                return True
    return False


def decode_inputs(request: pb.ModelInferRequest, shared_memory: SharedMemory) -> dict[str, Array]:
    """The input tensors of a request by name, of the forms that :func:`input_forms` has found to be possible.

    Raises :class:`InvalidRequest` naming the tensor at fault, and :class:`RegionNotFound`.
    """
    raw = request.raw_input_contents
    slots = [slot(tensor.parameters, shared_memory) for tensor in request.inputs]
    sent = slots.count(None)
    if sent < len(slots):
        shared_memory.check_inputs(filter(None, slots))
    if raw and len(raw) != sent:
        raise InvalidRequest(
            f"raw_input_contents has {len(raw)} buffers for {sent} inputs; send one for each"
        )
    buffers = iter(raw)
    arrays: dict[str, Array] = {}
    for tensor, place in zip(request.inputs, slots, strict=True):
        name, shape = tensor.name, tuple(tensor.shape)
        if (raw or place) and tensor.HasField("contents"):
            raise InvalidRequest(f"input '{name}' has typed contents beside others; send one kind of them")
        count = math.prod(shape)
        if place is not None:
            flat = _from_raw(tensor, place.read(), count)
        else:
            flat = _from_raw(tensor, next(buffers), count) if raw else _from_typed(tensor, count)
        arrays[name] = flat.reshape(shape)
    return arrays


def slot(parameters: Parameters, shared_memory: SharedMemory) -> Slot | None:
    """Where in shared memory a tensor lies; None for one that is sent."""
    if REGION not in parameters:
        return None
    return shared_memory.slot(
        string(parameters, REGION), integer(parameters, OFFSET, 0), integer(parameters, BYTE_SIZE, 0)
    )


def requested_outputs(request: pb.ModelInferRequest) -> tuple[str, ...]:
    """Names of the outputs that a request asks for; empty for all."""
    return tuple([output.name for output in request.outputs])


def encode_outputs(
    response: pb.ModelInferResponse, named: Sequence[tuple[str, Array]], *, typed: bool
) -> None:
    """Append output tensors to a response, in typed contents if asked for and possible, else raw."""
    typed = typed and all(datatype_name(array.dtype) in TYPED_FIELDS for _, array in named)
    for name, array in named:
        datatype = datatype_name(array.dtype)
        tensor = response.outputs.add(name=name, datatype=datatype, shape=array.shape)
        if typed:
            getattr(tensor.contents, TYPED_FIELDS[datatype]).extend(array.ravel().tolist())
        else:
            response.raw_output_contents.append(raw_contents(array))


def raw_contents(array: Array) -> bytes:
    """The elements of a tensor in raw form."""
    if array.dtype.kind == "O":
        return b"".join(_length_prefixed(array.ravel().tolist()))
    return array.tobytes()


def is_typed(request: pb.ModelInferRequest) -> bool:
    """Whether a request carries its inputs as typed contents."""
    return not request.raw_input_contents and any(tensor.HasField("contents") for tensor in request.inputs)


def wire_shape(spec: TensorSpec) -> list[int]:
    """A tensor's shape as metadata tells it: −1 for every dimension that may vary."""
    return [dim if isinstance(dim, int) else -1 for dim in spec.shape or ()]


def _shape(tensor: pb.ModelInferRequest.InferInputTensor) -> tuple[int, ...]:
    if tensor.datatype not in DTYPES:
        raise InvalidRequest(
            f"input '{tensor.name}': unknown datatype '{tensor.datatype}'; "
            f"the protocol has {', '.join(DTYPES)}"
        )
    shape = tuple(tensor.shape)
    if len(shape) > MAX_DIMENSIONS:
        raise InvalidRequest(
            f"input '{tensor.name}': {len(shape)} dimensions; a tensor has {MAX_DIMENSIONS} at most"
        )
    if not _is_shape(shape):
        raise InvalidRequest(f"input '{tensor.name}': shape {list(shape)} is not the shape of a tensor")
    return shape


@lru_cache(maxsize=1024)
def _is_shape(dims: tuple[int, ...]) -> bool:
    most = MAX_ELEMENTS if all(dims) else MAX_BESIDE_EMPTY
    return all(dim >= 0 for dim in dims) and math.prod(max(dim, 1) for dim in dims) <= most


def _from_raw(tensor: pb.ModelInferRequest.InferInputTensor, raw: bytes, count: int) -> Array:
    if tensor.datatype == "BYTES":
        return _from_length_prefixed(tensor.name, raw, count)
    dtype = DTYPES[tensor.datatype]
    if len(raw) != count * dtype.itemsize:
        raise InvalidRequest(
            f"input '{tensor.name}': {tensor.datatype} {list(tensor.shape)} takes "
            f"{count * dtype.itemsize} bytes, got {len(raw)}"
        )
    if tensor.datatype == "BOOL":  # true is any byte but 0 here, but only 1 to what runs the model
        truth: Array = np.frombuffer(raw, np.uint8) != 0
        return truth
    array = np.frombuffer(raw, dtype)
    return array if array.flags.aligned else array.copy()


def _from_typed(tensor: pb.ModelInferRequest.InferInputTensor, count: int) -> Array:
    if tensor.datatype not in TYPED_FIELDS:
        if not count and not tensor.HasField("contents"):
            return np.empty(0, DTYPES[tensor.datatype])
        raise InvalidRequest(f"input '{tensor.name}': {tensor.datatype} exists only as raw contents")
    expected = TYPED_FIELDS[tensor.datatype]
    for field, _ in tensor.contents.ListFields():
        if field.name != expected:
            raise InvalidRequest(
                f"input '{tensor.name}': {tensor.datatype} belongs in {expected}, got {field.name}"
            )
    values = getattr(tensor.contents, expected)
    if len(values) != count:
        raise InvalidRequest(
            f"input '{tensor.name}': shape {list(tensor.shape)} takes {count} elements, "
            f"got {len(values)} in {expected}"
        )
    try:
        return np.fromiter(values, DTYPES[tensor.datatype], count)
    except OverflowError as error:
        raise InvalidRequest(f"input '{tensor.name}': {error}") from None


def _from_length_prefixed(name: str, raw: bytes, count: int) -> Array:
    """BYTES in raw form: each element is its length as 4 little-endian bytes, then its bytes."""
    elements: list[bytes] = []
    position = 0
    while position + 4 <= len(raw) and len(elements) < count:
        (length,) = struct.unpack_from("<I", raw, position)
        elements.append(raw[position + 4 : position + 4 + length])
        position += 4 + length
    if position != len(raw) or len(elements) != count:
        raise InvalidRequest(
            f"input '{name}': expected {count} BYTES elements, each a 4-byte little-endian length and its "
            f"bytes; the {len(raw)} bytes sent hold {len(elements)} whole ones"
        )
    array = np.empty(count, dtype=np.object_)
    array[:] = elements
    return array


def _length_prefixed(elements: Sequence[bytes]) -> Iterator[bytes]:
    for element in elements:
        yield struct.pack("<I", len(element))
        yield element
