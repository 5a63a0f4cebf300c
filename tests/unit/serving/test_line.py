from math import inf

import numpy as np
import pytest
from foldserve.serving.line import Cut, cut
from foldserve.serving.waiting import Waiting
from foldserve.settings import Batching, QueuePolicy, TimeoutAction
from hypothesis import given
from hypothesis import strategies as st

NOW = 100.0
PLAIN = Batching()
PRIORITIES = Batching(priority_levels=3, default_priority_level=2)
DELAYING = Batching(queue_policy=QueuePolicy(timeout_action=TimeoutAction.DELAY))


def _waiting(
    rows: int,
    *,
    width: int = 4,
    outputs: tuple[str, ...] = ("y",),
    deadline: float = inf,
    overdue: float = inf,
    gone: bool = False,
    priority: int = 0,
    arrived: float = NOW - 1,
) -> Waiting:
    return Waiting(
        {"x": np.zeros((rows, width), np.float32)},
        outputs,
        rows,
        lambda: gone,
        print,
        deadline,
        overdue,
        priority,
        arrived,
    )


def _rows(cut: Cut) -> list[int]:
    return [waiting.rows for waiting in cut.batch]


def test_a_batch_is_filled_in_order_up_to_its_rows() -> None:
    decision = cut([_waiting(rows) for rows in (3, 4, 1, 2)], 8, NOW, PLAIN)
    assert _rows(decision) == [3, 4, 1]
    assert [waiting.rows for waiting in decision.rest] == [2]


def test_nobody_of_the_same_kind_is_overtaken() -> None:
    """The 5 does not fit beside 3 + 4; the 1 behind it would, but came later."""
    assert _rows(cut([_waiting(rows) for rows in (3, 4, 5, 1)], 8, NOW, PLAIN)) == [3, 4]


def test_different_shapes_and_outputs_never_meet() -> None:
    line = [_waiting(1), _waiting(2, width=5), _waiting(3, outputs=("z",)), _waiting(4)]
    decision = cut(line, 8, NOW, PLAIN)
    assert decision.batch == [line[0], line[3]]
    assert decision.rest == [line[1], line[2]]


def test_without_batching_each_runs_alone() -> None:
    assert _rows(cut([_waiting(0), _waiting(0), _waiting(1)], None, NOW, PLAIN)) == [0]


def test_expired_and_cancelled_requests_leave_without_costing_a_place() -> None:
    expired, gone, alive = _waiting(8, deadline=NOW), _waiting(8, gone=True), _waiting(8, deadline=NOW + 1)
    decision = cut([expired, gone, alive], 8, NOW, PLAIN)
    assert (decision.expired, decision.cancelled, decision.batch) == ([expired], [gone], [alive])


def test_whoever_expired_behind_a_full_batch_leaves_too() -> None:
    full, expired = _waiting(8), _waiting(8, deadline=NOW)
    assert cut([full, expired], 8, NOW, PLAIN).expired == [expired]


def test_the_lower_priority_number_runs_first() -> None:
    line = [_waiting(rows, priority=priority) for rows, priority in ((1, 3), (2, 1), (3, 2), (4, 1))]
    assert _rows(cut(line, 6, NOW, PRIORITIES)) == [2, 4]
    assert _rows(cut(line, 32, NOW, PRIORITIES)) == [2, 4, 3, 1]


def test_an_overdue_request_lets_the_others_of_its_priority_pass_but_is_not_refused() -> None:
    overdue, other = _waiting(1, overdue=NOW), _waiting(2)
    assert cut([overdue, other], 2, NOW, DELAYING).batch == [other]
    assert cut([overdue], 2, NOW, DELAYING).batch == [overdue]
    lower = _waiting(1, priority=3)
    overdue.priority = 2
    assert cut([overdue, lower], 1, NOW, PRIORITIES).batch == [overdue]


