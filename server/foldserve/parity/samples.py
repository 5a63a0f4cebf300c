"""A model's inputs read from files, samples along the first axis, and given out in batches."""

import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import ml_dtypes
import numpy as np

from foldserve.errors import InvalidModel
from foldserve.runtime.session import Array
from foldserve.runtime.tensors import TensorSpec

DAMAGED = (EOFError, KeyError, OSError, RuntimeError, ValueError, zipfile.BadZipFile, zlib.error)
"""What zipfile and numpy raise of archives that are damaged, encrypted or of a kind that they do not know."""

MOST_BYTES = 4 * 2**30
"""Of an archive's arrays together, unpacked: some samples are enough."""


def read_samples(path: Path, inputs: Sequence[TensorSpec]) -> dict[str, Array]:
    """The samples of each input: arrays named like them in an ``.npz``; the only one's array in an ``.npy``.

    Raises :class:`InvalidModel` naming the file and the array at fault.
    """
    arrays = _only_array(path, inputs) if path.suffix == ".npy" else _named_arrays(path, inputs)
    return {spec.name: _checked(path, spec, arrays) for spec in inputs}


def in_batches(
    samples: Mapping[str, Array], inputs: Sequence[TensorSpec], largest_batch: int
) -> Iterator[dict[str, Array]]:
    """``samples`` in batches of ``largest_batch``, or of the model's fixed batch: then whole ones only."""
    lengths = {array.shape[:1] for array in samples.values()}
    fixed = {spec.shape[0] for spec in inputs if spec.shape and isinstance(spec.shape[0], int)}
    if len(lengths) != 1 or lengths == {()} or len(fixed) > 1:
        yield dict(samples)  # no common batch axis
        return
    ((rows,),) = lengths
    batch = next(iter(fixed)) if fixed else largest_batch
    last = rows - batch if fixed else rows - 1
    for start in range(0, last + 1, batch):
        yield {name: array[start : start + batch] for name, array in samples.items()}


def _named_arrays(path: Path, inputs: Sequence[TensorSpec]) -> dict[str, Array]:
    if not zipfile.is_zipfile(path):
        raise InvalidModel(f"{path}: cannot be read as .npz (no such archive); write it with numpy.savez")
    wanted = {spec.name for spec in inputs}
    try:
        # Of a damaged archive that it opened itself, numpy leaves the file open.
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            unpacked = sum(
                archive.zip.getinfo(f"{name}.npy").file_size for name in wanted & set(archive.files)
            )
            if unpacked > MOST_BYTES:
                raise InvalidModel(f"{path}: {unpacked} bytes when unpacked, of {MOST_BYTES} at most")
            return {name: archive[name] for name in archive.files if name in wanted}
    except DAMAGED as error:
        raise InvalidModel(f"{path}: cannot be read as .npz ({error}); write it with numpy.savez") from error


def _only_array(path: Path, inputs: Sequence[TensorSpec]) -> dict[str, Array]:
    if len(inputs) != 1:
        names = ", ".join(f"'{spec.name}'" for spec in inputs)
        raise InvalidModel(f"{path}: one array, and the model takes {names}; write them to an .npz file")
    try:
        return {inputs[0].name: np.load(path, allow_pickle=False)}
    except (OSError, ValueError) as error:
        raise InvalidModel(f"{path}: cannot be read as .npy ({error}); write it with numpy.save") from error


def _checked(path: Path, spec: TensorSpec, arrays: Mapping[str, Array]) -> Array:
    """The samples of one input, in its dtype."""
    if spec.name not in arrays:
        raise InvalidModel(f"{path}: no array '{spec.name}'; name the arrays like the model's inputs")
    array = arrays[spec.name]
    if not isinstance(array, np.ndarray):  # a member that is no array comes as its bytes
        raise InvalidModel(f"{path}: '{spec.name}' is no array; write it with numpy.savez")
    if spec.dtype == ml_dtypes.bfloat16 and array.dtype == np.dtype("V2"):
        array = array.view(spec.dtype)  # .npz keeps the bytes of a bfloat16 array but not its name
    elif spec.dtype == np.object_ and array.dtype.kind in "SU":
        strings = [text.encode() if isinstance(text, str) else text for text in array.ravel().tolist()]
        array = np.array(strings, np.object_).reshape(array.shape)
    if array.dtype != spec.dtype:
        raise InvalidModel(f"{path}: array '{spec.name}' is {array.dtype}, the model takes {spec.dtype}")
    if spec.shape is not None and not _fits(array.shape[1:], spec.shape[1:]):
        raise InvalidModel(
            f"{path}: array '{spec.name}' has shape {list(array.shape)}, the model takes {list(spec.shape)}"
        )
    return array


def _fits(shape: tuple[int, ...], expected: tuple[int | str | None, ...]) -> bool:
    return len(shape) == len(expected) and all(
        size == dim or not isinstance(dim, int) for size, dim in zip(shape, expected, strict=True)
    )
