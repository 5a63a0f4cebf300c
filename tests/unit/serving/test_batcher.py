"""The batcher around a real session, which the tests can hold and let fail."""

import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pytest
from foldserve.errors import DeadlineExpired, ExecutionFailed, FoldserveError, QueueFull, RequestCancelled
from foldserve.parity.measures import distance
from foldserve.runtime.onnxruntime_session import OnnxRuntimeSession
from foldserve.runtime.session import Array
from foldserve.serving.batcher import Batcher
from running import EXAMPLE_DATA, EXAMPLE_MODELS

POISON = 1e30


class HeldSession(OnnxRuntimeSession):
    """The digits model; runs wait while it is held, and fail where an image is poisoned."""

    def __init__(self) -> None:
        super().__init__(EXAMPLE_MODELS / "digits" / "1" / "model.onnx")
        self.free = threading.Event()
        self.free.set()
        self.batches: list[int] = []

    def run(self, inputs: Mapping[str, Array], outputs: Sequence[str] | None = None) -> list[Array]:
        self.batches.append(len(inputs["images"]))
        self.free.wait()
        if (inputs["images"] == POISON).any():
            raise ExecutionFailed("poisoned")
        return super().run(inputs, outputs)


class Caller:
    """One request in a thread of its own."""

    def __init__(self, batcher: Batcher, images: Array, *, deadline: float | None = None) -> None:
        self.gone = False
        self.answer: Any = None
        self.error: FoldserveError | None = None
        self._request = (batcher, images, deadline)
        self._thread = threading.Thread(target=self._call)
        self._thread.start()

    def _call(self) -> None:
        batcher, images, deadline = self._request
        try:
            self.answer = batcher.run({"images": images}, ("logits",), deadline, lambda: self.gone)
        except FoldserveError as error:
            self.error = error

    def finish(self) -> "Caller":
        self._thread.join(timeout=60)
        assert not self._thread.is_alive()
        return self


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


def _batcher(session: HeldSession, most_rows: int | None = 32, capacity: int = 100) -> Batcher:
    return Batcher(session, most_rows=most_rows, instances=1, capacity=capacity)


def _occupy(session: HeldSession, batcher: Batcher, image: Array) -> Caller:
    """A request that has the engine and keeps it until the session is let go."""
    session.free.clear()
    started = len(session.batches)
    caller = Caller(batcher, image)
    while len(session.batches) == started:
        time.sleep(0.001)
    return caller


def _queue(batcher: Batcher, count: int) -> None:
    while batcher.waiting < count:
        time.sleep(0.001)


def _expected(session: HeldSession, images: Array) -> Array:
    return OnnxRuntimeSession.run(session, {"images": images})[0]


def _assert_near(actual: Array, expected: Array) -> None:
    """Equal up to what another batch size does to float32."""
    assert actual.shape == expected.shape
    assert distance(expected, actual).relative_l2 < 1e-5


def test_a_lone_request_runs_at_once_on_its_own_array(session: HeldSession, images: Array) -> None:
    execution = _batcher(session).run({"images": images[:2]}, ("logits",), None, lambda: False)
    np.testing.assert_array_equal(execution.outputs[0], _expected(session, images[:2]))
    assert (session.batches, execution.runs) == ([2], (2,))


def test_what_arrives_meanwhile_becomes_one_batch_and_each_gets_its_rows(
    session: HeldSession, images: Array
) -> None:
    batcher = _batcher(session)
    first = _occupy(session, batcher, images[:1])
    callers = []
    for count, start in enumerate((1, 3, 6)):
        callers.append(Caller(batcher, images[start : start + count + 2]))
        _queue(batcher, count + 1)
    session.free.set()
    answers = [caller.finish().answer for caller in (first, *callers)]
    assert session.batches == [1, 9]
    assert [answer.runs for answer in answers if answer] == [(1,), (9,), (), ()]
    for caller, (start, end) in zip(callers, ((1, 3), (3, 6), (6, 10)), strict=True):
        assert caller.answer is not None
        _assert_near(caller.answer.outputs[0], _expected(session, images[start:end]))
        assert caller.answer.outputs[0].base is not None  # a view of the batch, not a copy


def test_a_large_request_is_split_and_joined(session: HeldSession, images: Array) -> None:
    execution = _batcher(session, most_rows=100).run({"images": images}, ("logits",), None, lambda: False)
    _assert_near(execution.outputs[0], _expected(session, images))
    assert session.batches == [100, 100, 100, 60] == list(execution.runs)


def test_without_batching_requests_run_one_by_one(session: HeldSession, images: Array) -> None:
    batcher = _batcher(session, most_rows=None)
    first = _occupy(session, batcher, images[:1])
    others = [Caller(batcher, images[:2]), Caller(batcher, images[:200])]
    _queue(batcher, 2)
    session.free.set()
    for caller in (first, *others):
        assert caller.finish().answer is not None
    assert sorted(session.batches) == [1, 2, 200]


def test_cancelled_expired_and_failing_requests_do_not_touch_their_neighbours(
    session: HeldSession, images: Array
) -> None:
    batcher = _batcher(session)
    first = _occupy(session, batcher, images[:1])
    good = [Caller(batcher, images[:2])]
    _queue(batcher, 1)
    gone = Caller(batcher, images[:3])
    _queue(batcher, 2)
    late = Caller(batcher, images[:4], deadline=time.monotonic() + 0.02)
    poisoned = Caller(batcher, np.full((1, 1, 8, 8), POISON, np.float32))
    good.append(Caller(batcher, images[5:7]))
    late.finish()
    _queue(batcher, 4)
    gone.gone = True
    session.free.set()
    for caller in (first, *good, gone, poisoned):
        caller.finish()
    assert isinstance(late.error, DeadlineExpired)
    assert isinstance(gone.error, RequestCancelled)
    assert isinstance(poisoned.error, ExecutionFailed)
    for caller, expected in zip(good, (images[:2], images[5:7]), strict=True):
        assert caller.answer is not None
        _assert_near(caller.answer.outputs[0], _expected(session, expected))
    assert 3 not in session.batches
    assert 4 not in session.batches


def test_a_full_line_refuses_and_the_engine_goes_on(session: HeldSession, images: Array) -> None:
    batcher = _batcher(session, capacity=1)
    callers = [_occupy(session, batcher, images[:1]), Caller(batcher, images[:1])]
    _queue(batcher, 1)
    with pytest.raises(QueueFull, match="retry later"):
        batcher.run({"images": images[:1]}, ("logits",), None, lambda: False)
    session.free.set()
    assert all(caller.finish().answer is not None for caller in callers)


def test_the_engine_survives_a_failing_run(session: HeldSession, images: Array) -> None:
    batcher = _batcher(session)
    with pytest.raises(ExecutionFailed, match="poisoned"):
        batcher.run({"images": np.full((1, 1, 8, 8), POISON, np.float32)}, ("logits",), None, lambda: False)
    assert batcher.run({"images": images[:1]}, ("logits",), None, lambda: False).outputs[0].shape == (1, 10)


def test_many_callers_all_get_their_own_answers(session: HeldSession, images: Array) -> None:
    batcher = _batcher(session)
    expected = _expected(session, images)
    wrong: list[int] = []

    def call(caller: int) -> None:
        for turn in range(20):
            row = (caller * 20 + turn) % len(images)
            answer = batcher.run({"images": images[row : row + 1]}, ("logits",), None, lambda: False)
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
