"""Requests in line, and where the line is cut into batches: a pure decision over what is waiting."""

import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from foldserve.runtime.session import Array


def _closed() -> threading.Lock:
    lock = threading.Lock()
    lock.acquire()
    return lock


@dataclass(frozen=True, slots=True)
class Execution:
    """The outputs of one request, in the order asked for, and what it took in seconds."""

    outputs: list[Array]
    queue_s: float
    compute_infer_s: float
    runs: tuple[int, ...]
    """Rows of each run of the engine that counts as this request's: of those in a batch, the first has it."""


@dataclass(slots=True, eq=False)
class Waiting:
    """A request in line: what it wants, and what its thread sleeps on until somebody is done with it."""

    inputs: Mapping[str, Array]
    outputs: Sequence[str]
    rows: int
    deadline: float | None
    cancelled: Callable[[], bool]
    arrived: float = field(default_factory=time.perf_counter)
    signal: threading.Lock = field(default_factory=_closed)
    """A bare lock, opened to wake the thread: an Event costs several times as much."""

    batch: "Sequence[Waiting] | None" = None
    """What to run, for the thread that has the engine."""

    answer: Execution | None = None
    error: Exception | None = None

    def fits(self, other: "Waiting") -> bool:
        """Whether both may run in one batch: same outputs, and same shapes beyond the first axis."""
        return self.outputs == other.outputs and all(
            array.shape[1:] == other.inputs[name].shape[1:] for name, array in self.inputs.items()
        )

    def fail(self, error: Exception) -> None:
        """Answer with an error."""
        self.error = error
        self.signal.release()


@dataclass(frozen=True, slots=True)
class Cut:
    """How a line is cut: what runs next, what is answered without running, what stays; each in order."""

    batch: list[Waiting]
    expired: list[Waiting]
    cancelled: list[Waiting]
    rest: list[Waiting]


def cut(line: Iterable[Waiting], most_rows: int | None, now: float) -> Cut:
    """The next batch: the first live request and whatever fits beside it in ``most_rows`` rows.

    ``most_rows`` None: one request at a time. ``now`` is in seconds of ``time.monotonic``. A request may
    overtake one of another shape, never one that it could have been in a batch with.
    """
    result = Cut([], [], [], [])
    rows = 0
    full = most_rows is None
    for waiting in line:
        if waiting.cancelled():
            result.cancelled.append(waiting)
        elif waiting.deadline is not None and waiting.deadline <= now:
            result.expired.append(waiting)
        elif not result.batch:
            result.batch.append(waiting)
            rows = waiting.rows
        elif full or not waiting.fits(result.batch[0]):
            result.rest.append(waiting)
        elif most_rows is not None and rows + waiting.rows > most_rows:
            full = True
            result.rest.append(waiting)
        else:
            result.batch.append(waiting)
            rows += waiting.rows
    return result
