"""When to stop trusting a fold in service: a count over the last checks, with what shows the breaches."""

import threading
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from foldserve.parity.breach import Breach
from foldserve.parity.live_comparison import Comparison
from foldserve.parity.measures import Distance, worst

MOST_EVIDENCE_BYTES = 64 * 2**20
"""Bytes of inputs and outputs that breaches may keep in memory; the last one may be larger."""


@dataclass(slots=True)
class _Check:
    comparison: Comparison
    breach: Breach | None
    """None where there is none, or where it is no longer kept."""


class Breaker:
    """Trips when ``breaches`` of the last ``window`` checks were breaches; not again until it is told to.

    For any thread.
    """

    def __init__(self, *, window: int, breaches: int) -> None:
        self._most_breaches = breaches
        self._checks: deque[_Check] = deque(maxlen=window)
        self._lock = threading.Lock()
        self.tripped = False
        self.generation = 0
        """Counts the resets: what was answered in an earlier one is no longer observed."""

    def observe(self, comparison: Comparison, breach: Breach | None, generation: int) -> Sequence[Breach]:
        """Count a check; what shows the breaches for the one that trips it, else nothing."""
        with self._lock:
            if generation != self.generation:
                return ()
            self._checks.append(_Check(comparison, breach))
            if breach is None:
                return ()
            self._forget_old_evidence()
            if self.tripped or self.breaches < self._most_breaches:
                return ()
            self.tripped = True
            return tuple(check.breach for check in self._checks if check.breach is not None)

    def rearm(self) -> None:
        """Trip again with the next breach, if there still are too many then."""
        self.tripped = False

    def reset(self) -> None:
        """Trust again, and forget what was found."""
        with self._lock:
            self.generation += 1
            self._checks.clear()
            self.tripped = False

    @property
    def checks(self) -> int:
        """Number of checks in the window."""
        return len(self._checks)

    @property
    def breaches(self) -> int:
        """Number of breaches among them."""
        return sum(bool(comparison.breaching) for comparison in self._comparisons())

    def worst(self) -> Iterator[tuple[str, Distance, bool]]:
        """Of each output the largest distances in the window, and whether all kept the budget."""
        found = self._comparisons()
        for name in dict.fromkeys(name for one in found for name in one.distances):
            distances = worst(one.distances[name] for one in found if name in one.distances)
            yield name, distances, all(name not in one.breaching for one in found)

    def _comparisons(self) -> list[Comparison]:
        return [check.comparison for check in list(self._checks)]  # others look while the next one is added

    def _forget_old_evidence(self) -> None:
        kept = size = 0
        for check in reversed(self._checks):
            if check.breach is None:
                continue
            size += check.breach.held_bytes()
            if kept == self._most_breaches or (kept and size > MOST_EVIDENCE_BYTES):
                check.breach = None
            else:
                kept += 1