@pytest.mark.parametrize(
    ("rows", "waited_ms", "batch", "held_ms"),
    [
        ([1, 1], 2, [], 3),  # room for more, and time
        ([1, 1], 5, [1, 1], inf),  # waited long enough
        ([2, 2], 2, [2, 2], inf),  # a preferred size
        ([2, 2, 1], 2, [2, 2], inf),  # a preferred size and more
        ([2, 2, 1], 6, [2, 2, 1], inf),  # once waited, as many as there are
        ([2, 1, 2], 2, [], 3),  # passed the 4, may still become 6
        ([5, 2], 2, [5, 2], inf),  # beyond the largest preferred size
        ([6, 3], 2, [6], inf),  # preferred, and the 3 does not fit any more
        ([5, 4], 2, [5], inf),  # cannot grow: the 4 does not fit
        ([8], 0, [8], inf),  # full
    ],
)
def test_requests_are_held_back_for_company(
    rows: list[int], waited_ms: float, batch: list[int], held_ms: float
) -> None:
    batching = Batching(max_queue_delay_us=5000, preferred_batch_sizes=(4, 6))
    decision = cut([_waiting(row, arrived=NOW - waited_ms / 1e3) for row in rows], 8, NOW, batching)
    assert _rows(decision) == batch
    assert decision.held_until == pytest.approx(NOW + held_ms / 1e3)
    assert len(decision.batch) + len(decision.rest) == len(rows)


def test_nobody_is_held_back_beyond_its_own_time_or_before_somebody_of_another_kind() -> None:
    batching = Batching(max_queue_delay_us=5_000_000)
    assert _rows(cut([_waiting(1, deadline=NOW + 0.5)], 8, NOW, batching)) == [1]
    assert _rows(cut([_waiting(1, overdue=NOW + 0.5)], 8, NOW, batching)) == [1]
    assert _rows(cut([_waiting(1), _waiting(2, width=5)], 8, NOW, batching)) == [1]
    assert _rows(cut([_waiting(1, deadline=NOW + 5)], 8, NOW, batching)) == []
    assert _rows(cut([_waiting(1)], None, NOW, batching)) == [1]


def test_preferred_sizes_count_without_a_delay() -> None:
    batching = Batching(preferred_batch_sizes=(2,))
    assert _rows(cut([_waiting(1)] * 3, 8, NOW, batching)) == [1, 1]
    assert _rows(cut([_waiting(1)], 8, NOW, batching)) == [1]


TIMES = st.sampled_from([NOW - 2, NOW, NOW + 0.001, NOW + 2, inf])
REQUESTS = st.lists(
    st.builds(
        _waiting,
        st.integers(0, 6),
        width=st.sampled_from([3, 4]),
        deadline=TIMES,
        overdue=TIMES,
        gone=st.booleans(),
        priority=st.integers(0, 3),
        arrived=st.sampled_from([NOW - 3, NOW - 0.001, NOW]),
    ),
    max_size=20,
)
BATCHINGS = st.builds(
    Batching,
    max_queue_delay_us=st.sampled_from([0, 1000, 1_000_000]),
    preferred_batch_sizes=st.sampled_from([(), (2,), (4, 8)]),
    priority_levels=st.sampled_from([0, 3]),
    default_priority_level=st.just(1),
    queue_policy=st.builds(QueuePolicy, timeout_action=st.sampled_from(TimeoutAction)),
)


@given(REQUESTS, st.one_of(st.none(), st.integers(1, 8)), BATCHINGS)
def test_everybody_is_somewhere_once_and_a_live_line_moves_or_says_when(
    line: list[Waiting], most_rows: int | None, batching: Batching
) -> None:
    decision = cut(line, most_rows, NOW, batching)
    placed = [*decision.batch, *decision.expired, *decision.cancelled, *decision.rest]
    assert sorted(map(id, placed)) == sorted(map(id, line))
    assert set(decision.expired) == {one for one in line if one.deadline <= NOW}
    assert all(one.cancelled() for one in decision.cancelled)
    assert not any(one.cancelled() for one in decision.batch)
    if len(decision.batch) > 1:
        assert most_rows is not None
        assert sum(_rows(decision)) <= most_rows
        assert all(waiting.fits(decision.batch[0]) for waiting in decision.batch)
    if not decision.batch and any(one.deadline > NOW and not one.cancelled() for one in line):
        assert NOW < decision.held_until <= NOW + batching.max_queue_delay_us / 1e6


@given(REQUESTS, st.integers(1, 8), BATCHINGS)
def test_nobody_passes_one_of_its_kind_that_should_go_first(
    line: list[Waiting], most_rows: int, batching: Batching
) -> None:
    decision = cut(line, most_rows, NOW, batching)
    reorders = batching.priority_levels or batching.queue_policy.timeout_action is TimeoutAction.DELAY

    def turn(waiting: Waiting) -> tuple[float, ...]:
        position = line.index(waiting)
        if not reorders:
            return (position,)
        return (waiting.priority, waiting.overdue <= NOW, waiting.arrived, position)

    for stays in decision.rest:
        for goes in decision.batch:
            if stays.fits(goes) and not stays.cancelled():
                assert turn(goes) < turn(stays)
