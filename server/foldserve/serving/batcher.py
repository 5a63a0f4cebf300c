"""The line in front of an engine, in which requests meet and become batches.

Work-conserving: an idle engine starts at once with what is there, so nobody waits for a batch to fill;
batches form from what arrives while the engine is busy. Whoever brings a request does not wait for its
answer: a thread of the engine runs the batch and gives out the answers, so a batch of any size costs two
changes of thread, not one for each request. There is one thread more than there are instances: while one of
them gives out answers, the next batch runs already. A line that takes less time than to wake a thread is run
by the one that brought it, once it has nothing more to bring.
"""

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from math import inf

from foldserve.errors import DeadlineExpired, ModelNotReady, QueueFull, RequestCancelled
from foldserve.observability.logging import get_logger
from foldserve.runtime.preemption import let_others_finish_first
from foldserve.runtime.session import Array, Session
from foldserve.serving.batch import can_be_cut, joined, shares, undivided
from foldserve.serving.line import Cut, cut, without_gone
from foldserve.serving.pace import Pace, short_run_s
from foldserve.serving.queue_policy import Place, place
from foldserve.serving.split import waiting_in_parts
from foldserve.serving.waiting import Execution, Waiting
from foldserve.settings import Batching

RETRY_AFTER_S = (0.01, 30.0)
"""Least and most that a refused caller is told to wait, in seconds."""

ASK_WHO_IS_GONE_EVERY_S = 0.01
"""Least time between two times that all callers in a full line are asked whether they are still there."""

Outcome = tuple[Waiting, Execution | Exception]
Later = Callable[[Callable[[], None]], None]
"""Has something done by the thread that brings a request, once it has nothing more to bring."""

log = get_logger()


