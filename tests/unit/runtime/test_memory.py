import gc
import os
import platform
import resource
import subprocess
import sys
import weakref
from collections.abc import Iterator
from pathlib import Path

import pytest
from foldserve.runtime.memory import memory_left, resident_bytes, return_freed_memory


class Ring:
    """An object that only a collection frees."""

    def __init__(self) -> None:
        self.itself = self


@pytest.fixture(autouse=True)
def _thaw() -> Iterator[None]:
    yield
    gc.unfreeze()


def test_what_lives_is_exempt_from_collections_until_it_is_garbage_at_the_next_call() -> None:
    ring = Ring()
    died = weakref.ref(ring)
    return_freed_memory()
    assert gc.get_freeze_count() > 0
    del ring
    gc.collect()
    assert died() is not None
    return_freed_memory()
    assert died() is None


LARGE_REQUESTS = """
import resource, sys, threading
from foldserve.runtime.memory import keep_freed_memory

if sys.argv[1] == "keep":
    keep_freed_memory()
faults = []

def ask():
    for _ in range(20):
        copies = [b"x" * 2**24 for _ in range(4)]
        del copies
        faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt)

for thread in [threading.Thread(target=ask) for _ in range(2)]:
    thread.start()
    thread.join()
print((faults[-1] - faults[20]) // 20)
"""
PAGES = 2**26 // resource.getpagesize()


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries have no such settings")
@pytest.mark.parametrize(
    ("argument", "variables", "is_kept"),
    [("keep", {}, True), ("leave", {}, False), ("keep", {"MALLOC_ARENA_MAX": "8"}, False)],
)
def test_the_next_large_request_takes_the_memory_of_the_last_one(
    argument: str, variables: dict[str, str], is_kept: bool
) -> None:
    theirs = ("MALLOC_", "GLIBC_TUNABLES")
    ours = {name: value for name, value in os.environ.items() if not name.startswith(theirs)}
    ran = subprocess.run(
        [sys.executable, "-c", LARGE_REQUESTS, argument],
        env=ours | variables,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    faults = int(ran.stdout)
    assert (faults < PAGES / 100) if is_kept else (faults > PAGES / 10)


MACHINE = "MemTotal:  900 kB\nMemAvailable:  100 kB\n"


@pytest.mark.parametrize(
    ("files", "own", "expected"),
    [
        ({}, "", 100 * 1024),
        ({"memory.max": "max", "memory.current": "9"}, "0::/\n", 100 * 1024),
        (
            {"memory.max": "5000", "memory.current": "4000", "memory.stat": "anon 1\nfile 500\n"},
            "0::/\n",
            1500,
        ),
        ({"memory.max": "5000", "memory.current": "6000"}, "0::/\n", 0),
        (
            {"memory/a/memory.limit_in_bytes": "800", "memory/a/memory.usage_in_bytes": "100"},
            "3:memory:/a\n4:cpu:/a\n",
            700,
        ),
    ],
)
def test_the_tightest_group_tells_what_is_left(
    files: dict[str, str], own: str, expected: int, tmp_path: Path
) -> None:
    for name, text in files.items():
        (tmp_path / "groups" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "groups" / name).write_text(text)
    (tmp_path / "own").write_text(own)
    (tmp_path / "machine").write_text(MACHINE)
    assert memory_left(tmp_path / "machine", tmp_path / "own", tmp_path / "groups") == expected


def test_where_nobody_tells_there_is_no_limit(tmp_path: Path) -> None:
    assert memory_left(tmp_path / "none", tmp_path / "none", tmp_path) is None


def test_what_wants_more_than_half_fails_by_itself() -> None:
    code = """
from foldserve.runtime import memory
memory.memory_left = lambda: 400 * 2**20
memory.leave_memory_to_others()
try:
    bytearray(300 * 2**20)
except MemoryError:
    print("refused")
"""
    ran = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=os.environ
    )
    assert ran.stdout == "refused\n"


def test_what_this_process_has_grows_with_what_it_takes() -> None:
    before = resident_bytes()
    taken = bytearray(64 * 2**20)
    taken[::4096] = b"x" * len(taken[::4096])
    assert resident_bytes() - before > 32 * 2**20
