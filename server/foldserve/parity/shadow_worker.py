"""The one thread that compares answers with unfolded models while others are answered."""

import os
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from queue import Empty, SimpleQueue

from foldserve.observability.logging import get_logger
from foldserve.parity.cpu_budget import CpuBudget

MOST_WAITING = 16
"""Samples that may wait; each keeps the message that it came in."""

MOST_WAITING_BYTES = 64 * 2**20
"""Bytes of inputs and outputs that may wait; a single sample may be larger."""

LOWEST_PRIORITY = 19
"""In Linux each thread has a nice value of its own."""

REST_AFTER_S = 30.0
"""Once nothing came for so long, in seconds, whoever wants to is told to give memory back."""

log = get_logger()


class ShadowWorker:
    """Runs what it is given, one at a time, at the lowest priority; ``cpu_share`` is :class:`CpuBudget`'s.

    Work that is *offered* is refused where too much waits already or the processor time is used up; work that
    is *submitted* is done in any case, and costs nothing of it.
    """

    def __init__(self, cpu_share: float) -> None:
        self._budget = CpuBudget(cpu_share)
        self._queue: SimpleQueue[tuple[Callable[[], None], int, bool] | None] = SimpleQueue()
        self._lock = threading.Lock()
        self._waiting = self._waiting_bytes = 0
        self._resting: set[Callable[[], None]] = set()
        self._closed = False
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

    def when_idle(self, rest: Callable[[], None]) -> None:
        """Call ``rest`` each time that nothing came for a while."""
        self._resting.add(rest)

    def forget(self, rest: Callable[[], None]) -> None:
        """Call it no more."""
        self._resting.discard(rest)

    def close(self) -> None:
        """End the thread after what it does now; what waits is left undone."""
        self._closed = True
        self._queue.put(None)

    def _work(self) -> None:
        with suppress(OSError, AttributeError):  # not Linux, or a sandbox forbids it
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), LOWEST_PRIORITY)
        while True:
            try:
                item = self._queue.get(timeout=REST_AFTER_S)
            except Empty:
                for rest in list(self._resting):
                    _do(rest)
                continue
            if item is None or self._closed:
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