class Batcher:
    """Runs requests on a session, ``instances`` batches of at most ``most_rows`` rows at a time.

    ``most_rows`` None: requests of this model cannot share a run; it becomes so once a run of several gives
    other rows than it was given. ``capacity`` is the most requests in line, ``model`` a name for the log.
    ``short_s``: seconds for which a run may hold up whoever brings requests, None for what suits the machine.
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
        short_s: float | None = None,
    ) -> None:
        self.most_rows = most_rows
        self._model = model
        self._session = session
        self._instances = self._idle = instances
        self._capacity = capacity
        self._batching = batching or Batching()
        self._line: list[Waiting] = []
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)
        self._closed = False
        self._pace = Pace(short_run_s() if short_s is None else short_s)
        self._bringer_knows = self._engine_knows = False
        """Who has been told to look at the line, and has not done so yet."""

        self._asked_who_is_gone = -inf
        for index in range(instances + 1):
            threading.Thread(target=self._engine, name=f"engine-{index}", daemon=True).start()

    @property
    def waiting(self) -> int:
        """Requests in line."""
        return len(self._line)

    def submit(
        self, request: Waiting, *, priority: int = 0, timeout_us: int = 0, later: Later | None = None
    ) -> None:
        """Put a request of validated inputs in line; ``request.done`` is told what became of it.

        A request of more than ``most_rows`` rows runs in several batches. ``priority`` and ``timeout_us`` are
        :func:`~foldserve.serving.queue_policy.place`'s; ``later`` lets the calling thread run short lines.
        Whoever is in line is told an :class:`Execution`, :class:`DeadlineExpired`, :class:`RequestCancelled`,
        :class:`ModelNotReady` or what the session raises. Raises :class:`QueueFull`, :class:`DeadlineExpired`
        or :class:`ModelNotReady` for a request that is refused at once.
        """
        if request.deadline <= request.arrived:
            raise _expired()
        stands = place(self._batching, priority, timeout_us, request.arrived)
        request.priority, request.overdue = stands.priority, stands.overdue
        request.deadline = min(request.deadline, stands.deadline)
        most = self.most_rows
        waiting = request if most is None else waiting_in_parts(request, most)
        gone = Cut([], [], [], [])
        bringer: Later | None = None
        with self._lock:
            if self._closed:
                raise _closing()
            refusal = self._refusal(stands)
            if refusal is not None:
                gone = self._without_gone()
                refusal = self._refusal(stands)
            if refusal is None:
                self._line.append(waiting)
                if later is not None and self._is_left_to_bringer():
                    bringer = later
                else:
                    self._wake_engine()
        _dismiss(gone)
        if refusal is not None:
            raise refusal
        if bringer is not None:
            bringer(self._run_short_line)

    def refusal(self) -> QueueFull | None:
        """Why any request would be refused now; None if it depends on the request, or there is room."""
        if not self._is_full():
            return None
        with self._lock:
            gone = self._without_gone()
            refusal = self._queue_full("this model", self._capacity) if self._is_full() else None
        _dismiss(gone)
        return refusal

    def use(self, session: Session) -> None:
        """Run what comes on another session; what runs finishes on the one before, which is not closed."""
        self._session = session

    def close(self) -> None:
        """End the engine's threads after what they run now; refuse what is in line and what comes."""
        with self._lock:
            self._closed = True
            left, self._line = self._line, []
            self._changed.notify_all()
        for waiting in left:
            _tell(waiting, _closing())

    def _is_left_to_bringer(self) -> bool:
        """Whether the thread that brings requests runs the line: to wake another one would take longer."""
        if self._bringer_knows:
            return False
        if self._idle and self._pace.is_short(self._line) and not self._batching.max_queue_delay_us:
            self._bringer_knows = True
        return self._bringer_knows

    def _run_short_line(self) -> None:
        """Run what was left to this thread; where it has become too much, the engine does."""
        decision = Cut([], [], [], [])
        with self._lock:
            self._bringer_knows = False
            if self._idle and self._line and self._pace.is_short(self._line):
                decision = self._cut()
            else:
                self._wake_engine()
        _dismiss(decision)
        if decision.batch:
            self._execute(decision.batch)

    def _wake_engine(self) -> None:
        """Have an idle engine look at the line, unless one is about to, or whoever brings requests is."""
        if self._idle and self._line and not (self._engine_knows or self._bringer_knows):
            self._engine_knows = True
            self._changed.notify()

    def _refusal(self, stands: Place) -> QueueFull | None:
        """Why there is no place in line; None if there is one."""
        most = stands.policy.max_queue_size
        if self._is_full():
            return self._queue_full("this model", self._capacity)
        if most and sum(one.priority == stands.priority for one in self._line) >= most:
            return self._queue_full(f"priority {stands.priority} of this model", most)
        return None

    def _is_full(self) -> bool:
        """Whoever finds an idle instance is in line for no more than a moment, and does not wait."""
        return len(self._line) >= self._capacity + self._idle

    def _queue_full(self, scope: str, most: int) -> QueueFull:
        drain_s = self._pace.drain_s(self._line, self.most_rows, self._instances)
        return QueueFull(
            f"{most} requests are waiting for {scope}, the most it may have; retry later",
            min(max(drain_s, RETRY_AFTER_S[0]), RETRY_AFTER_S[1]),
        )

    def _without_gone(self) -> Cut:
        """Take those out of a full line who are late or gone; the lock is held.

        Not at every refusal: to ask all callers costs more than to refuse one, and most are there.
        """
        now = time.monotonic()
        if now - self._asked_who_is_gone < ASK_WHO_IS_GONE_EVERY_S:
            return Cut([], [], [], self._line)
        self._asked_who_is_gone = now
        gone = without_gone(self._line, now)
        self._line = gone.rest
        return gone

    def _engine(self) -> None:
        # On a busy core a request would otherwise run alone, ahead of those that have arrived with it.
        let_others_finish_first()
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
        with self._lock:
            while not self._closed:
                self._engine_knows = False
                held_until = inf
                if self._idle and self._line and not self._bringer_knows:
                    decision = self._cut()
                    if decision.batch or decision.expired or decision.cancelled:
                        return decision
                    held_until = decision.held_until
                wait_s = min(max(0.0, held_until - time.monotonic()), threading.TIMEOUT_MAX)
                self._changed.wait(None if held_until == inf else wait_s)
        return None

    def _cut(self) -> Cut:
        """Take what runs next out of the line, and who leaves it without a run."""
        decision = cut(self._line, self.most_rows, time.monotonic(), self._batching)
        self._line = decision.rest
        if decision.batch:
            self._idle -= 1
            self._wake_engine()
        return decision

    def _execute(self, batch: Sequence[Waiting]) -> None:
        """Run one batch, hand the engine on as soon as it is free, then answer everybody in the batch."""
        outcomes = self._outcomes(batch)
        first = outcomes[0][1] if outcomes else None
        run_s = first.compute_infer_s if isinstance(first, Execution) else None
        self._hand_on(batch, run_s)
        for waiting, outcome in outcomes:
            _tell(waiting, outcome)

    def _outcomes(self, batch: Sequence[Waiting]) -> list[Outcome]:
        """Run a batch; where that does not work, each request by itself, so that only the guilty fail."""
        started = time.monotonic()
        try:
            outputs = self._session.run(joined(batch), batch[0].outputs)
        except Exception as error:
            if len(batch) == 1:
                return [(batch[0], error)]
            alone = list(batch)
        else:
            if can_be_cut(batch, outputs):
                return [*shares(batch, outputs, started, time.monotonic())]
            self._stop_batching(batch, outputs)
            alone = undivided(batch)
        return [outcome for waiting in alone for outcome in self._outcomes([waiting])]

    def _stop_batching(self, batch: Sequence[Waiting], outputs: Sequence[Array]) -> None:
        """From now on every request runs alone: which rows of an output are whose cannot be known."""
        with self._lock:
            stops, self.most_rows = self.most_rows is not None, None
            self._line = undivided(self._line)
        if stops:
            log.warning(
                "requests of this model share no runs any more: a run gave other rows than it was given",
                model=self._model,
                rows=sum(waiting.rows for waiting in batch),
                outputs=[list(array.shape) for array in outputs],
            )

    def _hand_on(self, batch: Sequence[Waiting], run_s: float | None) -> None:
        """Let the next batch run; ``run_s`` is what this one took, in seconds, unless it failed."""
        with self._lock:
            self._idle += 1
            if run_s is not None:
                self._pace.record(batch, run_s)
            self._wake_engine()


def rows_of(inputs: Mapping[str, Array]) -> int:
    """Rows of a request: the first dimension of its first input, 1 for a scalar or a model without inputs."""
    first = next(iter(inputs.values()), None)
    return int(first.shape[0]) if first is not None and first.ndim else 1


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
