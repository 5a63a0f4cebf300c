"""Requests over the wire, as cheaply as a Python process can send them.

Calls are started without waiting and completed in grpcio's own thread, one for each connection: of blocking
threads, asyncio and this, this sends nearest to when a request is due, and it serves closed and open loops
alike. Every outcome is four numbers in one flat array, which another process makes sense of.
"""

import threading
import time
from array import array
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import cycle
from typing import Any

import grpc

from foldserve_client.load.arrivals import Presence
from foldserve_client.load.target import Target

METHOD = "/inference.GRPCInferenceService/ModelInfer"
FIELDS = 4
"""Of an outcome: due, sent and done in seconds from the step's begin, and model × CODES + code."""

CODES = 128
NOT_SENT = 100
"""Instead of a gRPC status code: too many requests were unanswered already."""

MOST_IN_FLIGHT = 10_000
"""Unanswered requests of a process; what is due beyond them is counted as not sent."""

TICK_S = 0.01
"""Of the clock that tells, in a closed loop, how late this process gets its turn: no request is due there at
a moment of its own."""

CONNECT_S = 30.0
PATIENCE_S = 0.005
"""Between two looks at whether the last answers came."""


class Generator:
    """Sends prebuilt requests over connections of its own and notes what became of each."""

    def __init__(
        self, target: Target, requests: Sequence[tuple[int, bytes]], connections: int, timeout_s: float
    ) -> None:
        """Connect; raises grpc.FutureTimeoutError where the server cannot be reached in half a minute."""
        self._channels = [target.channel() for _ in range(connections)]
        try:
            for channel in self._channels:
                grpc.channel_ready_future(channel).result(CONNECT_S)
        except grpc.FutureTimeoutError:
            self.close()
            raise
        self._calls: cycle[grpc.UnaryUnaryMultiCallable[bytes, bytes]] = cycle(
            [channel.unary_unary(METHOD) for channel in self._channels]
        )
        self._requests = cycle(requests)
        self._timeout_s = timeout_s
        self._metadata = target.metadata
        self._lock = threading.Lock()
        self.failures: dict[int, str] = {}
        """What the server said to the first request that failed with each status code."""

        self._outcomes, self._lags = array("d"), array("d")
        self._in_flight = 0
        self._begin = 0.0
        self._left: int | None = None
        self._measured_from = 0.0

    def start(self, begin: float, measured_from_s: float, requests: int | None) -> None:
        """Prepare for a step that begins at ``begin`` (time.monotonic) and measures later on.

        No more than ``requests`` are sent in the measurement.
        """
        self._begin, self._measured_from, self._left = begin, measured_from_s, requests
        self.failures = {}

    def closed(self, callers: Sequence[Presence]) -> None:
        """Let each caller ask, and ask again as soon as it is answered, until its end or the last request."""
        left = threading.Semaphore(0)
        for caller in sorted(callers, key=lambda one: one.begin_s):
            self._sleep_until(caller.begin_s)
            self._ask_again(caller.end_s, left.release)
        for _ in callers:
            due = self._now() + TICK_S
            while not left.acquire(timeout=due - self._now()):
                self._tick(due)
                due = self._now() + TICK_S

    def open(self, arrivals: Iterator[float], end_s: float) -> None:
        """Send a request whenever one is due, until the end or the last request."""
        for due in arrivals:
            if due >= end_s or not self._may_send(due):
                return
            self._sleep_until(due)
            if self._in_flight < MOST_IN_FLIGHT:
                self._send(due, None)
            else:
                model, _ = next(self._requests)
                now = self._now()
                self._note(due, now, now, model, NOT_SENT)

    def finish(self) -> None:
        """Wait until everything sent is answered, which the calls' own deadlines limit."""
        while self._in_flight:
            time.sleep(PATIENCE_S)

    def take(self) -> bytes:
        """The outcomes since the last call, as FIELDS float64 each."""
        with self._lock:
            taken, self._outcomes = self._outcomes, array("d")
        return taken.tobytes()

    def take_lags(self) -> bytes:
        """How late each tick of a closed loop was since the last call: seconds, as float64."""
        with self._lock:
            taken, self._lags = self._lags, array("d")
        return taken.tobytes()

    def close(self) -> None:
        """Close the connections."""
        for channel in self._channels:
            channel.close()

    def _now(self) -> float:
        return time.monotonic() - self._begin

    def _sleep_until(self, moment: float) -> None:
        if (left := moment - self._now()) > 0:
            time.sleep(left)

    def _tick(self, due: float) -> None:
        if due >= self._measured_from:
            with self._lock:
                self._lags.append(self._now() - due)

    def _may_send(self, due: float) -> bool:
        """Whether the bound on requests leaves one; the warm-up is not bounded."""
        if self._left is None or due < self._measured_from:
            return True
        with self._lock:
            self._left -= 1
            return self._left >= 0

    def _ask_again(self, end_s: float, leave: Callable[[], None]) -> None:
        due = self._now()
        if due < end_s and self._may_send(due):
            self._send(due, partial(self._ask_again, end_s, leave))
        else:
            leave()

    def _send(self, due: float, then: Callable[[], None] | None) -> None:
        model, message = next(self._requests)
        with self._lock:
            self._in_flight += 1
        sent = self._now()
        call = next(self._calls).future(message, timeout=self._timeout_s, metadata=self._metadata)
        call.add_done_callback(partial(self._done, due, sent, model, then))

    def _done(
        self,
        due: float,
        sent: float,
        model: int,
        then: Callable[[], None] | None,
        call: Any,  # both a Future and a Call, which grpcio has no public name for
    ) -> None:
        done = self._now()
        status: int = call.code().value[0]
        self._note(due, sent, done, model, status)
        if status:
            self.failures.setdefault(status, call.details() or "")
        if then is not None:
            then()
        with self._lock:
            self._in_flight -= 1

    def _note(self, due: float, sent: float, done: float, model: int, code: int) -> None:
        with self._lock:
            self._outcomes.extend((due, sent, done, model * CODES + code))
