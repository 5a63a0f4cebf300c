"""Inputs and outputs of commands in files: ``.npy``, ``.npz``, images, labels."""

import os
from collections.abc import Sequence
from pathlib import Path
from zipfile import BadZipFile, ZipFile

import numpy as np

from foldserve_client.inference import InferResult, Inputs

BEGINNINGS = (b"\x93NUMPY", b"PK")
"""How .npy and .npz files begin."""


class UnreadableFile(ValueError):
    """A file that is not what a command can use; the text says what would be."""


def holds_arrays(file: Path) -> bool:
    """Whether a file is ``.npy`` or ``.npz``, whatever its name."""
    with file.open("rb") as stream:
        return stream.read(max(map(len, BEGINNINGS))).startswith(BEGINNINGS)


def read_arrays(file: Path) -> Inputs:
    """One array, or arrays by name; raises UnreadableFile."""
    with file.open("rb") as stream:
        try:
            loaded = np.load(stream, allow_pickle=False)
            return loaded if isinstance(loaded, np.ndarray) else dict(loaded)
        except (ValueError, EOFError, BadZipFile) as error:
            raise UnreadableFile(f"{file} cannot be read: {error}") from None


def check_npz(file: Path) -> None:
    """Raise UnreadableFile for a name that no ``.npz`` can be written under; work comes after this."""
    if file.suffix != ".npz":
        raise UnreadableFile(f"--save {file}: end its name in .npz")
    if not os.access(file if file.exists() else file.parent, os.W_OK):
        raise UnreadableFile(f"--save {file}: it cannot be written there; is there such a folder?")


def write_arrays(file: Path, result: InferResult) -> None:
    """Outputs as ``.npz``; raises UnreadableFile for what no ``.npz`` can hold."""
    for name, array in result.items():
        if array.dtype.kind in "OV":
            raise UnreadableFile(
                f"output '{name}' has elements that .npz has no type for ({array.dtype.name}); use --json"
            )
    with ZipFile(file, "w") as archive:  # numpy.savez takes no array named "file"
        for name, array in result.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as stream:
                np.lib.format.write_array(stream, array, allow_pickle=False)


def read_labels(file: Path) -> Sequence[str]:
    """One label per line."""
    try:
        return file.read_text().splitlines()
    except UnicodeDecodeError:
        raise UnreadableFile(f"{file} is no text; labels are one per line") from None
