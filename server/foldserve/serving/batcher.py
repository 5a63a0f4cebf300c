"""The line in front of an engine, in which requests meet and become batches.

Work-conserving: an idle engine starts at once with what is there, so nobody waits for a batch to fill;
batches form from what arrives while the engine is busy. There is no engine thread either. The thread of a
request that finds the engine idle runs it; when it is done it hands the engine, and the next batch, to the
thread of the first request in line. So a single caller never crosses a thread, and a batch costs each request
in it one wake-up.
"""

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np

from foldserve.errors import DeadlineExpired, QueueFull, RequestCancelled
from foldserve.runtime.session import Array, Session
from foldserve.serving.line import Execution, Waiting, cut


class Batcher:
    """Runs requests on a session, ``instances`` batches of at most ``most_rows`` rows at a time.

    ``most_rows`` None: requests of this model cannot share a run. ``capacity`` is the most requests in line.
    """

    def __init__(self, session: Session, *, most_rows: int | None, instances: int, capacity: int) -> None:
        self._session = session
        self.most_rows = most_rows
        self._capacity = capacity
        self._idle = instances
        self._line: deque[Waiting] = deque()
        self._lock = threading.Lock()

    @property
    def waiting(self) -> int:
        """Requests in line."""
        return len(self._line)

    def run(
        self,
        inputs: Mapping[str, Array],
        outputs: Sequence[str],
        deadline: float | None,
        cancelled: Callable[[], bool],
    ) -> Execution:
        """Answer one request of validated inputs.

        ``deadline`` is in seconds of ``time.monotonic``, None for none; ``cancelled`` says whether the caller
        is gone. A request of more than ``most_rows`` rows runs in several batches. Raises :class:`QueueFull`,
        :class:`DeadlineExpired` or :class:`RequestCancelled` for a request that was not run, and
        :class:`ExecutionFailed`.
        """
        rows = rows_of(inputs)
        if self.most_rows is None or rows <= self.most_rows:
            return self._run(Waiting(inputs, outputs, rows, deadline, cancelled))
        parts = [
            self._run(Waiting(part, outputs, rows_of(part), deadline, cancelled))
            for part in _split(inputs, rows, self.most_rows)
        ]
        return Execution(
            [np.concatenate(pieces) for pieces in zip(*(part.outputs for part in parts), strict=True)],
            queue_s=sum(part.queue_s for part in parts),
            compute_infer_s=sum(part.compute_infer_s for part in parts),
            runs=tuple(rows for part in parts for rows in part.runs),
        )

    def _run(self, waiting: Waiting) -> Execution:
        if waiting.deadline is not None and waiting.deadline <= time.monotonic():
            raise _expired()
        with self._lock:
            if self._idle:
                self._idle -= 1
                waiting.batch = [waiting]
            elif len(self._line) >= self._capacity:
                raise QueueFull(
                    f"{self._capacity} requests are waiting for this model, the most it may have; retry later"
                )
            else:
                self._line.append(waiting)
        if waiting.batch is None:
            self._wait(waiting)
        if waiting.batch is not None:
            self._execute(waiting.batch)
        if waiting.error is not None:
            raise waiting.error
        assert waiting.answer is not None
        return waiting.answer

    def _wait(self, waiting: Waiting) -> None:
        """Sleep until answered or told to run the engine."""
        if waiting.deadline is None:
            waiting.signal.acquire()
            return
        if waiting.signal.acquire(timeout=max(0.0, waiting.deadline - time.monotonic())):
            return
        with self._lock:
            if waiting in self._line:
                self._line.remove(waiting)
            elif waiting.batch is not None:
                return  # handed the engine in the same moment: others count on it
        if waiting.answer is None and waiting.error is None:
            waiting.error = _expired()

    def _execute(self, batch: Sequence[Waiting]) -> None:
        """Run one batch, hand the engine on as soon as it is free, then answer everybody in the batch."""
        started = time.perf_counter()
        try:
            outputs = self._session.run(_joined(batch), batch[0].outputs)
        except Exception as error:
            self._fail(batch, error)
            return
        finished = time.perf_counter()
        self._hand_on()
        _answer(batch, outputs, started, finished)

    def _fail(self, batch: Sequence[Waiting], error: Exception) -> None:
        """Tell a request that ran alone; run each of several by itself, so that only the guilty one fails."""
        if len(batch) > 1:
            for waiting in batch:
                self._run_alone(waiting)
        self._hand_on()
        if len(batch) == 1:
            batch[0].fail(error)

    def _run_alone(self, waiting: Waiting) -> None:
        started = time.perf_counter()
        try:
            outputs = self._session.run(waiting.inputs, waiting.outputs)
        except Exception as error:
            waiting.fail(error)
        else:
            _answer([waiting], outputs, started, time.perf_counter())

    def _hand_on(self) -> None:
        """Give the engine, and the next batch, to the first request in line; nobody there: it is idle."""
        with self._lock:
            if not self._line:
                self._idle += 1
                return
            decision = cut(self._line, self.most_rows, time.monotonic())
            self._line = deque(decision.rest)
            if decision.batch:
                decision.batch[0].batch = decision.batch
            else:
                self._idle += 1
        for waiting in decision.expired:
            waiting.fail(_expired())
        for waiting in decision.cancelled:
            waiting.fail(RequestCancelled("the caller went away; nothing was computed"))
        if decision.batch:
            decision.batch[0].signal.release()


def rows_of(inputs: Mapping[str, Array]) -> int:
    """Rows of a request: the first dimension of its first input, 1 for a scalar or a model without inputs."""
    first = next(iter(inputs.values()), None)
    return int(first.shape[0]) if first is not None and first.ndim else 1


def _split(inputs: Mapping[str, Array], rows: int, most_rows: int) -> Iterator[dict[str, Array]]:
    for start in range(0, rows, most_rows):
        yield {name: array[start : start + most_rows] for name, array in inputs.items()}


def _joined(batch: Sequence[Waiting]) -> Mapping[str, Array]:
    """The inputs of all requests, each written once into its place; those of a single one as they are."""
    if len(batch) == 1:
        return batch[0].inputs
    return {name: np.concatenate([waiting.inputs[name] for waiting in batch]) for name in batch[0].inputs}


def _answer(batch: Sequence[Waiting], outputs: list[Array], started: float, finished: float) -> None:
    """Give each request its rows, as views of the batch's outputs."""
    rows = sum(waiting.rows for waiting in batch)
    start = 0
    for waiting in batch:
        end = start + waiting.rows
        own = outputs if len(batch) == 1 else [array[start:end] for array in outputs]
        runs = (rows,) if waiting is batch[0] else ()
        waiting.answer = Execution(own, started - waiting.arrived, finished - started, runs)
        start = end
        waiting.signal.release()


def _expired() -> DeadlineExpired:
    return DeadlineExpired("the deadline passed while the request waited for its turn; nothing was computed")
