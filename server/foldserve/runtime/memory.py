"""Memory between requests, loads and others: what requests free is kept for the next ones, what loads free is
given back, and a child takes no more than half of what is left.

A load frees several times a model's size, and a C library keeps much of that for itself: the process would
look as large ever after as it was for a moment.
"""

import contextlib
import ctypes
import gc
import os
import resource
from pathlib import Path

from foldserve.runtime.control_groups import CGROUPS, OWN_GROUPS, group_folders

MEMORY_INFO = Path("/proc/meminfo")
OWN_STATUS = Path("/proc/self/status")

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_ARENA_MAX = -1, -3, -8
"""Parameters of mallopt(3)."""

MOST_KEPT_BYTES = 256 * 2**20
"""Freed memory beyond this is given back at once."""

LARGEST_KEPT_BYTES = 32 * 2**20
"""Larger blocks are mapped anew each time; glibc takes no higher bound."""


def keep_freed_memory() -> None:
    """Let the next request have what the last one freed; to be called before there are other threads.

    By itself glibc gives back blocks of a few MB as soon as they are free, and lets each thread have memory
    of its own. New memory costs a page fault every 4 kB, which for a message of 16 MB is more than all else.
    Does nothing where somebody has set variables of glibc's, or where the C library is another one.
    """
    if any(name.startswith(("MALLOC_", "GLIBC_TUNABLES")) for name in os.environ):
        return
    with contextlib.suppress(OSError, AttributeError):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(M_ARENA_MAX, 1)
        mallopt(M_MMAP_THRESHOLD, LARGEST_KEPT_BYTES)
        mallopt(M_TRIM_THRESHOLD, MOST_KEPT_BYTES)


def return_freed_memory() -> None:
    """Collect garbage and hand free pages back; does the first half only where the C library is not glibc.

    What is left, modules and models, is exempt from collections until the next call: to look through all of
    it held up requests for 55 ms, after every 1,700 of them.
    """
    gc.unfreeze()
    gc.collect()
    gc.freeze()
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


def resident_bytes() -> int:
    """Memory that this process has now; 0 where the system does not tell."""
    return 1024 * _numbers(OWN_STATUS).get("VmRSS:", 0)


def leave_memory_to_others(share: float = 0.5) -> None:
    """Take at most a share of what is left now: what wants more fails by itself, and takes nobody along."""
    left = memory_left()
    if left is not None:
        most = int(left * share)
        resource.setrlimit(resource.RLIMIT_DATA, (most, most))


def memory_left(
    memory_info: Path = MEMORY_INFO, own_groups: Path = OWN_GROUPS, cgroups: Path = CGROUPS
) -> int | None:
    """Bytes that the machine, or the tightest control group, has to give; None where nobody tells."""
    found = [_left_on_the_machine(memory_info)]
    found.extend(_left_in(folder) for folder in group_folders("memory", own_groups, cgroups))
    return min((left for left in found if left is not None), default=None)


def _left_on_the_machine(memory_info: Path) -> int | None:
    numbers = _numbers(memory_info)
    return 1024 * numbers["MemAvailable:"] if "MemAvailable:" in numbers else None


def _left_in(folder: Path) -> int | None:
    """Of one group, files in its cache left out: version 2, then version 1."""
    for limit, usage, cache in (
        ("memory.max", "memory.current", "file"),
        ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_cache"),
    ):
        try:
            most, used = (int((folder / name).read_text()) for name in (limit, usage))
        except (OSError, ValueError):  # not there, or "max"
            continue
        return max(0, most - used + _numbers(folder / "memory.stat").get(cache, 0))
    return None


def _numbers(file: Path) -> dict[str, int]:
    """Lines of a name and a number."""
    try:
        lines = [line.split() for line in file.read_text().splitlines()]
    except OSError:
        return {}
    return {line[0]: int(line[1]) for line in lines if len(line) > 1 and line[1].isdecimal()}
