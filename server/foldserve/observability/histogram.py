"""A histogram that is cheap to fill, and becomes a metric when it is scraped."""

import math
from bisect import bisect_left
from collections.abc import Iterable, Sequence

from prometheus_client.metrics_core import HistogramMetricFamily


class Histogram:
    """Counts values up to each of the ascending ``bounds``; whoever observes holds a lock of its own."""

    __slots__ = ("_bounds", "counts", "sum")

    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.sum = 0.0

    def observe(self, value: float) -> None:
        """Count one value."""
        self.counts[bisect_left(self._bounds, value)] += 1
        self.sum += value

    @property
    def count(self) -> int:
        """Number of values."""
        return sum(self.counts)

    def quantile(self, share: float) -> float | None:
        """The value that ``share`` of all values do not exceed, as Prometheus estimates it; None of none.

        Linear within a bucket, as if its values lay evenly in it; infinite beyond the last bound.
        """
        rank, below, lower = share * self.count, 0, 0.0
        for bound, count in zip(self._bounds, self.counts, strict=False):
            if count and below + count >= rank:
                return lower + (bound - lower) * (rank - below) / count
            below, lower = below + count, bound
        return math.inf if self.count else None

    def plus(self, other: "Histogram") -> "Histogram":
        """A new histogram of the values of both, which have the same bounds."""
        both = Histogram(self._bounds)
        both.counts = [one + another for one, another in zip(self.counts, other.counts, strict=True)]
        both.sum = self.sum + other.sum
        return both

    def add_to(self, family: HistogramMetricFamily, labels: Iterable[str]) -> None:
        """Append this histogram to a metric, with its buckets added up as Prometheus wants them."""
        total = 0
        buckets: list[tuple[str, float]] = []
        for bound, count in zip((*map(str, self._bounds), "+Inf"), self.counts, strict=True):
            total += count
            buckets.append((bound, total))
        family.add_metric(list(labels), buckets, self.sum)
