"""The batcher around a real session, which the tests can hold and let fail."""

import threading
import time
import tracemalloc
from collections.abc import Callable, Iterator, Mapping, Sequence
from math import inf
from queue import SimpleQueue

import numpy as np
import pytest
from foldserve.errors import (
    DeadlineExpired,
    ExecutionFailed,
    ModelNotReady,
    QueueFull,
    RequestCancelled,
)
from foldserve.parity.measures import distance
from foldserve.runtime.onnxruntime_session import OnnxRuntimeSession
from foldserve.runtime.session import Array, Provider
from foldserve.runtime.tensors import TensorSpec
from foldserve.serving import batcher as batcher_module
from foldserve.serving.batcher import RETRY_AFTER_S, Batcher
from foldserve.serving.waiting import Execution, Waiting
from foldserve.settings import Batching, QueuePolicy
from running import EXAMPLE_DATA, EXAMPLE_MODELS

POISON = 1e30


class HeldSession(OnnxRuntimeSession):
    """The digits model; runs wait while it is held, and fail where an image is poisoned."""

    def __init__(self) -> None:
        super().__init__(EXAMPLE_MODELS / "digits" / "1" / "model.onnx", intra_op_threads=1)
        self.free = threading.Event()
        self.free.set()
        self.batches: list[int] = []
        self.inputs_seen: list[Array] = []
        self.threads: list[threading.Thread] = []

    def run(self, inputs: Mapping[str, Array], outputs: Sequence[str] | None = None) -> list[Array]:
        self.batches.append(len(inputs["images"]))
        self.inputs_seen.append(inputs["images"])
        self.threads.append(threading.current_thread())
        self.free.wait()
        if (inputs["images"] == POISON).any():
            raise ExecutionFailed("poisoned")
        return super().run(inputs, outputs)


class Caller:
    """One request, in line or refused, and what it is told."""

    def __init__(
        self,
        batcher: Batcher,
        images: Array,
        *,
        deadline: float = inf,
        priority: int = 0,
        timeout_us: int = 0,
        outputs: tuple[str, ...] = ("logits",),
        alone: bool = False,
    ) -> None:
        self.gone = False
        self._told: SimpleQueue[Execution | Exception] = SimpleQueue()
        request = Waiting(
            {"images": images}, outputs, len(images), lambda: self.gone, self._told.put, deadline, alone=alone
        )
        batcher.submit(request, priority=priority, timeout_us=timeout_us)

    def outcome(self) -> Execution | Exception:
        return self._told.get(timeout=60)

    def execution(self) -> Execution:
        outcome = self.outcome()
        assert isinstance(outcome, Execution), outcome
        assert self._told.empty()
        return outcome


@pytest.fixture(scope="module")
def images() -> Array:
    with np.load(EXAMPLE_DATA / "digits_test.npz") as data:
        images: Array = data["images"]
        return images


@pytest.fixture
def session() -> Iterator[HeldSession]:
    session = HeldSession()
    yield session
    session.free.set()


MakeBatcher = Callable[..., Batcher]


@pytest.fixture
def make_batcher(session: HeldSession) -> Iterator[MakeBatcher]:
    made: list[Batcher] = []

    def make(
        *,
        most_rows: int | None = 32,
        instances: int = 1,
        capacity: int = 100,
        batching: Batching | None = None,
    ) -> Batcher:
        made.append(
            Batcher(session, most_rows=most_rows, instances=instances, capacity=capacity, batching=batching)
        )
        return made[-1]

    yield make
    for batcher in made:
        batcher.close()


def _until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.001)


def _occupy(session: HeldSession, batcher: Batcher, image: Array) -> Caller:
    """A request that has the engine and keeps it until the session is let go."""
    session.free.clear()
    started = len(session.batches)
    caller = Caller(batcher, image)
    _until(lambda: len(session.batches) > started)
    return caller


