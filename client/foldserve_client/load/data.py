"""What the requests of a load test hold: random arrays that fit a model's metadata, or those of files."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from foldserve_proto import grpc_service_pb2 as pb
from numpy.typing import NDArray

from foldserve_client.errors import InvalidArgument
from foldserve_client.files import UnreadableFile, holds_arrays, read_arrays
from foldserve_client.images import read_images
from foldserve_client.inference import Signature
from foldserve_client.load.errors import LoadTestError
from foldserve_client.preparation import Preparation
from foldserve_client.tensors import Array, datatype_of, dtype_of

Metadata = pb.ModelMetadataResponse
Tensor = pb.ModelMetadataResponse.TensorMetadata
Arrays = Mapping[str, Array]
"""The inputs of one request by name."""

Shapes = Mapping[str, Sequence[int]]
"""Whole shapes by input name, for inputs with dynamic dimensions beyond the first."""

VARIANTS = 16
"""Different random requests for a model: a server that remembers answers should not look fast."""

LETTERS = np.frombuffer(b"abcdefghijklmnopqrstuvwxyz", "S1")
BYTES_LENGTH = 8


def random_requests(metadata: Metadata, shapes: Shapes, rows: int, seed: int = 0) -> Iterator[Arrays]:
    """Random inputs: floats from 0 to 1, whole numbers from 0 to 127, ``BYTES`` of eight letters.

    A dynamic first dimension is ``rows``; raises LoadTestError for other dynamic ones that ``shapes`` lacks.
    """
    if not metadata.inputs:
        raise LoadTestError(
            f"the server does not say which inputs model '{metadata.name}' has: give them with --data"
        )
    random = np.random.default_rng(seed)
    wanted = {tensor.name: _shape(tensor, shapes, rows) for tensor in metadata.inputs}
    for _ in range(VARIANTS):
        yield {
            tensor.name: _random(tensor.datatype, wanted[tensor.name], random) for tensor in metadata.inputs
        }


def file_requests(metadata: Metadata, path: Path, rows: int) -> Iterator[Arrays]:
    """The arrays of a .npz file by input name, the one of a .npy file, or images; ``rows`` in each request.

    Arrays are cut along their first dimension where the model lets each of them have any length there; files
    shorter than a request begin anew. Otherwise the file is one request. Raises LoadTestError.
    """
    try:
        if path.is_dir() or not holds_arrays(path):
            yield from _image_requests(metadata, path, rows)
        else:
            yield from _array_requests(metadata, path, rows)
    except (OSError, UnreadableFile) as error:
        raise LoadTestError(str(error)) from None


def described(metadata: Metadata, arrays: Arrays) -> Metadata:
    """The metadata, with inputs as in ``arrays`` where the server names none (MLServer's need not)."""
    if metadata.inputs:
        return metadata
    told = Metadata()
    told.CopyFrom(metadata)
    for name, array in arrays.items():
        told.inputs.add(name=name, datatype=datatype_of(array.dtype), shape=array.shape)
    return told


def _array_requests(metadata: Metadata, path: Path, rows: int) -> Iterator[Arrays]:
    loaded = read_arrays(path)
    if not isinstance(loaded, Mapping):
        loaded = {_only_input(metadata, path): loaded}
    arrays = {name: np.asarray(array) for name, array in loaded.items()}
    dynamic = {tensor.name for tensor in metadata.inputs if tensor.shape and tensor.shape[0] == -1}
    lengths = {array.shape[:1] for array in arrays.values()}
    if len(lengths) != 1 or () in lengths or (metadata.inputs and not arrays.keys() <= dynamic):
        yield arrays
        return
    ((length,),) = lengths
    if not length:
        raise LoadTestError(f"{path} holds arrays without rows")
    for chosen in _cut(length, rows):
        yield {name: array[chosen] for name, array in arrays.items()}


def _image_requests(metadata: Metadata, path: Path, rows: int) -> Iterator[Arrays]:
    """Read when asked for: a folder may hold more images than are ever sent, and than fit into memory."""
    files = sorted(path.iterdir()) if path.is_dir() else [path]
    images = [file for file in files if path == file or (file.is_file() and not file.name.startswith("."))]
    if not images:
        raise LoadTestError(f"{path} is a folder without files")
    name = _only_input(metadata, path)
    spec = Signature(metadata).inputs[0]
    size = spec.shape[0] if spec.shape and spec.shape[0] != -1 else rows
    for chosen in _cut(len(images), size):
        try:
            yield {name: read_images([images[index] for index in chosen], spec, Preparation())}
        except InvalidArgument as error:
            raise LoadTestError(
                f"{error.details} (as for foldserve-client infer; a load test has no such options: "
                "give it a .npz file of such images)"
            ) from None


def _cut(length: int, rows: int) -> Iterator[NDArray[np.intp]]:
    """Which rows are in each request: whole requests only, the last rows that fill none are left out."""
    for start in range(0, max(length - rows, 0) + 1, rows):
        yield np.arange(start, start + rows) % length


def _only_input(metadata: Metadata, path: Path) -> str:
    if len(metadata.inputs) != 1:
        raise LoadTestError(
            f"{path} is for a model with one input; model '{metadata.name}' tells of {len(metadata.inputs)}: "
            "give a .npz file with arrays by input name"
        )
    return metadata.inputs[0].name


def _shape(tensor: Tensor, shapes: Shapes, rows: int) -> tuple[int, ...]:
    if tensor.name in shapes:
        return tuple(shapes[tensor.name])
    first, *others = tensor.shape or (rows,)
    if first not in (-1, rows) and rows != 1:
        raise LoadTestError(f"input '{tensor.name}' has {first} rows always, not {rows}")
    if -1 in others:
        example = ",".join(str(rows if size == -1 else size) for size in tensor.shape)
        raise LoadTestError(
            f"input '{tensor.name}' has the shape {list(tensor.shape)}: "
            f"give a whole one, such as --shape {tensor.name}={example}"
        )
    return (rows if first == -1 else first, *others) if tensor.shape else ()


def _random(datatype: str, shape: tuple[int, ...], random: np.random.Generator) -> Array:
    if datatype == "BYTES":
        letters = random.choice(LETTERS, (*shape, BYTES_LENGTH))
        words = np.ascontiguousarray(letters).view(f"S{BYTES_LENGTH}")[..., 0]
        return words.astype(object)
    dtype = dtype_of(datatype)
    if dtype.kind == "b":
        return random.integers(2, size=shape).astype(dtype)
    if dtype.kind in "iu":
        return random.integers(128, size=shape).astype(dtype)
    return random.random(shape, np.float32).astype(dtype)
