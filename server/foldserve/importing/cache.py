"""Imports kept on disk: a program read by the same versions gives the same model, so it is made once."""

from pathlib import Path

from foldserve.disk_cache import digest_of, entry_key, read_entry, write_entry
from foldserve.importing.importer import import_program
from foldserve.importing.report import ImportReport

MODEL = "model.onnx"
MAKERS = ("torch", "onnxscript", "onnx-ir")
"""Packages whose version may change what an import writes."""


def import_cached(
    program: Path, cache: Path, *, timeout_s: float, memory_limit_bytes: int | None = None
) -> tuple[Path, ImportReport]:
    """The ONNX model that ``program`` is imported as, from ``cache`` or put there; and how it was imported.

    Raises what :func:`~foldserve.importing.importer.import_program` raises, and OSError for a folder that
    cannot be written.
    """
    folder = cache.expanduser() / "imports" / entry_key([digest_of(program)], MAKERS)

    def made(into: Path) -> ImportReport:
        return import_program(
            program, into / MODEL, timeout_s=timeout_s, memory_limit_bytes=memory_limit_bytes
        )

    return folder / MODEL, read_entry(folder, ImportReport) or write_entry(folder, made)
