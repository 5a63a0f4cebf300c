"""Requests in line, and where the line is cut into batches: a pure decision over what is waiting."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import accumulate

from foldserve.serving.split import Part
from foldserve.serving.waiting import Waiting
from foldserve.settings import Batching, TimeoutAction


@dataclass(frozen=True, slots=True)
class Cut:
    """How a line is cut: what runs now, what is answered without running, what stays; each in order."""

    batch: list[Waiting]
    expired: list[Waiting]
    cancelled: list[Waiting]
    rest: list[Waiting]
    held_until: float = math.inf
    """With an empty batch: when the requests that are held back for company start without more of it."""


def cut(line: Sequence[Waiting], most_rows: int | None, now: float, batching: Batching) -> Cut:
    """The next batch: the first live request and whatever fits beside it in ``most_rows`` rows.

    ``most_rows`` None: one request at a time. ``now`` is in seconds of ``time.monotonic``. A request may
    overtake one of another shape or of a lower priority, never one that it could have been in a batch with.
    Of a request with more rows, so many run as fit; what is left of it keeps its place.
    """
    result = Cut([], [], [], [])
    rows = 0
    full = False
    for waiting in _by_priority(line, now) if _reorders(batching) else line:
        if waiting.deadline <= now:
            result.expired.append(waiting)
        elif full:
            result.rest.append(waiting)
        elif waiting.cancelled():
            result.cancelled.append(waiting)
        elif result.batch and not waiting.fits(result.batch[0]):
            result.rest.append(waiting)
        elif result.batch and most_rows is not None and rows + waiting.rows > most_rows:
            full = True
            result.rest.append(waiting)
        else:
            runs = waiting
            if isinstance(waiting, Part) and most_rows is not None and waiting.rows > most_rows:
                runs, left = waiting.divided(most_rows)
                result.rest.append(left)
            result.batch.append(runs)
            rows += runs.rows
            full = most_rows is None or rows >= most_rows
    if batching.max_queue_delay_us or batching.preferred_batch_sizes:
        return _held_back(result, full, now, batching)
    return result


def without_gone(line: Sequence[Waiting], now: float) -> Cut:
    """The line without those who expired or were cancelled; nothing runs."""
    result = Cut([], [], [], [])
    for waiting in line:
        if waiting.deadline <= now:
            result.expired.append(waiting)
        elif waiting.cancelled():
            result.cancelled.append(waiting)
        else:
            result.rest.append(waiting)
    return result


def _reorders(batching: Batching) -> bool:
    """Whether requests may overtake each other; sorting a line costs more than anything else here."""
    return batching.priority_levels > 0 or batching.queue_policy.timeout_action is TimeoutAction.DELAY


def _by_priority(line: Sequence[Waiting], now: float) -> list[Waiting]:
    return sorted(line, key=lambda waiting: (waiting.priority, waiting.overdue <= now, waiting.arrived))


def _held_back(result: Cut, full: bool, now: float, batching: Batching) -> Cut:
    """Triton's rule: a preferred size starts at once, anything else when it cannot grow or waited enough.

    It cannot grow when it is full, as large as the largest preferred size, or somebody who does not fit waits
    behind it; and nobody is held back beyond a time of its own.
    """
    batch, preferred = result.batch, batching.preferred_batch_sizes
    if not batch:
        return result
    start = min(waiting.arrived for waiting in batch) + batching.max_queue_delay_us / 1e6
    sizes = list(accumulate(waiting.rows for waiting in batch))
    whole = max((index for index, rows in enumerate(sizes, start=1) if rows in preferred), default=0)
    if whole and (now < start or not batching.max_queue_delay_us):
        return replace(result, batch=batch[:whole], rest=batch[whole:] + result.rest)
    if (
        full
        or result.rest
        or now >= start
        or (preferred and sizes[-1] >= max(preferred))
        or any(min(waiting.deadline, waiting.overdue) <= start for waiting in batch)
    ):
        return result
    return replace(result, batch=[], rest=batch, held_until=start)
