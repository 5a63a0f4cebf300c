"""What is learned from runs: which lines are short, and how long a line takes."""

import numpy as np
import pytest
from foldserve.serving.pace import Pace
from foldserve.serving.waiting import Waiting

SHORT_S = 0.01


def _request(rows: int, size: int = 10) -> Waiting:
    return Waiting({"x": np.zeros((rows, size), np.int8)}, (), rows, lambda: False, lambda _: None)


def test_nothing_is_short_before_a_single_request_was() -> None:
    pace = Pace(SHORT_S)
    assert not pace.is_short([_request(1)])
    pace.record([_request(1), _request(1)], 0.001)
    assert not pace.is_short([_request(1)])
    pace.record([_request(1)], 0.001)
    assert pace.is_short([_request(1)])


def test_a_line_is_short_up_to_the_rows_that_fit() -> None:
    pace = Pace(SHORT_S)
    pace.record([_request(1)], 0.001)
    assert pace.is_short([_request(1)] * 9)
    assert not pace.is_short([_request(1)] * 11)


def test_a_larger_request_than_any_that_was_short_is_not() -> None:
    pace = Pace(SHORT_S)
    pace.record([_request(1, size=10)], 0.001)
    assert not pace.is_short([_request(1, size=11)])
    pace.record([_request(1, size=11)], 2 * SHORT_S)
    assert not pace.is_short([_request(1, size=11)])
    pace.record([_request(1, size=11)], 0.001)
    assert pace.is_short([_request(1, size=11)])


def test_a_model_that_becomes_slower_is_short_no_more() -> None:
    pace = Pace(SHORT_S)
    pace.record([_request(1)], 0.001)
    for _ in range(30):
        pace.record([_request(1)], 2 * SHORT_S)
    assert not pace.is_short([_request(1)])


@pytest.mark.parametrize(
    ("most_rows", "instances", "batches"), [(4, 1, 3), (4, 2, 1.5), (100, 1, 1), (None, 1, 5)]
)
def test_a_line_takes_as_long_as_its_batches(most_rows: int | None, instances: int, batches: float) -> None:
    pace = Pace(SHORT_S)
    pace.record([_request(2)], 0.5)
    assert pace.drain_s([_request(2)] * 5, most_rows, instances) == pytest.approx(batches * 0.5)


def test_requests_without_rows_are_learned_from_too() -> None:
    pace = Pace(SHORT_S)
    pace.record([_request(0)], 0.001)
    assert pace.is_short([_request(0)])
