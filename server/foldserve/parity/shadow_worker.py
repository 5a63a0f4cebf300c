"""The one thread that compares answers with unfolded models while others are answered."""

import os
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from queue import Empty, SimpleQueue

from foldserve.observability.logging import get_logger
from foldserve.parity.cpu_budget import CpuBudget

LESS_PRIORITY = 5
"""Steps of Linux's scale below the others, a third of their weight. At the lowest the thread would be kept
waiting on a busy core while it holds Python's lock, and everybody's requests with it.
"""

MOST_WAITING = 16
"""Samples that may wait; each keeps the message that it came in."""

MOST_WAITING_BYTES = 64 * 2**20
"""Bytes of inputs and outputs that may wait; a single sample may be larger."""

REST_AFTER_S = 30.0
"""After so long without a check, in seconds, a model that is opened on demand is closed."""

LOOK_EVERY_S = 5.0
"""Longest time between two calls of what is to be done regularly."""

log = get_logger()


class ShadowWorker:
    """Runs what it is given, one at a time, at a lower priority; ``cpu_share`` is :class:`CpuBudget`'s.

    Work that is *offered* is refused where too much waits already or the processor time is used up; work that
    is *submitted* is done in any case, and costs nothing of it.
    """

    def __init__(self, cpu_share: float) -> None:
        self._budget = CpuBudget(cpu_share)
        self._queue: SimpleQueue[tuple[Callable[[], None], int, bool] | None] = SimpleQueue()
        self._lock = threading.Lock()
        self._waiting = self._waiting_bytes = 0
        self._regular: set[Callable[[], None]] = set()
        self.cpu_s = 0.0
        """Processor time of everything offered so far, in seconds."""

        self._thread = threading.Thread(target=self._work, name="shadow", daemon=True)
        self._thread.start()

    def offer(self, check: Callable[[], None], size: int) -> bool:
        """Have ``check`` run, which keeps ``size`` bytes in memory; False if there is no time or room."""
        with self._lock:
            is_full = self._waiting >= MOST_WAITING or (
                self._waiting > 0 and self._waiting_bytes + size > MOST_WAITING_BYTES
            )
            if is_full or not self._budget.is_left():
                return False
            self._waiting += 1
            self._waiting_bytes += size
        self._queue.put((check, size, True))
        return True

    def submit(self, work: Callable[[], None]) -> None:
        """Have ``work`` run."""
        self._queue.put((work, 0, False))

    def regularly(self, work: Callable[[], None]) -> None:
        """Call ``work`` every few seconds, and after everything else that is done."""
        self._regular.add(work)

    def forget(self, work: Callable[[], None]) -> None:
        """Call it no more."""
        self._regular.discard(work)

    def close(self, timeout_s: float) -> None:
        """End the thread after all that it was given; wait for that, but no longer than ``timeout_s``."""
        self._queue.put(None)
        self._thread.join(timeout_s)

    def _work(self) -> None:
        with suppress(OSError, AttributeError):  # not Linux, or a sandbox forbids it
            thread = threading.get_native_id()
            own = os.getpriority(os.PRIO_PROCESS, thread)
            os.setpriority(os.PRIO_PROCESS, thread, own + LESS_PRIORITY)
        while True:
            for regular in list(self._regular):
                _do(regular)
            try:
                item = self._queue.get(timeout=LOOK_EVERY_S)
            except Empty:
                continue
            if item is None:
                return
            work, size, is_offered = item
            started = time.thread_time()
            _do(work)
            if is_offered:
                self._count(time.thread_time() - started, size)
            del item, work  # what was compared must not stay in memory until the next one comes

    def _count(self, spent_s: float, size: int) -> None:
        with self._lock:
            self._waiting -= 1
            self._waiting_bytes -= size
            self._budget.spend(spent_s)
            self.cpu_s += spent_s


def _do(work: Callable[[], None]) -> None:
    try:
        work()
    except Exception:
        log.exception("a comparison with an unfolded model failed")
