"""Entries of a cache on disk: folders whose files are proven whole each time they are read.

    <folder>/<files of the maker>, entry.json

``entry.json`` is written last and holds the maker's record and a digest of each file. A new entry takes
its place in one step, so two processes may make the same one; an incomplete or damaged one is found out.
"""

import contextlib
import hashlib
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Generic, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from foldserve import __version__
from foldserve.runtime.cpus import available_cpus

ENTRY = "entry.json"

UNFINISHED = ".new-"
"""What the names of folders begin with in which entries are being made."""

ABANDONED_S = 24 * 60 * 60.0
"""Longer than any entry takes to make."""

RECENT_S = 60.0
"""Entries that were used so lately, in seconds, are not pruned."""

PIECE_BYTES = 8 * 2**20
"""Of a file, hashed by one thread."""

READ_BYTES = 256 * 2**10
"""Read at a time, a divisor of a piece: it stays in the processor's cache until it is hashed."""

HASHING_THREADS = 4
"""Most for one file; a server that loads must still answer, so there is no more than one on a processor."""

Record = TypeVar("Record", bound=BaseModel)


class _Entry(BaseModel, Generic[Record]):
    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="strings")

    record: Record
    digests: dict[str, str]
    """Of each file, and of the record as it is written (under the name of this file)."""


def read_entry(folder: Path, kind: type[Record]) -> Record | None:
    """The record of a whole entry; None where there is none, or it is not what was written."""
    try:
        entry = _Entry[kind].model_validate_json((folder / ENTRY).read_bytes())  # type: ignore[valid-type]  # a type made at run time
        files = {name: digest for name, digest in entry.digests.items() if name != ENTRY}
        whole = all(digest_of(folder / name) == digest for name, digest in files.items())
    except (OSError, ValidationError):
        return None
    record: Record = entry.record
    if not whole or entry.digests.get(ENTRY) != _digest_of_record(record):
        return None
    with contextlib.suppress(OSError):  # a cache may be read-only
        os.utime(folder / ENTRY)
    return record


class Draft:
    """An entry in the making: the files in ``folder``, until they are kept."""

    def __init__(self, entry: Path, scratch: Path) -> None:
        self._entry = entry
        self._scratch = scratch
        self._digests: dict[str, str] = {}
        self.folder = scratch / "entry"
        self.folder.mkdir()

    def hash_files(self) -> None:
        """Hash what is there by now and must not change any more; :meth:`keep` does the others."""
        for file in self.folder.iterdir():
            if file.name not in self._digests:
                self._digests[file.name] = digest_of(file)

    def keep(self, record: Record) -> Record:
        """Make the files the entry, with ``record``.

        Where a whole entry is there already, that one stays, and its record is returned. Raises OSError for a
        folder that cannot be written.
        """
        self.hash_files()
        digests = self._digests | {ENTRY: _digest_of_record(record)}
        (self.folder / ENTRY).write_text(_Entry(record=record, digests=digests).model_dump_json())
        try:
            self.folder.replace(self._entry)
        except OSError:
            # Somebody was faster, and may have it open by now; only what is damaged may go.
            kept = read_entry(self._entry, type(record))
            if kept is not None:
                return kept
            self._entry.replace(self._scratch / "damaged")
            self.folder.replace(self._entry)
        return record


@contextmanager
def draft(entry: Path) -> Iterator[Draft]:
    """A draft of the entry in that folder; it is gone when the block ends, unless it was kept.

    Raises OSError for a folder that cannot be written.
    """
    entry.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=UNFINISHED, dir=entry.parent) as scratch:
        yield Draft(entry, Path(scratch))


def write_entry(folder: Path, make: Callable[[Path], Record]) -> Record:
    """Let ``make`` write the files into a folder that it is given, and keep them with the record it returns.

    See :meth:`Draft.keep`. Raises what ``make`` raises, and OSError for a folder that cannot be written.
    """
    with draft(folder) as made:
        return made.keep(make(made.folder))


def prune(cache: Path, most_bytes: int) -> None:
    """Remove the entries below ``cache`` that were used longest ago, until the others fit in ``most_bytes``.

    Those of the last minute always stay: somebody may be about to open them. Files that a process has open
    or mapped live on for it. What a process did not live to finish goes, too.
    """
    for unfinished in cache.glob(f"*/{UNFINISHED}*"):
        if unfinished.stat().st_mtime < time.time() - ABANDONED_S:
            shutil.rmtree(unfinished, ignore_errors=True)
    entries = sorted(cache.glob(f"*/*/{ENTRY}"), key=_last_used, reverse=True)
    total = 0
    for entry in entries:
        total += sum(file.stat().st_size for file in entry.parent.iterdir())
        if total > most_bytes and _last_used(entry) < time.time() - RECENT_S:
            shutil.rmtree(entry.parent, ignore_errors=True)


def entry_key(content: Iterable[str], packages: Iterable[str] = ()) -> str:
    """The name of an entry: a hash of what it is made of, of foldserve's version and of ``packages``'."""
    made_by = [f"{package}={_version(package)}" for package in packages]
    parts = [f"foldserve={__version__}", *made_by, *content]
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()


def digest_of(file: Path) -> str:
    """SHA-256 of the SHA-256s of a file's pieces, in hexadecimal: large files are hashed side by side."""
    with file.open("rb") as stream:
        digest = partial(_digest_of_piece, stream.fileno())
        starts = range(0, os.fstat(stream.fileno()).st_size, PIECE_BYTES)
        if len(starts) > 1:
            with ThreadPoolExecutor(min(HASHING_THREADS, available_cpus()), "hashing") as beside:
                pieces = list(beside.map(digest, starts))
        else:
            pieces = [digest(start) for start in starts]
    return hashlib.sha256(b"".join(pieces)).hexdigest()


def _digest_of_piece(file: int, start: int) -> bytes:
    digest = hashlib.sha256()
    for position in range(start, start + PIECE_BYTES, READ_BYTES):
        digest.update(os.pread(file, READ_BYTES, position))
    return digest.digest()


def _digest_of_record(record: BaseModel) -> str:
    return hashlib.sha256(record.model_dump_json().encode()).hexdigest()


def _last_used(entry: Path) -> float:
    return entry.stat().st_mtime


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""  # whoever needs it will say so
