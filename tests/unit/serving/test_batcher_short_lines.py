"""Lines that take so little time that the thread which brings the requests runs them."""

import threading
from collections.abc import Callable

import numpy as np
from foldserve.errors import ExecutionFailed, ModelNotReady
from foldserve.runtime.session import Array
from unit.serving.held_engine import (
    POISON,
    Caller,
    HeldSession,
    MakeBatcher,
    answered_alone,
    assert_near,
    until,
)

WHATEVER_IT_TAKES_S = 60.0


def _at_once(do: Callable[[], None]) -> None:
    """For a thread that has nothing more to bring."""
    do()


def test_requests_of_a_small_model_change_no_thread(
    session: HeldSession, make_batcher: MakeBatcher, images: Array
) -> None:
    batcher = make_batcher(short_s=WHATEVER_IT_TAKES_S)
    Caller(batcher, images[:1], later=_at_once).execution()  # nobody knows yet what a run takes
    Caller(batcher, images[:1]).execution()
    answers = [Caller(batcher, images[:1], later=_at_once).execution() for _ in range(3)]
    own = threading.current_thread()
    assert [thread is own for thread in session.threads] == [False, False, True, True, True]
    assert all(answer.outputs[0].shape == (1, 10) for answer in answers)
    poisoned = Caller(batcher, np.full_like(images[:1], POISON), later=_at_once).outcome()
    assert isinstance(poisoned, ExecutionFailed)
    Caller(batcher, images[:2], later=_at_once).execution()  # larger than any so far: nobody knows again
    assert session.threads[-1] is not own
    Caller(batcher, images[:2], later=_at_once).execution()
    assert session.threads[-1] is own


def test_runs_that_are_not_short_are_the_engines(
    session: HeldSession, make_batcher: MakeBatcher, images: Array
) -> None:
    batcher = make_batcher(short_s=0.0)
    for _ in range(3):
        Caller(batcher, images[:1], later=_at_once).execution()
    assert threading.current_thread() not in session.threads


def test_what_a_thread_brings_before_it_has_time_runs_together(
    session: HeldSession, make_batcher: MakeBatcher, images: Array
) -> None:
    batcher = make_batcher(short_s=WHATEVER_IT_TAKES_S)
    Caller(batcher, images[:1]).execution()
    put_off: list[Callable[[], None]] = []
    callers = [Caller(batcher, images[index : index + 1], later=put_off.append) for index in range(4)]
    callers.append(Caller(batcher, images[4:5]))  # by somebody else, who runs nothing
    assert (len(put_off), batcher.waiting) == (1, 5)
    put_off.pop()()
    for index, caller in enumerate(callers):
        assert_near(caller.execution().outputs[0], answered_alone(session, images[index : index + 1]))
    assert session.batches == [1, 5]
    assert session.threads[-1] is threading.current_thread()


def test_a_line_that_has_grown_too_long_is_the_engines(
    session: HeldSession, make_batcher: MakeBatcher, images: Array
) -> None:
    batcher = make_batcher(short_s=WHATEVER_IT_TAKES_S)
    Caller(batcher, images[:1]).execution()
    put_off: list[Callable[[], None]] = []
    small = Caller(batcher, images[:1], later=put_off.append)
    large = Caller(batcher, images[:8], later=put_off.append)
    put_off.pop()()
    small.execution()
    large.execution()
    assert not put_off
    assert threading.current_thread() not in session.threads


def test_a_line_that_was_left_to_a_thread_waits_for_the_engine_where_it_is_busy(
    session: HeldSession, make_batcher: MakeBatcher, images: Array
) -> None:
    batcher = make_batcher(short_s=WHATEVER_IT_TAKES_S)
    Caller(batcher, images[:1]).execution()
    session.free.clear()
    first = Caller(batcher, images[:1])
    until(lambda: len(session.batches) == 2)
    second = Caller(batcher, images[:1], later=_at_once)
    assert batcher.waiting == 1
    session.free.set()
    first.execution()
    second.execution()
    assert threading.current_thread() not in session.threads


def test_a_line_that_was_left_to_a_thread_may_be_closed_before_it_has_time(
    make_batcher: MakeBatcher, images: Array
) -> None:
    batcher = make_batcher(short_s=WHATEVER_IT_TAKES_S)
    Caller(batcher, images[:1]).execution()
    put_off: list[Callable[[], None]] = []
    caller = Caller(batcher, images[:1], later=put_off.append)
    batcher.close()
    put_off.pop()()
    assert isinstance(caller.outcome(), ModelNotReady)
