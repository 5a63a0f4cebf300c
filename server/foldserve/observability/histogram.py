"""A histogram that is cheap to fill, and becomes a metric when it is scraped."""

import math
from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType

from prometheus_client.metrics_core import HistogramMetricFamily
from prometheus_client.samples import Exemplar

NONE: Mapping[int, Exemplar] = MappingProxyType({})


class Histogram:
    """Counts values up to each of the ascending ``bounds``; whoever observes holds a lock of its own."""

    __slots__ = ("_bounds", "counts", "sum")

    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.sum = 0.0

    def bucket(self, value: float) -> int:
        """The index of the bucket that a value belongs to."""
        return bisect_left(self._bounds, value)

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

    def add_to(
        self, family: HistogramMetricFamily, labels: Iterable[str], exemplars: Mapping[int, Exemplar] = NONE
    ) -> None:
        """Append this histogram to a metric, with its buckets added up as Prometheus wants them.

        ``exemplars`` are single values of some buckets.
        """
        total = 0
        buckets: list[tuple[str, float] | tuple[str, float, Exemplar]] = []
        for index, (bound, count) in enumerate(
            zip((*map(str, self._bounds), "+Inf"), self.counts, strict=True)
        ):
            total += count
            exemplar = exemplars.get(index)
            buckets.append((bound, total) if exemplar is None else (bound, total, exemplar))
        family.add_metric(list(labels), buckets, self.sum)
