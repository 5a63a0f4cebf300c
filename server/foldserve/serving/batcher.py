"""The line in front of an engine, in which requests meet and become batches.

Work-conserving: an idle engine starts at once with what is there, so nobody waits for a batch to fill;
batches form from what arrives while the engine is busy. Whoever brings a request does not wait for its
answer: a thread of the engine runs the batch and gives out the answers, so a batch of any size costs two
changes of thread, not one for each request. There is one thread more than there are instances: while one of
them gives out answers, the next batch runs already.
"""

import os
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from math import ceil, inf

import numpy as np

from foldserve.errors import DeadlineExpired, ModelNotReady, QueueFull, RequestCancelled
from foldserve.observability.logging import get_logger
from foldserve.runtime.session import Array, Session
from foldserve.serving.line import Cut, cut, without_gone
from foldserve.serving.queue_policy import Place, place
from foldserve.serving.split import Part, waiting_in_parts
from foldserve.serving.waiting import Execution, Waiting
from foldserve.settings import Batching

FRESH_SHARE = 0.1
"""Weight of the last run in the moving average of what a run takes."""

SHORT_RUN_S = 5e-4
"""Runs up to this long, in seconds, do not hold up the thread that brings requests."""

RETRY_AFTER_S = (0.01, 30.0)
"""Least and most that a refused caller is told to wait, in seconds."""

ASK_WHO_IS_GONE_EVERY_S = 0.01
"""Least time between two times that all callers in a full line are asked whether they are still there."""

Outcome = tuple[Waiting, Execution | Exception]

log = get_logger()


