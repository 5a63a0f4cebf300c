"""When requests are due, and when callers come and go."""

from itertools import chain, islice

import numpy as np
import pytest
from foldserve_client.load.arrivals import BLOCK, arrivals, callers, due
from foldserve_client.load.levels import Level, Loop, Step
from hypothesis import given
from hypothesis import strategies as st

RATES = st.floats(0.1, 1e4)


def _step(loop: Loop, start: float, end: float, warm_up_s: float = 1.0, duration_s: float = 10.0) -> Step:
    return Step(loop, Level(start, end), warm_up_s, duration_s)


def test_constant_arrivals_are_evenly_spaced_from_the_begin_on_over_blocks() -> None:
    times = list(islice(arrivals(_step(Loop.CONSTANT, 50, 50)), 2 * BLOCK + 5))
    assert times[0] == 0
    assert np.allclose(np.diff(times), 0.02)


def test_poisson_arrivals_have_the_rate_and_exponential_gaps() -> None:
    times = np.array(list(islice(arrivals(_step(Loop.POISSON, 200, 200), seed=3), 40_000)))
    gaps = np.diff(times)
    assert times[-1] == pytest.approx(200, rel=0.02)
    assert gaps.std() == pytest.approx(gaps.mean(), rel=0.03)
    assert np.corrcoef(gaps[:-1], gaps[1:])[0, 1] == pytest.approx(0, abs=0.02)


def test_the_same_seed_gives_the_same_times_and_another_others() -> None:
    step = _step(Loop.POISSON, 10, 10)
    first, again, other = (list(islice(arrivals(step, seed), 100)) for seed in (1, 1, 2))
    assert first == again
    assert first != other


def test_processes_that_take_every_nth_arrival_send_what_one_would() -> None:
    step = _step(Loop.POISSON, 100, 300)
    shared = [list(islice(islice(arrivals(step), index, None, 3), 200)) for index in range(3)]
    assert sorted(chain(*shared)) == list(islice(arrivals(step), 600))


@given(start=RATES, end=RATES, warm_up_s=st.floats(0, 10), duration_s=st.floats(0.1, 100))
def test_a_ramp_has_sent_at_any_time_what_its_rate_adds_up_to(
    start: float, end: float, warm_up_s: float, duration_s: float
) -> None:
    step = _step(Loop.CONSTANT, start, end, warm_up_s, duration_s)
    moments = np.linspace(0, warm_up_s + 1.5 * duration_s, 50)
    into = np.clip(moments - warm_up_s, 0, duration_s)
    sent = (
        start * np.minimum(moments, warm_up_s)
        + start * into
        + (end - start) * into**2 / (2 * duration_s)
        + end * np.maximum(moments - warm_up_s - duration_s, 0)
    )
    assert np.allclose(due(step, sent), moments, atol=1e-6 * (warm_up_s + duration_s))


@pytest.mark.parametrize(("start", "end"), [(100, 500), (500, 100)])
def test_a_ramp_of_poisson_arrivals_sends_its_mean_rate(start: float, end: float) -> None:
    step = _step(Loop.POISSON, start, end, warm_up_s=0.0, duration_s=100.0)
    times = np.array(list(islice(arrivals(step), 40_000)))
    assert np.count_nonzero(times < 100) == pytest.approx(30_000, rel=0.03)
    assert np.count_nonzero(times < 50) == pytest.approx(50 * (0.75 * start + 0.25 * end), rel=0.04)
    assert (np.diff(times) >= 0).all()


def test_callers_stay_from_begin_to_end() -> None:
    assert [(one.begin_s, one.end_s) for one in callers(_step(Loop.CLOSED, 3, 3))] == [(0, 11)] * 3


def test_callers_of_a_rising_ramp_come_one_by_one() -> None:
    found = callers(_step(Loop.CLOSED, 1, 5))
    assert [one.begin_s for one in found] == [0, 2.25, 4.75, 7.25, 9.75]
    assert {one.end_s for one in found} == {11}


def test_callers_of_a_falling_ramp_go_one_by_one() -> None:
    found = callers(_step(Loop.CLOSED, 5, 1))
    assert [one.end_s for one in found] == [11, 2.25, 4.75, 7.25, 9.75]
    assert {one.begin_s for one in found} == {0}


@given(start=st.integers(1, 50), end=st.integers(1, 50))
def test_a_ramp_begins_and_ends_with_its_levels(start: int, end: int) -> None:
    found = callers(_step(Loop.CLOSED, start, end))
    assert sum(one.begin_s == 0 for one in found) == start
    assert sum(one.end_s == 11 for one in found) == end
