"""Threads that do not interrupt others when they wake.

Linux lets a thread that wakes take the processor from the one that runs. On a busy core each message would
interrupt whoever works on the last one, and batches would not form: with gRPC's own threads kept from it, the
thread that reads finds more to do at a time.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress

HAS_POLICIES = hasattr(os, "SCHED_BATCH")
"""Whether this is Linux."""


def let_others_finish_first() -> None:
    """Have this thread wait for its turn when it wakes, and those that it makes from now on."""
    _take("SCHED_BATCH")


@contextmanager
def polite_threads() -> Iterator[None]:
    """Threads that are made in the block, and by those, do as :func:`let_others_finish_first` says."""
    is_ordinary = HAS_POLICIES and os.sched_getscheduler(0) == os.SCHED_OTHER
    if is_ordinary:
        _take("SCHED_BATCH")
    try:
        yield
    finally:
        if is_ordinary:
            _take("SCHED_OTHER")


def _take(policy: str) -> None:
    if HAS_POLICIES:
        with suppress(OSError):  # a sandbox may forbid it
            os.sched_setscheduler(0, getattr(os, policy), os.sched_param(0))
