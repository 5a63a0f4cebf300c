"""When to stop trusting a fold in service: a pure count over the last checks."""

from collections import deque
from collections.abc import Iterator

from foldserve.parity.live_comparison import Comparison
from foldserve.parity.measures import Distance, worst


class Breaker:
    """Trips when ``breaches`` of the last ``window`` checks were breaches, and stays so until it is reset."""

    def __init__(self, *, window: int, breaches: int) -> None:
        self._most_breaches = breaches
        self._checks: deque[Comparison] = deque(maxlen=window)
        self.tripped = False

    def observe(self, check: Comparison) -> bool:
        """Count a check; True for the one that trips it."""
        self._checks.append(check)
        trips = not self.tripped and self.breaches >= self._most_breaches
        self.tripped |= trips
        return trips

    def reset(self) -> None:
        """Trust again, and forget what was found."""
        self._checks.clear()
        self.tripped = False

    @property
    def checks(self) -> int:
        """Number of checks in the window."""
        return len(self._checks)

    @property
    def breaches(self) -> int:
        """Number of breaches among them."""
        return sum(bool(check.breaching) for check in list(self._checks))

    def worst(self) -> Iterator[tuple[str, Distance]]:
        """The largest distances of each output in the window."""
        checks = list(self._checks)  # others look while the next check is added
        for name in dict.fromkeys(name for check in checks for name in check.distances):
            yield name, worst(check.distances[name] for check in checks if name in check.distances)