class Batcher:
    """Runs requests on a session, ``instances`` batches of at most ``most_rows`` rows at a time.

    ``most_rows`` None: requests of this model cannot share a run; it becomes so once a run of several gives
    other rows than it was given. ``capacity`` is the most requests in line, ``model`` a name for the log.
    """

    def __init__(
        self,
        session: Session,
        *,
        most_rows: int | None,
        instances: int,
        capacity: int,
        batching: Batching | None = None,
        model: str = "",
    ) -> None:
        self.most_rows = most_rows
        self._model = model
        self._session = session
        self._instances = self._idle = instances
        self._capacity = capacity
        self._batching = batching or Batching()
        self._line: list[Waiting] = []
        self._changed = threading.Condition(threading.Lock())
        self._closed = False
        self._run_s = 0.0
        self._short_run_bytes = -1
        self._asked_who_is_gone = -inf
        for index in range(instances + 1):
            threading.Thread(target=self._engine, name=f"engine-{index}", daemon=True).start()

    @property
    def waiting(self) -> int:
        """Requests in line."""
        return len(self._line)

    def submit(self, request: Waiting, *, priority: int = 0, timeout_us: int = 0) -> None:
        """Put a request of validated inputs in line; ``request.done`` is told what became of it.

        A request of more than ``most_rows`` rows runs in several batches. ``priority`` and ``timeout_us`` are
        :func:`~foldserve.serving.queue_policy.place`'s. Whoever is in line is told an :class:`Execution`,
        :class:`DeadlineExpired`, :class:`RequestCancelled`, :class:`ModelNotReady` or what the session
        raises. Raises :class:`QueueFull`, :class:`DeadlineExpired` or :class:`ModelNotReady` for a request
        that is refused at once.
        """
        if request.deadline <= request.arrived:
            raise _expired()
        stands = place(self._batching, priority, timeout_us, request.arrived)
        request.priority, request.overdue = stands.priority, stands.overdue
        request.deadline = min(request.deadline, stands.deadline)
        most = self.most_rows
        waiting = request if most is None else waiting_in_parts(request, most)
        gone = Cut([], [], [], [])
        at_once = False
        with self._changed:
            if self._closed:
                raise _closing()
            refusal = self._refusal(stands)
            if refusal is not None and self._may_ask_who_is_gone():
                gone = without_gone(self._line, time.monotonic())
                self._line = gone.rest
                refusal = self._refusal(stands)
            at_once = refusal is None and waiting is request and self._is_run_at_once(request)
            if at_once:
                self._idle -= 1
            elif refusal is None:
                self._line.append(waiting)
                if self._idle:
                    self._changed.notify()
        _dismiss(gone)
        if refusal is not None:
            raise refusal
        if at_once:
            self._execute([request])

    def use(self, session: Session) -> None:
        """Run what comes on another session; what runs finishes on the one before, which is not closed."""
        self._session = session

    def close(self) -> None:
        """End the engine's threads after what they run now; refuse what is in line and what comes."""
        with self._changed:
            self._closed = True
            left, self._line = self._line, []
            self._changed.notify_all()
        for waiting in left:
            _tell(waiting, _closing())

    def _is_run_at_once(self, request: Waiting) -> bool:
        """Whether the thread that brings a request runs it: the only one, of a model so small that to wake
        another thread for it takes longer. A larger input than any that ran so soon goes to the engine: it
        might hold up everybody."""
        return (
            request.alone
            and self._idle > 0
            and not self._line
            and self._run_s < SHORT_RUN_S
            and _bytes_of(request) <= self._short_run_bytes
            and not self._batching.max_queue_delay_us
        )

    def _refusal(self, stands: Place) -> QueueFull | None:
        """Why there is no place in line; None if there is one."""
        most = stands.policy.max_queue_size
        # Whoever finds an idle instance is in line for no more than a moment, and does not wait.
        if len(self._line) >= self._capacity + self._idle:
            scope, most = "this model", self._capacity
        elif most and sum(one.priority == stands.priority for one in self._line) >= most:
            scope = f"priority {stands.priority} of this model"
        else:
            return None
        return QueueFull(
            f"{most} requests are waiting for {scope}, the most it may have; retry later", self._drain_s()
        )

    def _may_ask_who_is_gone(self) -> bool:
        """Not at every refusal: to ask all callers costs more than to refuse one, and most are there."""
        now = time.monotonic()
        if now - self._asked_who_is_gone < ASK_WHO_IS_GONE_EVERY_S:
            return False
        self._asked_who_is_gone = now
        return True

    def _drain_s(self) -> float:
        """What the requests in line will take, by what runs took lately, in seconds."""
        rows = sum(waiting.rows for waiting in self._line)
        batches = ceil(rows / self.most_rows) if self.most_rows else len(self._line)
        least, most = RETRY_AFTER_S
        return min(max(batches * self._run_s / self._instances, least), most)

    def _engine(self) -> None:
        _let_others_finish_first()
        try:
            while (decision := self._next()) is not None:
                _dismiss(decision)
                if decision.batch:
                    self._execute(decision.batch)
                del decision
        except Exception:
            log.exception("an engine has ended; its model answers no more", model=self._model)
            self.close()

    def _next(self) -> Cut | None:
        """Wait for something to do, and take it out of the line; None once closed."""
        with self._changed:
            while not self._closed:
                held_until = inf
                if self._idle and self._line:
                    decision = cut(self._line, self.most_rows, time.monotonic(), self._batching)
                    self._line = decision.rest
                    if decision.batch:
                        self._idle -= 1
                    if decision.batch or decision.expired or decision.cancelled:
                        if self._idle and self._line:
                            self._changed.notify()
                        return decision
                    held_until = decision.held_until
                wait_s = min(max(0.0, held_until - time.monotonic()), threading.TIMEOUT_MAX)
                self._changed.wait(None if held_until == inf else wait_s)
        return None

    def _execute(self, batch: Sequence[Waiting]) -> None:
        """Run one batch, hand the engine on as soon as it is free, then answer everybody in the batch."""
        outcomes = self._outcomes(batch)
        first = outcomes[0][1] if outcomes else None
        run_s = first.compute_infer_s if isinstance(first, Execution) else None
        if len(batch) == 1 and run_s is not None and run_s < SHORT_RUN_S:
            self._short_run_bytes = max(self._short_run_bytes, _bytes_of(batch[0]))
        self._hand_on(run_s)
        for waiting, outcome in outcomes:
            _tell(waiting, outcome)

    def _outcomes(self, batch: Sequence[Waiting]) -> list[Outcome]:
        """Run a batch; where that does not work, each request by itself, so that only the guilty fail."""
        started = time.monotonic()
        try:
            outputs = self._session.run(_joined(batch), batch[0].outputs)
        except Exception as error:
            if len(batch) == 1:
                return [(batch[0], error)]
            alone = list(batch)
        else:
            if _can_be_cut(batch, outputs):
                return _shares(batch, outputs, started, time.monotonic())
            self._stop_batching(batch, outputs)
            alone = _undivided(batch)
        return [outcome for waiting in alone for outcome in self._outcomes([waiting])]

    def _stop_batching(self, batch: Sequence[Waiting], outputs: Sequence[Array]) -> None:
        """From now on every request runs alone: which rows of an output are whose cannot be known."""
        with self._changed:
            stops, self.most_rows = self.most_rows is not None, None
            self._line = _undivided(self._line)
        if stops:
            log.warning(
                "requests of this model share no runs any more: a run gave other rows than it was given",
                model=self._model,
                rows=sum(waiting.rows for waiting in batch),
                outputs=[list(array.shape) for array in outputs],
            )

    def _hand_on(self, run_s: float | None) -> None:
        """Let the next batch run; ``run_s`` is what this one took, in seconds, unless it failed."""
        with self._changed:
            self._idle += 1
            if run_s is not None:
                self._run_s += (run_s - self._run_s) * (FRESH_SHARE if self._run_s else 1.0)
            if self._line:
                self._changed.notify()


