"""Tensors as raw contents: numpy arrays to little-endian bytes and back; and from typed contents.

FP16 is numpy's float16, BF16 is ml_dtypes' bfloat16 (the extra ``bf16``), BYTES are object arrays of
``bytes``; in raw form each BYTES element is preceded by its length as 4 bytes, little endian.
"""

import math
import struct
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from foldserve_proto import grpc_service_pb2 as pb
from numpy.typing import NDArray

from foldserve_client.errors import Internal, InvalidArgument, Unimplemented

Array = NDArray[Any]

_DTYPES = {
    "BOOL": np.dtype(np.bool_),
    "UINT8": np.dtype("<u1"),
    "UINT16": np.dtype("<u2"),
    "UINT32": np.dtype("<u4"),
    "UINT64": np.dtype("<u8"),
    "INT8": np.dtype("<i1"),
    "INT16": np.dtype("<i2"),
    "INT32": np.dtype("<i4"),
    "INT64": np.dtype("<i8"),
    "FP16": np.dtype("<f2"),
    "FP32": np.dtype("<f4"),
    "FP64": np.dtype("<f8"),
    "BYTES": np.dtype(np.object_),
}

_CONTENTS = {
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
"""Where InferTensorContents has the elements of each datatype; FP16 and BF16 exist only as raw contents."""


def dtype_of(datatype: str) -> np.dtype[Any]:
    """The numpy dtype, little endian, of a protocol datatype such as "FP32".

    Raises Unimplemented for BF16 without ml_dtypes and for a datatype that the protocol does not have.
    """
    if datatype == "BF16":
        return _bfloat16()
    if datatype not in _DTYPES:
        raise Unimplemented(f"datatype '{datatype}' is not one of the protocol's: {', '.join(_DTYPES)}, BF16")
    return _DTYPES[datatype]


def datatype_of(dtype: np.dtype[Any]) -> str:
    """The protocol's datatype for arrays of a dtype, in whatever byte order; BYTES for text and objects."""
    if dtype.name == "bfloat16":
        return "BF16"
    wanted = dtype.newbyteorder("<")
    return next((name for name, own in _DTYPES.items() if own == wanted), "BYTES")


def encode(name: str, array: Array) -> bytes:
    """Raw contents of an array that has a dtype of :func:`dtype_of`.

    Raises InvalidArgument naming the tensor for an element of a BYTES tensor that is neither bytes nor str.
    """
    if not array.dtype.hasobject:
        return array.tobytes()
    try:
        return b"".join(_length_prefixed(array))
    except TypeError as error:
        raise InvalidArgument(f"input '{name}': {error}") from None


def decode(name: str, datatype: str, shape: Sequence[int], raw: bytes) -> Array:
    """The array in raw contents: a read-only view of ``raw``, except for BYTES.

    Raises Internal where the bytes do not fit the shape.
    """
    if datatype == "BYTES":
        elements = _elements(raw)
        array = np.empty(len(elements), np.object_)
        array[:] = elements
    else:
        dtype = dtype_of(datatype)
        if len(raw) % dtype.itemsize:
            raise Internal(f"output '{name}': {len(raw)} bytes are not a whole number of {datatype} elements")
        array = np.frombuffer(raw, dtype)
    return _shaped(name, datatype, shape, array)


def decode_typed(name: str, datatype: str, shape: Sequence[int], contents: pb.InferTensorContents) -> Array:
    """The array in typed contents, read-only; raises Internal where they do not fit datatype and shape."""
    dtype = dtype_of(datatype)
    if datatype not in _CONTENTS:
        raise Internal(f"output '{name}': {datatype} without raw contents")
    try:
        array = np.array(list(getattr(contents, _CONTENTS[datatype])), dtype)
    except OverflowError as error:
        raise Internal(f"output '{name}': {error}") from None
    array.flags.writeable = False
    return _shaped(name, datatype, shape, array)


def _shaped(name: str, datatype: str, shape: Sequence[int], array: Array) -> Array:
    if array.size != math.prod(shape):
        raise Internal(f"output '{name}': {array.size} {datatype} elements do not fill shape {list(shape)}")
    return array.reshape(shape)


def _bfloat16() -> np.dtype[Any]:
    try:
        import ml_dtypes  # noqa: PLC0415 - an optional dependency
    except ModuleNotFoundError:
        raise Unimplemented("BF16 tensors need ml_dtypes: pip install 'foldserve-client[bf16]'") from None
    bfloat16: np.dtype[Any] = np.dtype(ml_dtypes.bfloat16)
    return bfloat16


def _length_prefixed(array: Array) -> Iterator[bytes]:
    for element in array.ravel():
        data = element.encode() if isinstance(element, str) else element
        if not isinstance(data, bytes):
            raise TypeError(f"a BYTES element must be bytes or str, got {type(element).__name__}")
        yield struct.pack("<I", len(data))
        yield data


def _elements(raw: bytes) -> list[bytes]:
    elements: list[bytes] = []
    position = 0
    while position < len(raw):
        start = position + 4
        length = int.from_bytes(raw[position:start], "little")
        position = start + length
        elements.append(raw[start:position])
    if position != len(raw):
        raise Internal("raw BYTES contents end in the middle of an element")
    return elements
