"""The worst of each period, for as long back as a few hundred periods reach."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

MOST_PERIODS = 240
LONGEST_PERIOD_S = 60.0
"""Periods get longer, as time goes by, until they are so long; from then on the oldest are dropped."""


@dataclass(slots=True)
class Period:
    """What was observed in one period: how often, and the largest of each measure."""

    start_s: float
    """Seconds since 1970."""

    count: int
    worst: tuple[float, ...]

    def add(self, count: int, values: tuple[float, ...]) -> None:
        """Count observations of this period, whose worst were ``values``."""
        self.count += count
        self.worst = tuple(map(max, self.worst, values))


class History:
    """The last periods in which something was observed, 240 at most; whoever observes holds a lock."""

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self.period_s = 1.0
        """Length of a period."""

        self.periods: list[Period] = []
        """The oldest first."""

    def observe(self, *values: float) -> None:
        """Add one observation of some measures, always the same; what is no number counts as infinite."""
        self._add(self._clock(), 1, tuple(math.inf if math.isnan(value) else value for value in values))
        if len(self.periods) > MOST_PERIODS:
            if self.period_s < LONGEST_PERIOD_S:
                self._coarsen()
            else:
                del self.periods[0]

    def copy(self) -> "History":
        """One that stays as it is."""
        same = History(self._clock)
        same.period_s, same.periods = self.period_s, [replace(one) for one in self.periods]
        return same

    def _add(self, at_s: float, count: int, values: tuple[float, ...]) -> None:
        start_s = at_s - at_s % self.period_s
        if self.periods and self.periods[-1].start_s >= start_s:  # the clock may be set back
            self.periods[-1].add(count, values)
        else:
            self.periods.append(Period(start_s, count, values))

    def _coarsen(self) -> None:
        """Make periods twice as long; what is already coarse enough, for nothing came between, stays."""
        finer, self.periods = self.periods, []
        self.period_s = min(2 * self.period_s, LONGEST_PERIOD_S)
        for one in finer:
            self._add(one.start_s, one.count, one.worst)
