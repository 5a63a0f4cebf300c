"""How much processor time work in the background may take: a token bucket."""

import time
from collections.abc import Callable

BURST_S = 1.0
"""Most that is saved up, in seconds of processor time."""


class CpuBudget:
    """Earns ``share`` seconds of processor time in each second, up to :data:`BURST_S`.

    What something takes is known afterwards, so it may be begun whenever something is left, and what it takes
    beyond that is earned before the next thing begins.
    """

    def __init__(self, share: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._share = share
        self._clock = clock
        self._left_s = BURST_S
        self._counted_at = clock()

    def is_left(self) -> bool:
        """Whether something may begin now."""
        self._earn()
        return self._left_s > 0

    def spend(self, seconds: float) -> None:
        """Count what something took."""
        self._earn()
        self._left_s -= seconds

    def _earn(self) -> None:
        now = self._clock()
        self._left_s = min(BURST_S, self._left_s + (now - self._counted_at) * self._share)
        self._counted_at = now
