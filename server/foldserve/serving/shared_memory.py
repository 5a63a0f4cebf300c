"""System shared memory: regions that callers on this machine register to pass tensors.

Inputs are read with ``pread`` into memory of the server's own, outputs are written with ``pwrite``. A mapping
would spare the copy, but whoever may write into an object may also shrink it: touching a mapping beyond the
end of its file kills the process (SIGBUS), and ``shm_open`` gives objects that cannot be sealed against it.
A mapped input could change under the batch that it is in, too. Callers may name any object of this machine
that the server may open, so the setting is off unless asked for.
"""

import os
import re
import stat
import threading
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from foldserve.errors import AlreadyRegistered, InvalidRequest, LimitReached, NotSupported, RegionNotFound

OBJECTS = Path("/dev/shm")
"""Where Linux keeps the objects of ``shm_open``."""

KEY = re.compile(r"/?(?!\.{1,2}$)[^/\0]{1,255}")
LONGEST_NAME = 255
MOST_REGIONS = 256
"""Each region holds a file descriptor."""

MOST_BYTES = 0x7FFFF000
"""What Linux reads in one call."""


@dataclass(frozen=True, eq=False)
class Region:
    """Part of a shared memory object; closed when neither the registry nor a request refers to it."""

    name: str
    key: str
    offset: int
    """Where the region begins in its object, in bytes."""

    byte_size: int
    descriptor: int

    def __del__(self) -> None:
        os.close(self.descriptor)


@dataclass(frozen=True)
class Slot:
    """Where one tensor lies in a region; keeps the region alive."""

    region: Region
    offset: int
    """From the beginning of the region, in bytes."""

    byte_size: int

    def read(self) -> bytes:
        """A copy of the bytes there; raises :class:`InvalidRequest` where the object has shrunk.

        If it shrinks in this very moment there are fewer, too few for the tensor's shape.
        """
        self._check_size(self.byte_size)
        return os.pread(self.region.descriptor, self.byte_size, self.region.offset + self.offset)

    def write(self, content: memoryview) -> None:
        """Write the bytes of a tensor; raises :class:`InvalidRequest` where they do not fit."""
        if content.nbytes > self.byte_size:
            raise InvalidRequest(
                f"shared memory region '{self.region.name}': the output takes {content.nbytes} bytes, "
                f"shared_memory_byte_size is {self.byte_size}"
            )
        self._check_size(content.nbytes)
        position = self.region.offset + self.offset
        while content.nbytes:
            try:
                written = os.pwrite(self.region.descriptor, content, position)
            except OSError as error:
                raise InvalidRequest(f"shared memory region '{self.region.name}': {error.strerror}") from None
            content, position = content[written:], position + written

    def _check_size(self, byte_size: int) -> None:
        """The object may have been shrunk since the region was registered."""
        end = self.region.offset + self.offset + byte_size
        size = os.fstat(self.region.descriptor).st_size
        if end > size:
            raise InvalidRequest(
                f"shared memory region '{self.region.name}': its object '{self.region.key}' has shrunk to "
                f"{size} bytes, {end} are needed"
            )


class SharedMemory:
    """The regions that are registered; the inputs of a request have ``most_bytes`` in them at most."""

    def __init__(self, *, enabled: bool, most_bytes: int = MOST_BYTES) -> None:
        self.enabled = enabled
        self._most_bytes = min(most_bytes, MOST_BYTES)
        self._regions: dict[str, Region] = {}
        self._lock = threading.Lock()

    def register(self, name: str, key: str, offset: int, byte_size: int) -> None:
        """Open ``byte_size`` bytes from ``offset`` of the object ``key``, for use under ``name``.

        Raises :class:`InvalidRequest`, :class:`AlreadyRegistered`, :class:`LimitReached`, and
        :class:`NotSupported` where the setting is off.
        """
        self._require_enabled()
        if not 0 < len(name) <= LONGEST_NAME:
            raise InvalidRequest(f"a shared memory region needs a name of 1 to {LONGEST_NAME} characters")
        with self._lock:
            if name in self._regions:
                raise AlreadyRegistered(
                    f"shared memory region '{name}' is registered already; unregister it first"
                )
            if len(self._regions) >= MOST_REGIONS:
                raise LimitReached(
                    f"{MOST_REGIONS} shared memory regions are registered, the most there may be; "
                    f"unregister one"
                )
            self._regions[name] = _opened(name, key, offset, byte_size)

    def unregister(self, name: str = "") -> None:
        """Forget a region, or all of them; requests that use it still finish. Unknown names are forgotten."""
        with self._lock:
            if name:
                self._regions.pop(name, None)
            else:
                self._regions.clear()

    def regions(self, name: str = "") -> list[Region]:
        """One region, or all of them; raises :class:`RegionNotFound`."""
        with self._lock:
            if not name:
                return list(self._regions.values())
            if name not in self._regions:
                raise RegionNotFound(f"no shared memory region is registered as '{name[:LONGEST_NAME]}'")
            return [self._regions[name]]

    def slot(self, name: str, offset: int, byte_size: int) -> Slot:
        """A tensor's place.

        Raises :class:`RegionNotFound`, :class:`InvalidRequest` beyond its end, :class:`NotSupported` where
        the setting is off.
        """
        self._require_enabled()
        if not name:
            raise InvalidRequest("shared_memory_region needs the name of a registered region")
        (region,) = self.regions(name)
        if offset < 0 or byte_size < 0 or offset + byte_size > region.byte_size:
            raise InvalidRequest(
                f"shared memory region '{name}' has {region.byte_size} bytes; "
                f"{byte_size} from {offset} on are not inside"
            )
        return Slot(region, offset, byte_size)

    def _require_enabled(self) -> None:
        if not self.enabled:
            raise NotSupported(
                "system shared memory is switched off on this server; start it with --shared-memory "
                "if you trust every caller that can reach it"
            )

    def check_inputs(self, slots: Iterable[Slot]) -> None:
        """Raise :class:`InvalidRequest` where the inputs of a request would take too much memory here."""
        byte_size = sum(slot.byte_size for slot in slots)
        if byte_size > self._most_bytes:
            raise InvalidRequest(
                f"the inputs in shared memory have {byte_size} bytes, more than a message may have; "
                f"send fewer rows, or start the server with --max-message-bytes {byte_size} or more"
            )


def _opened(name: str, key: str, offset: int, byte_size: int) -> Region:
    if not KEY.fullmatch(key):
        raise InvalidRequest(f"'{key[:100]}' is not the key of a shared memory object; expected '/name'")
    where = f"shared memory region '{name}': object '{key}'"
    try:
        descriptor = os.open(OBJECTS / key.removeprefix("/"), os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError as error:
        raise InvalidRequest(f"{where} cannot be opened: {error.strerror}") from None
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise InvalidRequest(f"{where} is not shared memory")
        if not byte_size or offset + byte_size > status.st_size:
            raise InvalidRequest(
                f"{where} has {status.st_size} bytes; {byte_size} from {offset} on are not a part of it"
            )
    except BaseException:
        os.close(descriptor)
        raise
    return Region(name, key, offset, byte_size, descriptor)
