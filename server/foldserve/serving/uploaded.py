"""Models that come in a load request: their files, in a private folder that lives as long as the model."""

import shutil
import tempfile
import weakref
from collections.abc import Mapping
from pathlib import Path, PurePosixPath

from foldserve.errors import InvalidRequest
from foldserve.serving.repository import ModelFolder, look_at

LONGEST_PATH = 255
"""Characters of a file's path within the model's folder."""


class ScratchFolder:
    """A folder that only this process may enter, removed with the last reference to this object."""

    def __init__(self) -> None:
        self.path = Path(tempfile.mkdtemp(prefix="foldserve-"))
        weakref.finalize(self, shutil.rmtree, self.path, ignore_errors=True)


def written(name: str, files: Mapping[str, bytes]) -> ModelFolder:
    """The folder of a model whose files are given by their paths in it, such as ``1/model.onnx``.

    Raises :class:`InvalidRequest` for a path that leads out of the folder, and where none is in a version's.
    """
    scratch = ScratchFolder()
    folder = scratch.path / name
    for path, content in files.items():
        file = folder / _checked(path)
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(content)
        except OSError as error:
            raise InvalidRequest(f"the file '{path}' cannot be written: {error.strerror}") from None
    model = look_at(folder, scratch.path, owner=scratch)
    if not model.versions:
        raise InvalidRequest(
            f"no file of model '{name}' lies in a version folder; name them like 'file:1/model.onnx'"
        )
    return model


def _checked(path: str) -> PurePosixPath:
    parts = path.split("/")
    printable = path.isprintable() and "\\" not in path and len(path) <= LONGEST_PATH
    if not printable or any(part in ("", ".", "..") for part in parts):
        raise InvalidRequest(
            f"the file path {path[:LONGEST_PATH]!r} does not lie in the model's folder; "
            f"name it like 'file:1/model.onnx'"
        )
    return PurePosixPath(path)