def _expected(session: HeldSession, images: Array) -> Array:
    return OnnxRuntimeSession.run(session, {"images": images})[0]


def _assert_near(actual: Array, expected: Array) -> None:
    """Equal up to what another batch size does to float32."""
    assert actual.shape == expected.shape
    assert distance(expected, actual).relative_l2 < 1e-5


def test_a_lone_request_runs_at_once_on_its_own_array(
    session: HeldSession, make_batcher: MakeBatcher, images: Array
) -> None:
    execution = Caller(make_batcher(), images[:2]).execution()
    np.testing.assert_array_equal(execution.outputs[0], _expected(session, images[:2]))
    assert (session.batches, execution.runs) == ([2], (2,))
    assert np.shares_memory(session.inputs_seen[0], images)


def test_what_arrives_meanwhile_becomes_one_batch_and_each_gets_its_rows(
    session: HeldSession, make_batcher: MakeBatcher, images: Array
) -> None:
    batcher = make_batcher()
    first = _occupy(session, batcher, images[:1])
    spans = ((1, 3), (3, 6), (6, 10))
    callers = [Caller(batcher, images[start:end]) for start, end in spans]
    session.free.set()
    answers = [caller.execution() for caller in (first, *callers)]
    assert session.batches == [1, 9]
    assert [answer.runs for answer in answers] == [(1,), (9,), (), ()]
    for answer, (start, end) in zip(answers[1:], spans, strict=True):
        _assert_near(answer.outputs[0], _expected(session, images[start:end]))
        assert answer.outputs[0].base is answers[1].outputs[0].base  # views of one batch, no copies


def test_a_large_request_is_split_joined_and_shares_its_batches(
    session: HeldSession, make_batcher: MakeBatcher, images: Array
) -> None:
    batcher = make_batcher(most_rows=100, capacity=1)
    first = _occupy(session, batcher, images[:1])
    large = Caller(batcher, images)
    assert batcher.waiting == 1
    with pytest.raises(QueueFull):
        Caller(batcher, images[:1])
    session.free.set()
    first.execution()
    execution = large.execution()
    _assert_near(execution.outputs[0], _expected(session, images))
    assert session.batches == [1, 100, 100, 100, 60]
    assert execution.runs == (100, 100, 100, 60)
    assert all(np.shares_memory(seen, images) for seen in session.inputs_seen)
    batcher = make_batcher(most_rows=100)
    first = _occupy(session, batcher, images[:1])
    sharing = [Caller(batcher, images[:130]), Caller(batcher, images[130:150])]
    session.free.set()
    first.execution()
    _assert_near(sharing[0].execution().outputs[0], _expected(session, images[:130]))
    _assert_near(sharing[1].execution().outputs[0], _expected(session, images[130:150]))
    assert session.batches[5:] == [1, 100, 50]


def test_parts_of_one_row_are_answered_beside_other_requests(
    session: HeldSession, make_batcher: MakeBatcher, images: Array
) -> None:
    batcher = make_batcher(most_rows=1, capacity=2)
    first = _occupy(session, batcher, images[:1])
    callers = [Caller(batcher, images), Caller(batcher, images[:1])]
    session.free.set()
    for caller in (first, *callers):
        caller.execution()
    assert session.batches == [1] * (len(images) + 2)


def test_a_request_of_many_rows_stands_in_line_as_one_whatever_it_holds(
    session: HeldSession, make_batcher: MakeBatcher, images: Array
) -> None:
    """Both took as many objects as they have runs; the second costs its sender 28 bytes."""
    batcher = make_batcher(most_rows=1)
    first = _occupy(session, batcher, images[:1])
    tracemalloc.start()
    try:
        large = [Caller(batcher, np.zeros(shape, np.float32)) for shape in ((10**6, 1, 1), (10**6, 1, 0))]
        kept, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert kept < 5e6  # the four million bytes of the first one's values, and little beside
    for caller in large:
        caller.gone = True
    session.free.set()
    first.execution()
    assert all(isinstance(caller.outcome(), RequestCancelled) for caller in large)


