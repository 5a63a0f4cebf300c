"""Child processes that end with their parent, and that are the first to go where memory runs out.

The parent keeps one end of a pipe open and never writes to it; the child waits for that end to be gone, which
the system sees to however the parent ends.
"""

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

VARIABLE = "FOLDSERVE_LIFELINE"

FIRST_TO_GO = "1000"
"""The largest value that Linux knows for ``oom_score_adj``: the server must not be killed for its child."""


LOWEST_PRIORITY = 19
"""As a nice value; in Linux each thread has one of its own."""


@dataclass(frozen=True)
class Lifeline:
    """What a child has to be started with."""

    pass_fds: tuple[int, ...]
    environment: dict[str, str]


@contextmanager
def lifeline() -> Iterator[Lifeline]:
    """In the parent: for as long as the child may live."""
    theirs, ours = os.pipe()
    try:
        yield Lifeline((theirs,), {VARIABLE: str(theirs)})
    finally:
        os.close(theirs)
        os.close(ours)


def give_way() -> None:
    """In the child, as the first thing it does."""
    with suppress(OSError):  # not Linux
        Path("/proc/self/oom_score_adj").write_text(FIRST_TO_GO)
    threading.Thread(target=_end_with_parent, args=(int(os.environ[VARIABLE]),), daemon=True).start()


def _end_with_parent(pipe: int) -> None:
    os.read(pipe, 1)
    os._exit(1)
