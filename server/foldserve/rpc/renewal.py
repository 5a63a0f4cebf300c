"""What is read from files, and read again when they change while the server runs: certificates, tokens.

A new content counts once two looks in a row find the same: files that are still being written wait. One that
makes no sense leaves what was read before, and is told once.
"""

import hashlib
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

from foldserve.errors import ConfigurationError
from foldserve.observability.logging import get_logger

LOOK_EVERY_S = 0.5
"""Time between two looks at the files, in seconds: they are small, so each look reads them."""

Value = TypeVar("Value")

log = get_logger()


class Renewable(Protocol):
    """What can be looked at for a change."""

    def look(self) -> None:
        """Take over a change, if there is one."""


class Renewed(Generic[Value]):
    """The value that ``parse`` makes of the contents of ``files``, as of the last time that it could.

    Raises :class:`ConfigurationError` where it cannot at the start; ``parse`` raises that, too.
    """

    def __init__(self, what: str, files: Sequence[Path], parse: Callable[[Sequence[bytes]], Value]) -> None:
        self._what = what
        self._files = files
        self._parse = parse
        contents = self._read()
        self.value = parse(contents)
        self._known = self._last_seen = _digest(contents)
        self._last_failure = ""

    def look(self) -> None:
        """Read the files again, and take over what is new and makes sense."""
        try:
            contents = self._read()
            seen, self._last_seen = self._last_seen, _digest(contents)
            if self._last_seen == self._known or self._last_seen != seen:
                return
            self._known = self._last_seen
            self.value = self._parse(contents)
        except ConfigurationError as error:
            self._tell_failure(str(error))
            return
        self._last_failure = ""
        log.info(f"{self._what} renewed", files=[str(file) for file in self._files])

    def _read(self) -> list[bytes]:
        return [read(file) for file in self._files]

    def _tell_failure(self, reason: str) -> None:
        if reason != self._last_failure:
            log.error(f"{self._what} cannot be renewed: what was read before holds on", reason=reason)
        self._last_failure = reason


class Renewals:
    """Looks at what can be renewed, in a thread of its own, until it is closed."""

    def __init__(self, renewed: Sequence[Renewable]) -> None:
        self._renewed = renewed
        self._ends = threading.Event()
        self._thread = threading.Thread(target=self._run, name="renewals", daemon=True)

    def start(self) -> None:
        """Begin to look, where there is something to look at."""
        if self._renewed:
            self._thread.start()

    def close(self) -> None:
        """Look no more; may be called again."""
        self._ends.set()

    def _run(self) -> None:
        while not self._ends.wait(LOOK_EVERY_S):
            for one in self._renewed:
                try:
                    one.look()
                except Exception:
                    log.exception("files could not be looked at")


def read(file: Path) -> bytes:
    """The content of a file; raises :class:`ConfigurationError` naming it."""
    try:
        return file.read_bytes()
    except OSError as error:
        raise ConfigurationError(f"{file} cannot be read: {error.strerror}") from None


def _digest(contents: Sequence[bytes]) -> Any:
    """What to know contents again by, without keeping secrets."""
    return [hashlib.sha256(content).digest() for content in contents]
