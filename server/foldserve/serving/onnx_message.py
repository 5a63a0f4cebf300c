"""The message in an ONNX file, its weights read beside it: once, and to where they stay.

protobuf would copy a model's weights from the file, again into its own memory, and again for whoever looks at
them; that is most of the time of reading a model. So its outer levels are walked here, the graph's large
tensors are read straight into one array, and all the rest is left to protobuf.

The format: a message is a sequence of fields, each a tag (number · 8 + wire type), then its content, which
for strings, bytes and messages begins with its length (https://protobuf.dev/programming-guides/encoding/).
To join the parts of a message is to merge it, so fields may be left out and parsed in pieces.
"""

import mmap
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx_ir as ir
from onnx import GraphProto, ModelProto, TensorProto

from foldserve.runtime.in_memory import SMALLEST_WEIGHT_BYTES, WEIGHT_TYPES
from foldserve.runtime.session import Array

ALIGNMENT = 64
"""Of each tensor in memory, in bytes: a cache line, and more than any element type asks for."""

LONGEST_HEAD = 20
"""Bytes of a tag and a length, at most: two numbers of 7 bits a byte."""

VARINT, FIXED64, LENGTH_DELIMITED, FIXED32 = 0, 1, 2, 5
"""Wire types."""


class DamagedMessage(Exception):
    """The file is no protobuf message."""


@dataclass(frozen=True)
class _Field:
    """A field, as positions in the file."""

    number: int
    start: int
    content: int
    """Where its content begins, behind tag and length."""

    end: int


@dataclass(frozen=True)
class _Tensor:
    """A large tensor of the graph: the message without its data, and where that lies in the file."""

    message: TensorProto
    data: _Field


def read_message(path: Path) -> tuple[ModelProto, dict[str, ir.TensorProtocol]]:
    """The model in a file, and by name the data of those of its initialisers that lack them there.

    Raises :class:`DamagedMessage`, protobuf's DecodeError, and OSError.
    """
    with path.open("rb") as file:
        return _Reader(file.fileno()).read()


class _Reader:
    """One file that is being read."""

    def __init__(self, file: int) -> None:
        self._file = file
        self._model = ModelProto()
        self._tensors: list[_Tensor] = []

    def read(self) -> tuple[ModelProto, dict[str, ir.TensorProtocol]]:
        rest = bytearray()
        for field in self._fields(0, os.fstat(self._file).st_size):
            if field.number == ModelProto.GRAPH_FIELD_NUMBER:
                self._read_graph(field)
            else:
                rest += self._bytes(field.start, field.end)
        self._model.MergeFromString(bytes(rest))
        return self._model, self._read_tensors()

    def _read_graph(self, graph: _Field) -> None:
        rest = bytearray()
        for field in self._fields(graph.content, graph.end):
            if field.number == GraphProto.INITIALIZER_FIELD_NUMBER:
                self._read_initialiser(field)
            else:
                rest += self._bytes(field.start, field.end)
        self._model.graph.MergeFromString(bytes(rest))

    def _read_initialiser(self, initialiser: _Field) -> None:
        """Its data apart, if they are many and plain numbers."""
        message = self._model.graph.initializer.add()
        rest = bytearray()
        data = None
        for field in self._fields(initialiser.content, initialiser.end):
            if field.number == TensorProto.RAW_DATA_FIELD_NUMBER:
                data = field  # the last one counts
            else:
                rest += self._bytes(field.start, field.end)
        message.MergeFromString(bytes(rest))
        if data is None:
            return
        plain = TensorProto.DataType.Name(message.data_type) in WEIGHT_TYPES
        if plain and data.end - data.content >= SMALLEST_WEIGHT_BYTES:
            self._tensors.append(_Tensor(message, data))
        else:
            message.raw_data = self._bytes(data.content, data.end)

    def _read_tensors(self) -> dict[str, ir.TensorProtocol]:
        starts = [0]
        for tensor in self._tensors:
            size = tensor.data.end - tensor.data.content
            starts.append(starts[-1] + -(-size // ALIGNMENT) * ALIGNMENT)
        # Mapped all at once: page by page, when they are first written to, takes longer than reading.
        pages = mmap.mmap(-1, max(starts[-1], 1), mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | mmap.MAP_POPULATE)
        memory = np.frombuffer(pages, np.uint8)
        read: dict[str, ir.TensorProtocol] = {}
        for tensor, start in zip(self._tensors, starts[:-1], strict=True):
            place = memory[start : start + tensor.data.end - tensor.data.content]
            self._read_into(place, tensor.data.content)
            message = tensor.message
            dtype = ir.DataType(message.data_type)
            array: Array = place.view(dtype.numpy()).reshape(tuple(message.dims))
            read[message.name] = ir.Tensor(
                array, dtype=dtype, name=message.name, doc_string=message.doc_string or None
            )
        return read

    def _fields(self, start: int, end: int) -> Iterator[_Field]:
        """The fields of the message that lies there."""
        while start < end:
            head = self._bytes(start, min(start + LONGEST_HEAD, end))
            tag, used = _number(head, 0)
            kind, content, size = tag & 7, start + used, 0
            if kind == LENGTH_DELIMITED:
                size, used = _number(head, used)
                content = start + used
            elif kind == VARINT:
                size = _number(head, used)[1] - used
            elif kind in (FIXED64, FIXED32):
                size = 8 if kind == FIXED64 else 4
            else:
                raise DamagedMessage(f"no field begins at byte {start}")
            if content + size > end:
                raise DamagedMessage(f"the field at byte {start} does not end with what it is part of")
            yield _Field(tag >> 3, start, content, content + size)
            start = content + size

    def _bytes(self, start: int, end: int) -> bytes:
        read = os.pread(self._file, end - start, start)
        if len(read) < end - start:
            raise DamagedMessage("it became shorter while it was read")
        return read

    def _read_into(self, place: Array, start: int) -> None:
        view = place.data
        while view:
            count = os.preadv(self._file, [view], start)
            if count == 0:
                raise DamagedMessage("it became shorter while it was read")
            view, start = view[count:], start + count


def _number(data: bytes, at: int) -> tuple[int, int]:
    """The number of 7 bits a byte that begins at ``at``, lowest first, and where it ends."""
    number = shift = 0
    for index in range(at, len(data)):
        number |= (data[index] & 0x7F) << shift
        if data[index] < 0x80:
            return number, index + 1
        shift += 7
    raise DamagedMessage("it ends within a number")
