"""Whether a thread still comes round, at the price of one assignment each time that it does."""

import time


class Pulse:
    """Set by its thread; whoever asks notes when, so that the thread need not look at a clock."""

    def __init__(self) -> None:
        self.beats = True
        """What the thread sets each time that it comes round."""

        self._last_seen_s = time.monotonic()

    def silent_s(self) -> float:
        """Seconds without a sign of the thread; they count from when somebody asks and finds none."""
        now_s = time.monotonic()
        if self.beats:
            self.beats, self._last_seen_s = False, now_s
        return now_s - self._last_seen_s
