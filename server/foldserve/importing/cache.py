"""Imports kept on disk: the same program read by the same versions gives the same model, so it is made once.

    <cache>/imports/<key>/model.onnx, model.onnx.data (if large), entry.json

``entry.json`` is written last and holds the import report and the SHA-256 of each file: an entry that is
incomplete or damaged is found out and made anew.
"""

import hashlib
import shutil
import tempfile
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from foldserve import __version__
from foldserve.importing.importer import import_program
from foldserve.importing.report import ImportReport

MODEL = "model.onnx"
ENTRY = "entry.json"
MAKERS = ("torch", "onnxscript", "onnx-ir")
"""Packages whose version may change what an import writes."""


class _Entry(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    report: ImportReport
    sha256: dict[str, str]


def import_cached(
    program: Path, cache: Path, *, timeout_s: float, memory_limit_bytes: int | None = None
) -> tuple[Path, ImportReport]:
    """The ONNX model that ``program`` is imported as, from ``cache`` or put there; and how it was imported.

    Raises what :func:`~foldserve.importing.importer.import_program` raises, and OSError for a folder that
    cannot be written.
    """
    folder = cache.expanduser() / "imports" / _key(program)
    if (report := _intact(folder)) is not None:
        return folder / MODEL, report
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".new-", dir=folder.parent) as scratch:
        made = Path(scratch) / "entry"
        report = import_program(
            program, made / MODEL, timeout_s=timeout_s, memory_limit_bytes=memory_limit_bytes
        )
        sha256 = {file.name: _sha256(file) for file in made.iterdir()}
        (made / ENTRY).write_text(_Entry(report=report, sha256=sha256).model_dump_json())
        shutil.rmtree(folder, ignore_errors=True)
        made.replace(folder)
    return folder / MODEL, report


def _intact(folder: Path) -> ImportReport | None:
    """The report of a whole entry; None where there is none, or its files are not what was written."""
    try:
        entry = _Entry.model_validate_json((folder / ENTRY).read_bytes())
        intact = all(_sha256(folder / name) == digest for name, digest in entry.sha256.items())
    except (OSError, ValidationError):
        return None
    return entry.report if intact and MODEL in entry.sha256 else None


def _key(program: Path) -> str:
    digest = hashlib.sha256(_sha256(program).encode())
    digest.update(__version__.encode())
    for package in MAKERS:
        digest.update(f"{package}={_version(package)}".encode())
    return digest.hexdigest()


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""  # the import will say so


def _sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
