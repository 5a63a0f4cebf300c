"""What fails in a batch, or ends, is told to whom it concerns, and to nobody else."""

import threading
from collections.abc import Mapping, Sequence

import numpy as np
import pytest
from foldserve.errors import (
    ExecutionFailed,
    ModelNotReady,
)
from foldserve.runtime.session import Array, Provider
from foldserve.runtime.session import Execution as HowItRuns
from foldserve.runtime.tensors import TensorSpec
from foldserve.serving.batcher import Batcher
from foldserve.serving.waiting import Execution, Waiting
from foldserve.settings import Precision
from unit.serving.held_engine import (
    POISON,
    Caller,
    HeldSession,
    MakeBatcher,
    answered_alone,
    assert_near,
    occupy,
    until,
)


def test_one_failing_part_fails_the_whole_request_once(
    session: HeldSession, make_batcher: MakeBatcher, images: Array
) -> None:
    batcher = make_batcher(most_rows=100)
    poisoned = images.copy()
    poisoned[0] = POISON
    first = occupy(session, batcher, images[:1])
    large, good = Caller(batcher, poisoned), Caller(batcher, images[:2])
    session.free.set()
    assert isinstance(large.outcome(), ExecutionFailed)
    first.execution()
    assert_near(good.execution().outputs[0], answered_alone(session, images[:2]))
    assert session.batches == [1, 100, 2]  # what was left of it has been dropped


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
    execution = HowItRuns(
        runtime="numpy", device="CPU", precision=Precision.FLOAT32, threads=1, streams=None, layers={}
    )
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
        until(lambda: bool(session.batches))  # the first has the engine
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
    first = occupy(session, batcher, images[:1])

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
    running, waiting = occupy(session, batcher, images[:1]), Caller(batcher, images[:1])
    batcher.close()
    assert isinstance(waiting.outcome(), ModelNotReady)
    with pytest.raises(ModelNotReady):
        Caller(batcher, images[:1])
    session.free.set()
    running.execution()
    until(lambda: not any(engine.is_alive() for engine in engines))
