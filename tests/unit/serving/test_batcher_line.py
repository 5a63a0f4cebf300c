"""The line in front of an engine: who waits, who goes first, who is refused or leaves."""

import time

import numpy as np
import pytest
from foldserve.errors import (
    DeadlineExpired,
    ExecutionFailed,
    QueueFull,
    RequestCancelled,
)
from foldserve.runtime.session import Array
from foldserve.serving.batcher import RETRY_AFTER_S
from foldserve.settings import Batching, QueuePolicy
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


@pytest.mark.parametrize("instances", [1, 2])
def test_cancelled_expired_and_failing_requests_do_not_touch_their_neighbours(
    session: HeldSession, make_batcher: MakeBatcher, images: Array, instances: int
) -> None:
    batcher = make_batcher(instances=instances)
    occupying = [occupy(session, batcher, images[:1]) for _ in range(instances)]
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
        assert_near(caller.execution().outputs[0], answered_alone(session, expected))
    for caller in occupying:
        caller.execution()
    assert not {3, 4, 8} & set(session.batches)


def test_a_full_line_refuses_tells_when_to_come_again_and_goes_on(
    session: HeldSession, make_batcher: MakeBatcher, images: Array
) -> None:
    batcher = make_batcher(capacity=1)
    callers = [occupy(session, batcher, images[:1]), Caller(batcher, images[:1])]
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
    first = occupy(session, batcher, images[:1])
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


def test_a_full_line_tells_so_before_anybody_asks_and_lets_the_gone_leave(
    session: HeldSession, make_batcher: MakeBatcher, images: Array
) -> None:
    batcher = make_batcher(capacity=1)
    assert batcher.refusal() is None
    first = occupy(session, batcher, images[:1])
    assert batcher.refusal() is None
    second = Caller(batcher, images[:1])
    refusal = batcher.refusal()
    assert refusal is not None
    assert refusal.retry_after_s >= RETRY_AFTER_S[0]
    second.gone = True
    until(lambda: batcher.refusal() is None)
    assert isinstance(second.outcome(), RequestCancelled)
    session.free.set()
    first.execution()


def test_without_a_line_requests_still_run_on_an_idle_engine(
    session: HeldSession, make_batcher: MakeBatcher, images: Array
) -> None:
    batcher = make_batcher(capacity=0)
    Caller(batcher, images[:1]).execution()
    first = occupy(session, batcher, images[:1])
    with pytest.raises(QueueFull, match="0 requests are waiting"):
        Caller(batcher, images[:1])
    session.free.set()
    first.execution()


def test_what_a_refused_caller_is_told_follows_from_what_runs_take(
    session: HeldSession, make_batcher: MakeBatcher, images: Array
) -> None:
    batcher = make_batcher(capacity=5, most_rows=1)
    first = occupy(session, batcher, images[:1])
    time.sleep(0.05)
    session.free.set()
    first.execution()
    callers = [occupy(session, batcher, images[:1])]
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
    callers = [occupy(session, batcher, images[:1]), Caller(batcher, images[:1])]
    with pytest.raises(QueueFull, match="priority 2"):
        Caller(batcher, images[:1])
    callers += [Caller(batcher, images[:1], priority=1) for _ in range(3)]
    session.free.set()
    for caller in callers:
        caller.execution()


def test_a_higher_priority_runs_first(session: HeldSession, make_batcher: MakeBatcher, images: Array) -> None:
    batcher = make_batcher(batching=Batching(priority_levels=3, default_priority_level=2), most_rows=4)
    first = occupy(session, batcher, images[:1])
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
        assert_near(caller.execution().outputs[0], answered_alone(session, images[index : index + 1]))
    assert session.batches == [3]


def test_the_wait_for_company_ends(session: HeldSession, make_batcher: MakeBatcher, images: Array) -> None:
    batcher = make_batcher(batching=Batching(max_queue_delay_us=20_000))
    execution = Caller(batcher, images[:1]).execution()
    assert execution.queue_s >= 0.02
    assert session.batches == [1]


def test_a_request_that_is_late_already_is_refused_at_once(make_batcher: MakeBatcher, images: Array) -> None:
    with pytest.raises(DeadlineExpired):
        Caller(make_batcher(), images[:1], deadline=time.monotonic() - 1)
