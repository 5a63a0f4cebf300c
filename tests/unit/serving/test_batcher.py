"""The batcher around a real session: requests meet, are split, and are answered."""

import threading
import tracemalloc

import numpy as np
import pytest
from foldserve.errors import (
    QueueFull,
    RequestCancelled,
)
from foldserve.runtime.session import Array
from unit.serving.held_engine import (
    Caller,
    HeldSession,
    MakeBatcher,
    answered_alone,
    assert_near,
    occupy,
    until,
)


def test_a_lone_request_runs_at_once_on_its_own_array(
    session: HeldSession, make_batcher: MakeBatcher, images: Array
) -> None:
    execution = Caller(make_batcher(), images[:2]).execution()
    np.testing.assert_array_equal(execution.outputs[0], answered_alone(session, images[:2]))
    assert (session.batches, execution.runs) == ([2], (2,))
    assert np.shares_memory(session.inputs_seen[0], images)


def test_what_arrives_meanwhile_becomes_one_batch_and_each_gets_its_rows(
    session: HeldSession, make_batcher: MakeBatcher, images: Array
) -> None:
    batcher = make_batcher()
    first = occupy(session, batcher, images[:1])
    spans = ((1, 3), (3, 6), (6, 10))
    callers = [Caller(batcher, images[start:end]) for start, end in spans]
    session.free.set()
    answers = [caller.execution() for caller in (first, *callers)]
    assert session.batches == [1, 9]
    assert [answer.runs for answer in answers] == [(1,), (9,), (), ()]
    for answer, (start, end) in zip(answers[1:], spans, strict=True):
        assert_near(answer.outputs[0], answered_alone(session, images[start:end]))
        assert answer.outputs[0].base is answers[1].outputs[0].base  # views of one batch, no copies


def test_a_large_request_is_split_joined_and_shares_its_batches(
    session: HeldSession, make_batcher: MakeBatcher, images: Array
) -> None:
    batcher = make_batcher(most_rows=100, capacity=1)
    first = occupy(session, batcher, images[:1])
    large = Caller(batcher, images)
    assert batcher.waiting == 1
    with pytest.raises(QueueFull):
        Caller(batcher, images[:1])
    session.free.set()
    first.execution()
    execution = large.execution()
    assert_near(execution.outputs[0], answered_alone(session, images))
    assert session.batches == [1, 100, 100, 100, 60]
    assert execution.runs == (100, 100, 100, 60)
    assert all(np.shares_memory(seen, images) for seen in session.inputs_seen)
    batcher = make_batcher(most_rows=100)
    first = occupy(session, batcher, images[:1])
    sharing = [Caller(batcher, images[:130]), Caller(batcher, images[130:150])]
    session.free.set()
    first.execution()
    assert_near(sharing[0].execution().outputs[0], answered_alone(session, images[:130]))
    assert_near(sharing[1].execution().outputs[0], answered_alone(session, images[130:150]))
    assert session.batches[5:] == [1, 100, 50]


def test_parts_of_one_row_are_answered_beside_other_requests(
    session: HeldSession, make_batcher: MakeBatcher, images: Array
) -> None:
    batcher = make_batcher(most_rows=1, capacity=2)
    first = occupy(session, batcher, images[:1])
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
    first = occupy(session, batcher, images[:1])
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


def test_instances_run_side_by_side_parts_of_one_request_too(
    session: HeldSession, make_batcher: MakeBatcher, images: Array
) -> None:
    batcher = make_batcher(most_rows=100, instances=3)
    session.free.clear()
    large = Caller(batcher, images[:300])
    until(lambda: len(session.batches) == 3)
    assert session.batches == [100, 100, 100]
    waiting = Caller(batcher, images[:7])
    assert batcher.waiting == 1
    session.free.set()
    assert_near(large.execution().outputs[0], answered_alone(session, images[:300]))
    waiting.execution()


def test_without_batching_requests_run_one_by_one(
    session: HeldSession, make_batcher: MakeBatcher, images: Array
) -> None:
    batcher = make_batcher(most_rows=None)
    first = occupy(session, batcher, images[:1])
    others = [Caller(batcher, images[:2]), Caller(batcher, images[:200])]
    session.free.set()
    for caller in (first, *others):
        caller.execution()
    assert session.batches == [1, 2, 200]


def test_many_callers_all_get_their_own_answers(
    session: HeldSession, make_batcher: MakeBatcher, images: Array
) -> None:
    batcher = make_batcher(instances=2)
    expected = answered_alone(session, images)
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