def test_one_failing_part_fails_the_whole_request_once(
    session: HeldSession, make_batcher: MakeBatcher, images: Array
) -> None:
    batcher = make_batcher(most_rows=100)
    poisoned = images.copy()
    poisoned[0] = POISON
    first = _occupy(session, batcher, images[:1])
    large, good = Caller(batcher, poisoned), Caller(batcher, images[:2])
    session.free.set()
    assert isinstance(large.outcome(), ExecutionFailed)
    first.execution()
    _assert_near(good.execution().outputs[0], _expected(session, images[:2]))
    assert session.batches == [1, 100, 2]  # what was left of it has been dropped


def test_instances_run_side_by_side_parts_of_one_request_too(
    session: HeldSession, make_batcher: MakeBatcher, images: Array
) -> None:
    batcher = make_batcher(most_rows=100, instances=3)
    session.free.clear()
    large = Caller(batcher, images[:300])
    _until(lambda: len(session.batches) == 3)
    assert session.batches == [100, 100, 100]
    waiting = Caller(batcher, images[:7])
    assert batcher.waiting == 1
    session.free.set()
    _assert_near(large.execution().outputs[0], _expected(session, images[:300]))
    waiting.execution()


def test_without_batching_requests_run_one_by_one(
    session: HeldSession, make_batcher: MakeBatcher, images: Array
) -> None:
    batcher = make_batcher(most_rows=None)
    first = _occupy(session, batcher, images[:1])
    others = [Caller(batcher, images[:2]), Caller(batcher, images[:200])]
    session.free.set()
    for caller in (first, *others):
        caller.execution()
    assert session.batches == [1, 2, 200]


@pytest.mark.parametrize("instances", [1, 2])
def test_cancelled_expired_and_failing_requests_do_not_touch_their_neighbours(
    session: HeldSession, make_batcher: MakeBatcher, images: Array, instances: int
) -> None:
    batcher = make_batcher(instances=instances)
    occupying = [_occupy(session, batcher, images[:1]) for _ in range(instances)]
    good = [Caller(batcher, images[:2])]
    gone = Caller(batcher, images[:3])
    late = Caller(batcher, images[:4], deadline=time.monotonic() + 0.001)
    overdue = Caller(batcher, images[:8], timeout_us=1000)
    poisoned = Caller(batcher, np.full((1, 1, 8, 8), POISON, np.float32))
    good.append(Caller(batcher, images[5:7]))
    gone.gone = True
    time.sleep(0.002)
    session.free.set()
    assert isinstance(late.outcome(), DeadlineExpired)
    assert isinstance(overdue.outcome(), DeadlineExpired)
    assert isinstance(gone.outcome(), RequestCancelled)
    assert isinstance(poisoned.outcome(), ExecutionFailed)
    for caller, expected in zip(good, (images[:2], images[5:7]), strict=True):
        _assert_near(caller.execution().outputs[0], _expected(session, expected))
    for caller in occupying:
        caller.execution()
    assert not {3, 4, 8} & set(session.batches)


def test_a_full_line_refuses_tells_when_to_come_again_and_goes_on(
    session: HeldSession, make_batcher: MakeBatcher, images: Array
) -> None:
    batcher = make_batcher(capacity=1)
    callers = [_occupy(session, batcher, images[:1]), Caller(batcher, images[:1])]
    with pytest.raises(QueueFull, match="retry later") as refusal:
        Caller(batcher, images[:1])
    least, most = RETRY_AFTER_S
    assert least <= refusal.value.retry_after_s <= most
    session.free.set()
    for caller in callers:
        caller.execution()


