import numpy as np
from foldserve.serving.line import Cut, Waiting, cut
from hypothesis import given
from hypothesis import strategies as st

NOW = 100.0


def _waiting(
    rows: int,
    *,
    width: int = 4,
    outputs: tuple[str, ...] = ("y",),
    deadline: float | None = None,
    gone: bool = False,
) -> Waiting:
    return Waiting({"x": np.zeros((rows, width), np.float32)}, outputs, rows, deadline, lambda: gone)


def _rows(cut: Cut) -> list[int]:
    return [waiting.rows for waiting in cut.batch]


def test_a_batch_is_filled_in_order_up_to_its_rows() -> None:
    decision = cut([_waiting(rows) for rows in (3, 4, 1, 2)], 8, NOW)
    assert _rows(decision) == [3, 4, 1]
    assert [waiting.rows for waiting in decision.rest] == [2]


def test_nobody_of_the_same_kind_is_overtaken() -> None:
    """The 5 does not fit beside 3 + 4; the 1 behind it would, but came later."""
    assert _rows(cut([_waiting(rows) for rows in (3, 4, 5, 1)], 8, NOW)) == [3, 4]


def test_different_shapes_and_outputs_never_meet() -> None:
    line = [_waiting(1), _waiting(2, width=5), _waiting(3, outputs=("z",)), _waiting(4)]
    decision = cut(line, 8, NOW)
    assert decision.batch == [line[0], line[3]]
    assert decision.rest == [line[1], line[2]]


def test_without_batching_each_runs_alone() -> None:
    assert _rows(cut([_waiting(0), _waiting(0), _waiting(1)], None, NOW)) == [0]


def test_expired_and_cancelled_requests_leave_without_costing_a_place() -> None:
    expired, gone, alive = _waiting(8, deadline=NOW), _waiting(8, gone=True), _waiting(8, deadline=NOW + 1)
    decision = cut([expired, gone, alive], 8, NOW)
    assert (decision.expired, decision.cancelled, decision.batch) == ([expired], [gone], [alive])


@given(
    st.lists(
        st.tuples(st.integers(0, 6), st.sampled_from([3, 4]), st.booleans(), st.booleans()), max_size=20
    ),
    st.one_of(st.none(), st.integers(1, 8)),
)
def test_everybody_is_somewhere_once_and_a_live_line_always_moves(
    requests: list[tuple[int, int, bool, bool]], most_rows: int | None
) -> None:
    line = [
        _waiting(rows, width=width, deadline=NOW - 1 if late else None, gone=gone)
        for rows, width, late, gone in requests
    ]
    decision = cut(line, most_rows, NOW)
    placed = [*decision.batch, *decision.expired, *decision.cancelled, *decision.rest]
    assert sorted(map(id, placed)) == sorted(map(id, line))
    alive = [
        waiting for waiting, (_, _, late, gone) in zip(line, requests, strict=True) if not late and not gone
    ]
    assert decision.batch[:1] == alive[:1]
    if len(decision.batch) > 1:
        assert most_rows is not None
        assert sum(_rows(decision)) <= most_rows
        assert all(waiting.fits(decision.batch[0]) for waiting in decision.batch)
