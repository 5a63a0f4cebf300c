"""Axes of plots: where a value is, from 0 to 1, and which values are labelled."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

from foldserve_client.load.words import milliseconds, rate

STEPS = (1, 2, 5, 10)
FINE = (1, 1.5, 2, 3, 4, 5, 7)
MOST_MARKS = 7
LEAST_ROOM = 0.1
"""Between the labels of 0 and 50 %: with less, the latter is left out."""


@dataclass(frozen=True)
class Tick:
    """A labelled place, from 0 to 1 along its axis."""

    label: str
    place: float


class Axis(Protocol):
    """A scale with labels."""

    def place(self, value: float) -> float:
        """From 0, the beginning, to 1."""
        ...

    def ticks(self) -> list[Tick]:
        """Its labels."""
        ...


class Linear:
    """From 0 to the highest value, rounded up to where a label can stand."""

    def __init__(self, values: Iterable[float], most_ticks: int = 5) -> None:
        high = max(values)
        self._step = _nice((high or 1.0) / most_ticks)
        self._high = self._step * max(math.ceil(high / self._step - 1e-9), 1)

    def place(self, value: float) -> float:
        """From 0, the beginning, to 1, the end."""
        return value / self._high

    def ticks(self) -> list[Tick]:
        """Its labels."""
        values = [self._step * number for number in range(round(self._high / self._step) + 1)]
        return [Tick(rate(value) if value else "0", self.place(value)) for value in values]


class Time:
    """From 0 to the last moment, in seconds; it ends there, not at a label."""

    def __init__(self, end_s: float, most_ticks: int = 6) -> None:
        self._end = end_s or 1.0
        nice = (0.1, 0.2, 0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600)
        self._step = next((step for step in nice if self._end / step <= most_ticks), 3600.0)

    def place(self, value: float) -> float:
        """From 0, the beginning, to 1, the end."""
        return value / self._end

    def ticks(self) -> list[Tick]:
        """Its labels."""
        count = int(self._end / self._step + 1e-9)
        return [
            Tick(f"{number * self._step:g}", self.place(number * self._step)) for number in range(count + 1)
        ]


class Numbers:
    """Whole numbers from 1 to the last one, with room at both ends."""

    def __init__(self, last: int, most_ticks: int = 10) -> None:
        self._last = last
        self._step = math.ceil(last / most_ticks)

    def place(self, value: float) -> float:
        """From 0, the beginning, to 1, the end."""
        return (value - 0.5) / self._last

    def ticks(self) -> list[Tick]:
        """Its labels."""
        return [Tick(f"{number}", self.place(number)) for number in range(1, self._last + 1, self._step)]


class Log:
    """Milliseconds over powers of ten, from below the lowest to above the highest value."""

    def __init__(self, values: Iterable[float]) -> None:
        positive = [value for value in values if value > 0]
        low, high = min(positive, default=1.0), max(positive, default=10.0)
        choices = [_marks(low, high, factors) for factors in (FINE, STEPS[:3], STEPS[:1])]
        self._marks = next((marks for marks in choices if len(marks) <= MOST_MARKS), choices[-1])
        self._low, self._high = math.log10(self._marks[0]), math.log10(self._marks[-1])

    def place(self, value: float) -> float:
        """From 0, the beginning, to 1, the end."""
        if value <= 0:
            return 0.0
        return min(max((math.log10(value) - self._low) / (self._high - self._low), 0.0), 1.0)

    def ticks(self) -> list[Tick]:
        """Its labels."""
        return [
            Tick(f"{mark:g}" if mark < 1 else milliseconds(mark), self.place(mark)) for mark in self._marks
        ]


class Percentile:
    """Percentiles as HdrHistogram draws them: each further nine takes the same room as the one before."""

    def __init__(self, count: int) -> None:
        """The axis ends at the highest percentile that ``count`` values have."""
        self._nines = max(math.log10(count), 1.0)

    def place(self, value: float) -> float:
        """Of a percentile from 0 to 100."""
        left = 1 - value / 100
        return 1.0 if left <= 0 else min(-math.log10(left) / self._nines, 1.0)

    def ticks(self) -> list[Tick]:
        """Its labels."""
        shares = [0.0, 50.0, *(100 - 100 * 10.0**-nines for nines in range(1, int(self._nines) + 1))]
        places = [(share, self.place(share)) for share in shares]
        return [Tick(f"{share:.10g} %", place) for share, place in places if not 0 < place < LEAST_ROOM]


def _nice(step: float) -> float:
    """The next of 1, 2, 5 times a power of ten."""
    decade: float = 10.0 ** math.floor(math.log10(step))
    return next(decade * factor for factor in STEPS if decade * factor >= step * (1 - 1e-9))


def _marks(low: float, high: float, factors: Sequence[float]) -> list[float]:
    """Two at least: the highest mark up to ``low``, the lowest from ``high`` on, and those between."""
    decades = range(math.floor(math.log10(low)) - 1, math.ceil(math.log10(high)) + 2)
    marks = [float(f"{factor}e{decade}") for decade in decades for factor in factors]
    first = max(index for index, mark in enumerate(marks) if mark <= low)
    last = min(index for index, mark in enumerate(marks) if mark >= high and index > first)
    return marks[first : last + 1]
