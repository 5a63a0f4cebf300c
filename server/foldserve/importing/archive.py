"""Which files are ``torch.export`` archives, and what to say about those that are not.

A pickle can run any code when it is opened, so none is ever opened: not a ``.pt`` file, and not the pickles
that a ``.pt2`` archive may carry (sample inputs, weights of unusual tensor types, custom objects). That is no
sandbox, though: a program is code, and torch's reader trusts it.
"""

import json
import re
import shutil
import zipfile
import zlib
from pathlib import Path
from typing import NoReturn

from foldserve.errors import InvalidModel, UnsupportedModel

PICKLE_SUFFIXES = frozenset({".pt", ".pth", ".pkl"})

HOW_TO_EXPORT = """\
Save the model as a torch.export program instead:
    batch = torch.export.Dim("batch")
    program = torch.export.export(model.eval(), (example_input,), dynamic_shapes=({0: batch},))
    torch.export.save(program, "model.pt2")"""

_PROGRAM = "models/model.json"
_SAMPLE_INPUTS = "data/sample_inputs/"
_DAMAGED = (EOFError, KeyError, OSError, RuntimeError, TypeError, ValueError, zipfile.BadZipFile, zlib.error)
"""What zipfile and json raise of archives that are damaged, encrypted or of a kind that they do not know."""

_LARGEST_LIST_BYTES = 64 * 2**20
"""Of the list of an archive's weights, unpacked: a hundred bytes for each."""

_PAYLOADS = re.compile(r"data/(weights|constants)/.*_config\.json")
_PLAIN_TENSORS = ("weight_", "tensor_")
_DEVICE = re.compile(rb'"type":\s*"\w+",\s*"index":\s*(null|-?\d+)')


def refuse_pickle(path: Path) -> NoReturn:
    """Say why ``path`` is not loaded and how to export the model.

    Raises:
        UnsupportedModel: always.
    """
    raise UnsupportedModel(
        f"{path}: pickled models are not loaded, since opening one can run any code. {HOW_TO_EXPORT}"
    )


def check_archive(path: Path) -> None:
    """Make sure that ``torch.export.save`` wrote ``path`` and that it can be read without opening a pickle.

    Raises:
        InvalidModel: the file is damaged or cannot be read.
        UnsupportedModel: the file is something else.
    """
    try:
        with path.open("rb") as file:
            if not zipfile.is_zipfile(file):
                raise UnsupportedModel(f"{path}: not a torch.export archive. {HOW_TO_EXPORT}")
        with zipfile.ZipFile(path) as archive:
            _check_members(path, archive)
    except _DAMAGED as error:
        raise InvalidModel(f"{path}: cannot be read: {error}. Copy or export it again") from error


def _check_members(path: Path, archive: zipfile.ZipFile) -> None:
    members = {_member(info).lower(): info for info in archive.infolist()}
    if len(members) < len(archive.infolist()):  # torch might read another one than the one checked here
        raise InvalidModel(f"{path}: several of its members have the same name. Export it again")
    if "data.pkl" in members:
        refuse_pickle(path)
    if "serialized_exported_program.json" in archive.namelist():
        raise UnsupportedModel(f"{path}: saved by torch before 2.8. Save it again with a later one")
    if _PROGRAM not in members:
        raise UnsupportedModel(f"{path}: holds no torch.export program. {HOW_TO_EXPORT}")
    for name, info in members.items():
        if not _PAYLOADS.fullmatch(name):
            continue
        if info.file_size > _LARGEST_LIST_BYTES:
            raise InvalidModel(f"{path}: its list of weights, '{name}', takes {info.file_size} bytes")
        if pickled := _pickled(archive.read(info)):
            raise UnsupportedModel(
                f"{path}: {', '.join(pickled)}: pickled, as tensor subclasses and custom objects are. "
                "Replace by plain tensors and export again"
            )


def _pickled(payloads: bytes) -> list[str]:
    """Names of the weights or constants that torch would unpickle, from the archive's list of them."""
    return [
        name
        for name, payload in json.loads(payloads)["config"].items()
        if payload["use_pickle"] or not payload["path_name"].startswith(_PLAIN_TENSORS)
    ]


def write_portable(path: Path, destination: Path) -> None:
    """Copy the archive ``path`` without its pickled sample inputs and with every tensor placed on the CPU.

    So a program that was exported on a GPU can be read on a machine that has none.
    """
    with zipfile.ZipFile(path) as source, zipfile.ZipFile(destination, "w") as target:
        for info in source.infolist():
            name = _member(info)
            if name.startswith(_SAMPLE_INPUTS):
                target.writestr(info, b"")  # torch reads an empty file as "none given"
            elif name.endswith(".json"):
                target.writestr(info, _DEVICE.sub(b'"type": "cpu", "index": null', source.read(info)))
            else:
                with source.open(info) as reading, target.open(info, "w") as writing:
                    shutil.copyfileobj(reading, writing, 1 << 20)


def _member(info: zipfile.ZipInfo) -> str:
    """Name inside the archive without its root folder, which is called after the file first saved to."""
    return info.filename.partition("/")[2]
