"""System shared memory: regions that callers on this machine register to pass tensors.

Inputs are read where they lie, through a mapping of the region; outputs are written with ``pwrite``. Every
use checks the size that the object has at that moment, because touching a mapping beyond the end of its file
kills the process (SIGBUS). What remains: a caller that shrinks its object *while* its own request runs. So
the server trusts whoever may write into these objects, as Triton does, and the setting is off unless asked
for. A caller that changes a region while its request waits changes the request.
"""

import mmap
import os
import re
import stat
import threading
from dataclasses import dataclass, field
from pathlib import Path

from foldserve.errors import AlreadyRegistered, InvalidRequest, LimitReached, NotSupported, RegionNotFound

OBJECTS = Path("/dev/shm")
"""Where Linux keeps the objects of ``shm_open``."""

KEY = re.compile(r"/?(?!\.{1,2}$)[^/\0]{1,255}")
LONGEST_NAME = 255
MOST_REGIONS = 256
"""Each region holds two file descriptors (a mapping has its own) and a mapping."""


@dataclass(frozen=True, eq=False)
class Region:
    """Part of a shared memory object; unmapped when neither the registry nor a request refers to it."""

    name: str
    key: str
    offset: int
    """Where the region begins in its object, in bytes."""

    byte_size: int
    descriptor: int
    mapped: memoryview = field(repr=False)

    def __del__(self) -> None:
        os.close(self.descriptor)


@dataclass(frozen=True)
class Slot:
    """Where one tensor lies in a region; keeps the region alive."""

    region: Region
    offset: int
    """From the beginning of the region, in bytes."""

    byte_size: int

    def view(self) -> memoryview:
        """The bytes as they lie there, read-only."""
        self._check_size(self.byte_size)
        return self.region.mapped[self.offset : self.offset + self.byte_size]

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
    """The regions that are registered."""

    def __init__(self, *, enabled: bool) -> None:
        self.enabled = enabled
        self._regions: dict[str, Region] = {}
        self._lock = threading.Lock()

    def register(self, name: str, key: str, offset: int, byte_size: int) -> None:
        """Map ``byte_size`` bytes from ``offset`` of the object ``key``, for use under ``name``.

        Raises :class:`InvalidRequest`, :class:`AlreadyRegistered`, :class:`LimitReached`, and
        :class:`NotSupported` where the setting is off.
        """
        if not self.enabled:
            raise NotSupported(
                "system shared memory is switched off on this server; start it with --shared-memory "
                "if you trust every caller that can reach it"
            )
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
            self._regions[name] = _mapped(name, key, offset, byte_size)

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
        """A tensor's place; raises :class:`RegionNotFound` and, beyond the end, :class:`InvalidRequest`."""
        if not name:
            raise InvalidRequest("shared_memory_region needs the name of a registered region")
        (region,) = self.regions(name)
        if offset < 0 or byte_size < 0 or offset + byte_size > region.byte_size:
            raise InvalidRequest(
                f"shared memory region '{name}' has {region.byte_size} bytes; "
                f"{byte_size} from {offset} on are not inside"
            )
        return Slot(region, offset, byte_size)


def _mapped(name: str, key: str, offset: int, byte_size: int) -> Region:
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
        start = offset - offset % mmap.ALLOCATIONGRANULARITY  # a mapping begins at a page
        mapping = mmap.mmap(descriptor, offset + byte_size - start, access=mmap.ACCESS_READ, offset=start)
    except BaseException:
        os.close(descriptor)
        raise
    return Region(name, key, offset, byte_size, descriptor, memoryview(mapping)[offset - start :])