def rows_of(inputs: Mapping[str, Array]) -> int:
    """Rows of a request: the first dimension of its first input, 1 for a scalar or a model without inputs."""
    first = next(iter(inputs.values()), None)
    return int(first.shape[0]) if first is not None and first.ndim else 1


def _bytes_of(request: Waiting) -> int:
    return sum(array.nbytes for array in request.inputs.values())


def _let_others_finish_first() -> None:
    """Have Linux not interrupt a running thread when this one wakes: the one that reads from the network.

    On a busy core a request would otherwise run alone, ahead of those that have arrived with it.
    """
    if hasattr(os, "SCHED_BATCH"):
        with suppress(OSError):  # a sandbox may forbid it
            os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))


def _joined(batch: Sequence[Waiting]) -> Mapping[str, Array]:
    """The inputs of all requests, each written once into its place; those of a single one as they are."""
    if len(batch) == 1:
        return batch[0].inputs
    return {name: np.concatenate([waiting.inputs[name] for waiting in batch]) for name in batch[0].inputs}


def _can_be_cut(batch: Sequence[Waiting], outputs: Sequence[Array]) -> bool:
    """Whether the outputs have the rows of the batch; those of one whole request need not be cut at all."""
    if len(batch) == 1 and not isinstance(batch[0], Part):
        return True
    rows = sum(waiting.rows for waiting in batch)
    return all(array.shape[:1] == (rows,) for array in outputs)


def _shares(batch: Sequence[Waiting], outputs: list[Array], started: float, finished: float) -> list[Outcome]:
    """Each request with its rows, as views of the batch's outputs."""
    rows = sum(waiting.rows for waiting in batch)
    runs: tuple[int, ...] = (rows,) if rows else ()
    shares: list[Outcome] = []
    start = 0
    for waiting in batch:
        end = start + waiting.rows
        own = outputs if len(batch) == 1 else [array[start:end] for array in outputs]
        shares.append((waiting, Execution(own, started - waiting.arrived, finished - started, runs)))
        start, runs = end, ()
    return shares


def _undivided(line: Sequence[Waiting]) -> list[Waiting]:
    """The same line with whole requests in place of their parts, each once."""
    wholes = (waiting.whole.undivided() if isinstance(waiting, Part) else waiting for waiting in line)
    return [waiting for waiting in wholes if waiting is not None]


def _dismiss(decision: Cut) -> None:
    """Tell those who leave the line without their turn."""
    for waiting in decision.expired:
        _tell(waiting, _expired())
    for waiting in decision.cancelled:
        _tell(waiting, RequestCancelled("the caller went away"))


def _tell(waiting: Waiting, outcome: Execution | Exception) -> None:
    """Nobody's answer may depend on whether somebody else's could be given."""
    try:
        waiting.done(outcome)
    except Exception:
        log.exception("a request could not be answered")


def _expired() -> DeadlineExpired:
    return DeadlineExpired("the time ran out while the request waited for its turn")


def _closing() -> ModelNotReady:
    return ModelNotReady("the model is being unloaded")