def test_who_is_gone_or_late_leaves_a_full_line_to_the_living(
    session: HeldSession, make_batcher: MakeBatcher, images: Array
) -> None:
    batcher = make_batcher(capacity=2)
    first = _occupy(session, batcher, images[:1])
    gone, late = Caller(batcher, images[:3]), Caller(batcher, images[:4], timeout_us=1)
    gone.gone = True
    time.sleep(0.001)
    alive = Caller(batcher, images[:2])
    assert isinstance(gone.outcome(), RequestCancelled)
    assert isinstance(late.outcome(), DeadlineExpired)
    session.free.set()
    first.execution()
    alive.execution()
    assert session.batches == [1, 2]


def test_without_a_line_requests_still_run_on_an_idle_engine(
    session: HeldSession, make_batcher: MakeBatcher, images: Array
) -> None:
    batcher = make_batcher(capacity=0)
    Caller(batcher, images[:1]).execution()
    first = _occupy(session, batcher, images[:1])
    with pytest.raises(QueueFull, match="0 requests are waiting"):
        Caller(batcher, images[:1])
    session.free.set()
    first.execution()


def test_what_a_refused_caller_is_told_follows_from_what_runs_take(
    session: HeldSession, make_batcher: MakeBatcher, images: Array
) -> None:
    batcher = make_batcher(capacity=5, most_rows=1)
    first = _occupy(session, batcher, images[:1])
    time.sleep(0.05)
    session.free.set()
    first.execution()
    callers = [_occupy(session, batcher, images[:1])]
    callers += [Caller(batcher, images[:1]) for _ in range(5)]
    with pytest.raises(QueueFull) as refusal:
        Caller(batcher, images[:1])
    assert refusal.value.retry_after_s >= 5 * 0.05
    session.free.set()
    for caller in callers:
        caller.execution()


def test_one_priority_cannot_fill_the_line_beyond_its_own_limit(
    session: HeldSession, make_batcher: MakeBatcher, images: Array
) -> None:
    batching = Batching(
        priority_levels=2,
        default_priority_level=2,
        priority_queue_policies={2: QueuePolicy(max_queue_size=1)},
    )
    batcher = make_batcher(batching=batching, most_rows=1)
    callers = [_occupy(session, batcher, images[:1]), Caller(batcher, images[:1])]
    with pytest.raises(QueueFull, match="priority 2"):
        Caller(batcher, images[:1])
    callers += [Caller(batcher, images[:1], priority=1) for _ in range(3)]
    session.free.set()
    for caller in callers:
        caller.execution()


def test_a_higher_priority_runs_first(session: HeldSession, make_batcher: MakeBatcher, images: Array) -> None:
    batcher = make_batcher(batching=Batching(priority_levels=3, default_priority_level=2), most_rows=4)
    first = _occupy(session, batcher, images[:1])
    callers = [Caller(batcher, images[: 4 - index], priority=3 - index) for index in range(3)]
    session.free.set()
    for caller in (first, *callers):
        caller.execution()
    assert session.batches == [1, 2, 3, 4]


def test_an_idle_engine_waits_for_company_only_when_told_and_not_beyond_a_preferred_size(
    session: HeldSession, make_batcher: MakeBatcher, images: Array
) -> None:
    forever_us = 60_000_000
    batcher = make_batcher(batching=Batching(max_queue_delay_us=forever_us, preferred_batch_sizes=(3,)))
    callers = [Caller(batcher, images[:1]), Caller(batcher, images[1:2])]
    assert not session.batches
    callers.append(Caller(batcher, images[2:3]))
    for index, caller in enumerate(callers):
        _assert_near(caller.execution().outputs[0], _expected(session, images[index : index + 1]))
    assert session.batches == [3]


def test_the_wait_for_company_ends(session: HeldSession, make_batcher: MakeBatcher, images: Array) -> None:
    batcher = make_batcher(batching=Batching(max_queue_delay_us=20_000))
    execution = Caller(batcher, images[:1]).execution()
    assert execution.queue_s >= 0.02
    assert session.batches == [1]


