"""Ratios of rounds and their confidence."""

import math

import numpy as np
import pytest
from foldserve_client.load.comparison import ratio, t_quantile, turns
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats


@pytest.mark.parametrize("degrees", [1, 2, 5, 10, 29, 30, 31, 40, 100, 1000])
def test_the_quantiles_are_those_of_students_t(degrees: int) -> None:
    assert t_quantile(degrees) == pytest.approx(stats.t.ppf(0.975, degrees), abs=1e-3)


def test_the_interval_is_that_of_the_t_test_on_logarithms() -> None:
    a, b = [10.0, 12.0, 9.0, 11.0, 10.5], [20.0, 23.0, 19.0, 21.0, 22.5]
    found = ratio(a, b)
    assert found is not None
    logs = np.log(np.array(b) / np.array(a))
    low, high = stats.t.interval(0.95, 4, logs.mean(), stats.sem(logs))
    assert found.mean == pytest.approx(math.exp(logs.mean()))
    assert (found.low, found.high) == pytest.approx((math.exp(low), math.exp(high)), rel=1e-3)
    assert found.clear


@given(st.lists(st.tuples(st.floats(0.1, 1e5), st.floats(0.1, 1e5)), min_size=2, max_size=10))
def test_swapping_the_sides_inverts_the_ratio(rounds: list[tuple[float, float]]) -> None:
    a, b = map(list, zip(*rounds, strict=True))
    there, back = ratio(a, b), ratio(b, a)
    assert there is not None
    assert back is not None
    assert there.mean == pytest.approx(1 / back.mean)
    assert there.low <= there.mean <= there.high
    assert there.clear == back.clear


def test_the_interval_holds_the_truth_nineteen_times_in_twenty() -> None:
    random = np.random.default_rng(0)
    held = 0
    for _ in range(2000):
        a, b = np.exp(random.normal(0, 0.2, (2, 5)))
        found = ratio(a.tolist(), (1.5 * b).tolist())
        assert found is not None
        held += found.low <= 1.5 <= found.high
    assert held / 2000 == pytest.approx(0.95, abs=0.02)


def test_the_same_values_leave_no_doubt_and_no_difference() -> None:
    found = ratio([5.0, 5.0, 5.0], [5.0, 5.0, 5.0])
    assert found is not None
    assert (found.mean, found.low, found.high) == (1, 1, 1)
    assert not found.clear


@pytest.mark.parametrize(
    ("a", "b"), [([], []), ([1.0], [2.0]), ([1.0, 0.0], [1.0, 1.0]), ([1.0, 1.0], [0.0, 1.0])]
)
def test_there_is_no_ratio_of_nothing(a: list[float], b: list[float]) -> None:
    assert ratio(a, b) is None


def test_sides_take_turns_in_being_first() -> None:
    assert turns(3) == [(0, 0), (0, 1), (1, 1), (1, 0), (2, 0), (2, 1)]
