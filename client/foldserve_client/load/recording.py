"""Outcomes of requests into what people read: histograms of latency, counts by code, values over time.

What counts is what was due in the measurement, however late it was answered; throughput is what was answered
well within it. Latency runs from the moment when a request was due, so that waiting at the generator or in a
server that stalls is in it, and is that of the successful answers: refusals are quick and would flatter.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from hdrh.histogram import HdrHistogram
from numpy.typing import NDArray

from foldserve_client.load.generator import CODES, FIELDS, NOT_SENT
from foldserve_client.load.levels import Loop, Step

OK = 0
LONGEST_US = 3_600_000_000
DIGITS = 3
"""A histogram holds latencies from a microsecond to an hour within 0.1 %."""

Values = NDArray[np.float64]


@dataclass(frozen=True)
class Outcomes:
    """What became of some requests, one element each; times in seconds from the step's begin."""

    due: Values
    sent: Values
    done: Values
    model: NDArray[np.intp]
    code: NDArray[np.intp]
    """gRPC's status, or NOT_SENT."""

    @classmethod
    def read(cls, content: bytes) -> "Outcomes":
        """The outcomes of a generator's batch."""
        rows = np.frombuffer(content, np.float64).reshape(-1, FIELDS)
        model, code = np.divmod(rows[:, 3].astype(np.intp), CODES)
        return cls(rows[:, 0], rows[:, 1], rows[:, 2], model, code)

    @property
    def latency_us(self) -> NDArray[np.int64]:
        """From when each was due to its answer, in whole microseconds of at least 1."""
        return np.maximum(np.rint((self.done - self.due) * 1e6), 1).astype(np.int64)

    def where(self, chosen: NDArray[np.bool_]) -> "Outcomes":
        """Some of them."""
        return Outcomes(
            self.due[chosen], self.sent[chosen], self.done[chosen], self.model[chosen], self.code[chosen]
        )


def histogram() -> HdrHistogram:
    """An empty histogram of microseconds."""
    return HdrHistogram(1, LONGEST_US, DIGITS)


def record(into: HdrHistogram, microseconds: NDArray[np.int64]) -> None:
    """Add values to a histogram, equal ones at once."""
    values, counts = np.unique(np.minimum(microseconds, LONGEST_US), return_counts=True)
    for value, count in zip(values.tolist(), counts.tolist(), strict=True):
        into.record_value(value, count)


def _microseconds(seconds: Values) -> NDArray[np.int64]:
    return np.maximum(np.rint(seconds * 1e6), 0).astype(np.int64)


@dataclass
class Interval:
    """Requests that were due, answered or refused in a stretch of time."""

    due: int = 0
    answered: int = 0
    """Successful answers."""

    failed: int = 0
    p50_ms: float | None = None
    p99_ms: float | None = None
    """Of the successful answers, once the interval is over; None where there is none."""

    latencies_us: list[NDArray[np.int64]] = field(default_factory=list)

    def settle(self) -> None:
        """Compute the percentiles, and forget what they were computed from."""
        if self.latencies_us:
            p50, p99 = np.percentile(np.concatenate(self.latencies_us), [50, 99])
            self.p50_ms, self.p99_ms = float(p50) / 1e3, float(p99) / 1e3
            self.latencies_us.clear()