def test_a_request_that_is_late_already_is_refused_at_once(make_batcher: MakeBatcher, images: Array) -> None:
    with pytest.raises(DeadlineExpired):
        Caller(make_batcher(), images[:1], deadline=time.monotonic() - 1)


def test_the_engine_survives_a_failing_run(
    session: HeldSession, make_batcher: MakeBatcher, images: Array
) -> None:
    batcher = make_batcher()
    failing = Caller(batcher, np.full((1, 1, 8, 8), POISON, np.float32))
    assert "poisoned" in str(failing.outcome())
    assert Caller(batcher, images[:1]).execution().outputs[0].shape == (1, 10)


class Filter:
    """Images whose first pixel is positive, and their number: rows and axes that depend on the values."""

    provider = Provider.CPU
    inputs = (TensorSpec("images", np.dtype(np.float32), ("batch", 1, 8, 8)),)
    outputs = (
        TensorSpec("kept", np.dtype(np.float32), ("kept", 1, 8, 8)),
        TensorSpec("number", np.dtype(np.int64), ()),
    )

    def __init__(self) -> None:
        self.free = threading.Event()
        self.batches: list[int] = []

    def run(self, inputs: Mapping[str, Array], outputs: Sequence[str] | None = None) -> list[Array]:
        self.batches.append(len(inputs["images"]))
        self.free.wait()
        images = inputs["images"]
        kept = images[np.sign(images[:, 0, 0, 0]) == 1]
        results: dict[str, Array] = {"kept": kept, "number": np.array(len(kept))}
        return [results[name] for name in outputs or results]

    def close(self) -> None:
        pass


@pytest.mark.parametrize("output", ["kept", "number"])
def test_outputs_without_the_rows_of_the_batch_are_nobodys_but_each_requests_own(
    output: str,
) -> None:
    """By rows of the batch, the second would get the third's answer, and the third none."""
    session = Filter()
    batcher = Batcher(session, most_rows=4, instances=1, capacity=9)
    values = [
        np.full((rows, 1, 8, 8), value, np.float32) for rows, value in ((1, 1), (2, -1), (2, 3), (9, 5))
    ]
    large = np.concatenate([values[1], values[3]])
    callers = []
    for inputs in (*values, large):
        callers.append(Caller(batcher, inputs, outputs=(output,)))
        _until(lambda: bool(session.batches))  # the first has the engine
    session.free.set()
    answers = [caller.execution().outputs[0] for caller in callers]
    if output == "kept":
        assert [answer.shape[0] for answer in answers] == [1, 0, 2, 9, 9]
        assert [set(answer.ravel()) for answer in answers] == [{1}, set(), {3}, {5}, {5}]
    else:
        assert [int(answer) for answer in answers] == [1, 0, 2, 9, 9]
    assert session.batches == [1, 4, 2, 2, 9, 11]  # one batch was tried
    assert batcher.most_rows is None
    batcher.close()


@pytest.mark.parametrize("instances", [1, 3])
def test_a_large_request_whose_parts_lose_rows_runs_whole(instances: int) -> None:
    session = Filter()
    session.free.set()
    batcher = Batcher(session, most_rows=4, instances=instances, capacity=9)
    ones = np.ones((30, 1, 8, 8), np.float32)
    inputs = np.concatenate([ones, -ones, 2 * ones])
    execution = Caller(batcher, inputs, outputs=("kept",)).execution()
    np.testing.assert_array_equal(execution.outputs[0], np.concatenate([inputs[:30], inputs[60:]]))
    assert execution.runs == (90,)
    batcher.close()


def test_an_answer_that_cannot_be_given_costs_nobody_else_theirs(
    session: HeldSession, make_batcher: MakeBatcher, images: Array
) -> None:
    batcher = make_batcher()
    first = _occupy(session, batcher, images[:1])

    def fail(_: Execution | Exception) -> None:
        raise OSError("broken pipe")

    batcher.submit(Waiting({"images": images[:1]}, ("logits",), 1, lambda: False, fail))
    beside = Caller(batcher, images[:2])
    session.free.set()
    first.execution()
    assert beside.execution().outputs[0].shape == (2, 10)
    assert Caller(batcher, images[:1]).execution().runs == (1,)


