"""What runs of a model take, learned from those that were."""

from collections.abc import Sequence
from math import ceil

from foldserve.runtime.cpus import available_cpus
from foldserve.serving.waiting import Waiting, rows_in

FRESH_SHARE = 0.1
"""Weight of the last run in the moving averages."""

SHORT_RUN_S = 5e-4
"""Runs up to this long, in seconds, do not hold up the thread that brings requests."""

TIME_SLICE_S = 3e-3
"""What Linux gives a thread at a time, in seconds: on one processor any run may hold others up so long."""

UNSTEADY = frozenset({"Compress", "If", "Loop", "NonMaxSuppression", "NonZero", "Scan", "Unique"})
"""Operators whose time depends on the values they get: what runs took says nothing of the next one."""


def short_run_s() -> float:
    """For how long, in seconds, a run may hold up the thread that brings requests on this machine."""
    return SHORT_RUN_S if available_cpus() > 1 else TIME_SLICE_S


class Pace:
    """Whoever calls the methods holds the lock of the batcher that it belongs to."""

    def __init__(self, short_s: float) -> None:
        """``short_s``: seconds that a short run takes at most."""
        self._short_s = short_s
        self._run_s = 0.0
        self._row_s = 0.0
        self._most_bytes = -1
        """Size of the largest request that was run by itself in a short time."""

    def record(self, batch: Sequence[Waiting], run_s: float) -> None:
        """Learn from one run, which took ``run_s`` seconds."""
        share = FRESH_SHARE if self._run_s else 1.0
        row_s = run_s / max(1, rows_in(batch))
        self._run_s += (run_s - self._run_s) * share
        self._row_s += (row_s - self._row_s) * share
        if len(batch) == 1 and run_s < self._short_s:
            self._most_bytes = max(self._most_bytes, batch[0].nbytes)

    def is_short(self, line: Sequence[Waiting]) -> bool:
        """Whether all in line could run in a short time: the last was not larger than one that did."""
        return rows_in(line) * self._row_s < self._short_s and line[-1].nbytes <= self._most_bytes

    def drain_s(self, line: Sequence[Waiting], most_rows: int | None, instances: int) -> float:
        """What those in line will take in batches of ``most_rows`` rows, in seconds."""
        rows = rows_in(line)
        batches = ceil(rows / most_rows) if most_rows else len(line)
        return batches * self._run_s / instances
