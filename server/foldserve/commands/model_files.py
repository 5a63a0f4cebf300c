"""Model files: opened (a ``.pt2`` program is translated first), described by size and hash, and written."""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import onnx_ir as ir

from foldserve.commands.progress import doing
from foldserve.commands.report import ModelFile
from foldserve.errors import UnsupportedModel
from foldserve.importing import PICKLE_SUFFIXES, ImportReport, import_program, refuse_pickle
from foldserve.serving.model_file import read_model

LARGEST_MESSAGE_BYTES = 1_500_000_000
"""Models above this keep their weights in a file of their own: a protobuf message ends at 2 GB."""

_CHUNK_BYTES = 1 << 20


@dataclass(frozen=True)
class OpenModel:
    """A model as the commands see it."""

    path: Path
    """The file that the user named."""

    onnx: Path
    """The model as an ONNX file: the same, or what the program was translated into."""

    model: ir.Model
    imported: ImportReport | None
    """How the program was translated; None for an ONNX file."""


def open_model(path: Path, scratch: Path, import_timeout_s: float) -> OpenModel:
    """Read an ``.onnx`` file, or translate a ``.pt2`` program into ``scratch`` and read that.

    Raises the exceptions under :class:`~foldserve.errors.LoadFailed`.
    """
    imported = None
    onnx = path
    if path.suffix in PICKLE_SUFFIXES:
        refuse_pickle(path)
    if path.suffix == ".pt2":
        onnx = scratch / f"{path.stem}.onnx"
        with doing(f"importing {path}"):
            imported = import_program(path, onnx, timeout_s=import_timeout_s)
    elif path.suffix != ".onnx":
        raise UnsupportedModel(f"{path}: neither an .onnx file nor a .pt2 program")
    with doing(f"reading {onnx.name}"):
        return OpenModel(path, onnx, read_model(onnx), imported)


def describe(path: Path, model: ir.Model | None = None) -> ModelFile:
    """Size and SHA-256 of a model file; of one file after the other where ``model`` has external data."""
    return describe_files(path.name, (path, *(external_files(model) if model is not None else ())))


def describe_files(name: str, files: Iterable[Path]) -> ModelFile:
    """Size and SHA-256 of one file after the other, under one name."""
    digest = hashlib.sha256()
    size = 0
    for file in files:
        with file.open("rb") as stream:
            while chunk := stream.read(_CHUNK_BYTES):
                digest.update(chunk)
                size += len(chunk)
    return ModelFile(name=name, bytes=size, sha256=digest.hexdigest())


def external_files(model: ir.Model) -> list[Path]:
    """The files beside the model that hold its weights, by name; empty for a model in one file."""
    tensors = (value.const_value for graph in model.graphs() for value in graph.initializers.values())
    return sorted({Path(tensor.path) for tensor in tensors if isinstance(tensor, ir.ExternalTensor)})


def write_model(model: ir.Model, destination: Path, initializer_bytes: int) -> None:
    """Write ``model`` to ``destination``; its weights to ``<destination>.data`` if they were in a file of
    their own before, or are too large for one protobuf message."""
    apart = initializer_bytes > LARGEST_MESSAGE_BYTES or bool(external_files(model))
    ir.save(model, destination, external_data=f"{destination.name}.data" if apart else None)


def publish(written: Path, destination: Path) -> None:
    """Move a model out of its scratch folder; the data first, so that whoever sees the model finds them."""
    data = written.with_name(f"{written.name}.data")
    beside = destination.with_name(f"{destination.name}.data")
    if data.exists():
        data.replace(beside)
    written.replace(destination)
