"""What a process leaves behind that ended while it opened a model.

    <cache>/opening/<key>/<a file of each process that opens the model>

Whoever opens a model has a file there, and holds it locked: several servers may share a cache. A file that
nobody holds is a mark; the next one who opens the model and lives removes it.
"""

import fcntl
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_held: set[Path] = set()


def ends_under(marks: Path) -> int:
    """How many processes ended while they opened what the folder ``marks`` stands for."""
    return len(_left_in(marks))


@contextmanager
def under(marks: Path) -> Iterator[bool]:
    """Around opening a model; tells whether an end of the process would leave a mark."""
    try:
        descriptor, file = _made_in(marks)
    except OSError:  # a cache that cannot be written
        yield False
        return
    _held.add(file)
    try:
        yield True
    finally:
        os.close(descriptor)
        _held.discard(file)
        for mark in (file, *_left_in(marks)):
            _remove(mark)
        with suppress(OSError):  # somebody else opens it, too
            marks.rmdir()


def leave(marks: Path) -> None:
    """Leave a mark, if that is possible."""
    with suppress(OSError):
        os.close(_made_in(marks)[0])


def forgive() -> None:
    """Leave none for what this process opens now: it is stopped meanwhile, and does not die of its models."""
    for file in list(_held):
        _remove(file)


def _made_in(marks: Path) -> tuple[int, Path]:
    """A new file, locked for as long as its descriptor is open."""
    marks.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(dir=marks)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
    except OSError:  # a file system without locks, where it would look as if nobody held it
        os.close(descriptor)
        _remove(Path(name))
        raise
    return descriptor, Path(name)


def _left_in(marks: Path) -> list[Path]:
    try:
        return [file for file in marks.iterdir() if not _is_held(file)]
    except OSError:  # nobody ever opened it
        return []


def _is_held(file: Path) -> bool:
    """Whether a process holds it; one that is gone by now is nobody's mark either."""
    try:
        with file.open("rb") as opened:
            fcntl.flock(opened, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return True
    return False


def _remove(file: Path) -> None:
    with suppress(OSError):
        file.unlink(missing_ok=True)