class Recorder:
    """What a step came to so far, over all processes."""

    def __init__(self, step: Step, models: int, processes: int, interval_s: float) -> None:
        self.step = step
        self.interval_s = interval_s
        self.latency = [histogram() for _ in range(models)]
        """Of the successful answers by model."""

        self.failed = dict[int, HdrHistogram]()
        """Latency of the others by code."""

        self.lag = histogram()
        """How late the generator was: to send what was due, or in a closed loop to wake at a tick."""

        self.due = self.answered_in_time = 0
        self.last_done_s = 0.0
        self.intervals: list[Interval] = []
        """From the begin of the warm-up."""

        self.settled = 0
        """Intervals that are over in every process."""

        self._cpu: list[list[tuple[float, float]]] = [[] for _ in range(processes)]

    def add(self, worker: int, at_s: float, cpu_s: float, outcomes: Outcomes) -> None:
        """Take in a batch of a process, and its processor time so far."""
        self._cpu[worker].append((at_s, cpu_s))
        self._add_to_intervals(outcomes)
        self._settle(min(samples[-1][0] if samples else 0.0 for samples in self._cpu))
        step = self.step
        measured = outcomes.where(outcomes.due >= step.warm_up_s)
        self.due += len(measured.due)
        if step.loop is not Loop.CLOSED:
            sent = measured.where(measured.code != NOT_SENT)
            record(self.lag, _microseconds(sent.sent - sent.due))
        good = outcomes.where(outcomes.code == OK)
        self.last_done_s = max(self.last_done_s, float(good.done.max(initial=0.0)))
        self.answered_in_time += int(
            np.count_nonzero((good.done >= step.warm_up_s) & (good.done < step.end_s))
        )
        for model, into in enumerate(self.latency):
            record(into, measured.where((measured.code == OK) & (measured.model == model)).latency_us)
        for code in np.unique(measured.code[measured.code != OK]).tolist():
            record(
                self.failed.setdefault(code, histogram()), measured.where(measured.code == code).latency_us
            )

    def add_lags(self, content: bytes) -> None:
        """Take in how late a generator's ticks were."""
        record(self.lag, _microseconds(np.frombuffer(content, np.float64)))

    @property
    def measured_s(self) -> float:
        """How long the measurement was; where requests bound it, to the last answer, or as long as they take.

        N requests at a rate have N - 1 gaps between them, and stand for N / rate seconds.
        """
        step = self.step
        if step.requests is None:
            return step.duration_s
        constant = step.loop is not Loop.CLOSED and step.level.start == step.level.end
        due_s = step.requests / step.level.start if constant else 0.0
        return min(max(self.last_done_s - step.warm_up_s, due_s), step.duration_s)

    @property
    def all_models(self) -> HdrHistogram:
        """Latency of the successful answers of all models."""
        total = histogram()
        for one in self.latency:
            total.add(one)
        return total

    @property
    def codes(self) -> dict[int, int]:
        """Requests that were due in the measurement by code."""
        counts = {OK: sum(one.get_total_count() for one in self.latency)}
        return counts | {code: one.get_total_count() for code, one in sorted(self.failed.items())}

    def cpu_shares(self) -> list[float]:
        """Processor time of each process during the measurement, as a share of a core."""
        return [cpu_share(samples, self.step.warm_up_s, self.measured_s) for samples in self._cpu]

    def _add_to_intervals(self, outcomes: Outcomes) -> None:
        due = np.floor(outcomes.due / self.interval_s).astype(np.intp)
        done = np.floor(outcomes.done / self.interval_s).astype(np.intp)
        last = int(max(due.max(initial=-1), done.max(initial=-1)))
        self.intervals += [Interval() for _ in range(last + 1 - len(self.intervals))]
        for index, count in zip(*np.unique(due, return_counts=True), strict=True):
            self.intervals[index].due += int(count)
        latency, good = outcomes.latency_us, outcomes.code == OK
        for index in np.unique(done).tolist():
            here = done == index
            interval, answered = self.intervals[index], latency[here & good]
            interval.failed += int(np.count_nonzero(here & ~good))
            interval.answered += len(answered)
            if len(answered):
                interval.latencies_us.append(answered)

    def finish(self) -> None:
        """All is recorded: settle the last intervals."""
        self._settle(len(self.intervals) * self.interval_s)

    def _settle(self, until_s: float) -> None:
        over = min(int(until_s / self.interval_s), len(self.intervals))
        for interval in self.intervals[self.settled : over]:
            interval.settle()
        self.settled = max(over, self.settled)


def cpu_share(samples: Sequence[tuple[float, float]], begin_s: float, duration_s: float) -> float:
    """Processor seconds per second in a stretch of time, from (moment, processor time so far) samples."""
    if duration_s <= 0 or len(samples) < 2:
        return 0.0
    moments, seconds = np.asarray(samples).T
    begin, end = np.interp([begin_s, min(begin_s + duration_s, moments[-1])], moments, seconds)
    stretch = min(begin_s + duration_s, moments[-1]) - max(begin_s, moments[0])
    return float((end - begin) / stretch) if stretch > 0 else 0.0


def interval_s(total_s: float) -> float:
    """The stretch that one point of a plot over time stands for: a second, or about a hundred points."""
    if total_s == math.inf:
        return 1.0
    nice = (0.25, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 300.0, 3600.0)
    return next((value for value in nice if total_s / value <= 120), nice[-1])
