"""The line in front of an engine: bounded, deadline-aware, and empty whenever the engine is idle."""

import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager

from foldserve.errors import DeadlineExpired, QueueFull


class ExecutionQueue:
    """Admits one execution at a time; the others wait in order of arrival.

    An engine already spreads one execution over its threads, so running two at once only makes both slower.
    """

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._lock = threading.Lock()
        self._waiting: deque[threading.Event] = deque()
        self._busy = False

    @property
    def waiting(self) -> int:
        """Requests that wait for their turn."""
        return len(self._waiting)

    @contextmanager
    def turn(self, deadline: float | None) -> Iterator[None]:
        """Wait for a turn, hold it for the block.

        ``deadline`` is in seconds of ``time.monotonic``; None waits for as long as it takes. Raises
        :class:`QueueFull` when ``capacity`` requests wait already and :class:`DeadlineExpired` when the turn
        did not come in time.
        """
        self._enter(deadline)
        try:
            yield
        finally:
            self._leave()

    def _enter(self, deadline: float | None) -> None:
        with self._lock:
            if not self._busy:
                self._busy = True
                return
            if len(self._waiting) >= self._capacity:
                raise QueueFull(
                    f"{self._capacity} requests are waiting for this model, the most it may have; retry later"
                )
            turn = threading.Event()
            self._waiting.append(turn)
        remaining = None if deadline is None else max(0.0, deadline - time.monotonic())
        if turn.wait(remaining):
            return
        with self._lock:
            # The turn may have come between the time-out and this line: then it is ours to pass on.
            if turn not in self._waiting:
                self._pass_on()
            else:
                self._waiting.remove(turn)
        raise DeadlineExpired(
            "the deadline passed while the request waited for its turn; nothing was computed"
        )

    def _leave(self) -> None:
        with self._lock:
            self._pass_on()

    def _pass_on(self) -> None:
        if self._waiting:
            self._waiting.popleft().set()
        else:
            self._busy = False