def test_closing_refuses_who_waits_and_who_comes_and_ends_the_threads(
    session: HeldSession, make_batcher: MakeBatcher, images: Array
) -> None:
    before = set(threading.enumerate())
    batcher = make_batcher()
    engines = set(threading.enumerate()) - before
    assert len(engines) == 2
    running, waiting = _occupy(session, batcher, images[:1]), Caller(batcher, images[:1])
    batcher.close()
    assert isinstance(waiting.outcome(), ModelNotReady)
    with pytest.raises(ModelNotReady):
        Caller(batcher, images[:1])
    session.free.set()
    running.execution()
    _until(lambda: not any(engine.is_alive() for engine in engines))


def test_many_callers_all_get_their_own_answers(
    session: HeldSession, make_batcher: MakeBatcher, images: Array
) -> None:
    batcher = make_batcher(instances=2)
    expected = _expected(session, images)
    wrong: list[int] = []

    def call(caller: int) -> None:
        for turn in range(20):
            row = (caller * 20 + turn) % len(images)
            answer = Caller(batcher, images[row : row + 1]).execution()
            if not np.allclose(answer.outputs[0], expected[row : row + 1], rtol=1e-4, atol=1e-4):
                wrong.append(row)

    callers = [threading.Thread(target=call, args=(index,)) for index in range(16)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join(timeout=60)
    assert not wrong
    assert sum(session.batches) == 16 * 20
    assert batcher.waiting == 0


def test_the_only_request_of_a_small_model_changes_no_thread(
    session: HeldSession, make_batcher: MakeBatcher, images: Array, monkeypatch: pytest.MonkeyPatch
) -> None:
    batcher = make_batcher()
    monkeypatch.setattr(batcher_module, "SHORT_RUN_S", 60.0)  # whatever this machine takes
    Caller(batcher, images[:1], alone=True).execution()  # nobody knows yet what a run takes
    Caller(batcher, images[:1]).execution()
    together = [Caller(batcher, images[:1], alone=True).execution() for _ in range(3)]
    own = threading.current_thread()
    assert [thread is own for thread in session.threads] == [False, False, True, True, True]
    assert all(execution.outputs[0].shape == (1, 10) for execution in together)
    with pytest.raises(ExecutionFailed, match="poisoned"):
        raise_it(Caller(batcher, np.full_like(images[:1], POISON), alone=True).outcome())
    Caller(batcher, images[:2], alone=True).execution()  # larger than any so far: nobody knows what it takes
    assert session.threads[-1] is not own
    Caller(batcher, images[:2], alone=True).execution()
    assert session.threads[-1] is own
    monkeypatch.setattr(batcher_module, "SHORT_RUN_S", 0.0)
    Caller(batcher, images[:1], alone=True).execution()
    assert session.threads[-1] is not own


def test_the_only_request_waits_for_the_engine_where_it_is_busy(
    session: HeldSession, make_batcher: MakeBatcher, images: Array, monkeypatch: pytest.MonkeyPatch
) -> None:
    batcher = make_batcher()
    monkeypatch.setattr(batcher_module, "SHORT_RUN_S", 60.0)
    Caller(batcher, images[:1]).execution()
    session.free.clear()
    first = Caller(batcher, images[:1])
    while len(session.batches) < 2:
        time.sleep(0.001)
    second = Caller(batcher, images[:1], alone=True)
    assert batcher.waiting == 1
    session.free.set()
    first.execution()
    second.execution()
    assert threading.current_thread() not in session.threads


def raise_it(outcome: Execution | Exception) -> None:
    if isinstance(outcome, Exception):
        raise outcome
