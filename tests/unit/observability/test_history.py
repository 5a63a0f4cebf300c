import math

from foldserve.observability.history import LONGEST_PERIOD_S, MOST_PERIODS, History


class _Clock:
    def __init__(self) -> None:
        self.now = 1e9

    def __call__(self) -> float:
        return self.now


def test_a_period_keeps_the_worst_of_each_measure() -> None:
    clock = _Clock()
    history = History(clock)
    history.observe(1.0, 5.0)
    clock.now += 0.5
    history.observe(2.0, 4.0)
    clock.now += 10
    history.observe(0.5, 0.5)
    assert [(one.start_s, one.count, one.worst) for one in history.periods] == [
        (1e9, 2, (2.0, 5.0)),
        (1e9 + 10, 1, (0.5, 0.5)),
    ]


def test_periods_grow_to_a_minute_and_then_the_oldest_go() -> None:
    clock = _Clock()
    history = History(clock)
    seconds = 5 * 60 * MOST_PERIODS
    for _ in range(seconds):
        clock.now += 1
        history.observe(clock.now)
        assert len(history.periods) <= MOST_PERIODS
    assert history.period_s == LONGEST_PERIOD_S
    assert history.periods[-1].worst == (clock.now,)
    starts = [one.start_s for one in history.periods]
    assert starts == sorted(set(starts))
    assert starts[-1] - starts[0] == (MOST_PERIODS - 1) * LONGEST_PERIOD_S


def test_nothing_is_lost_while_periods_grow() -> None:
    clock = _Clock()
    history = History(clock)
    for index in range(2000):
        clock.now += 1
        history.observe(float(index == 777))
    assert sum(one.count for one in history.periods) == 2000
    assert max(one.worst for one in history.periods) == (1.0,)


def test_a_clock_that_is_set_back_adds_to_the_last_period() -> None:
    clock = _Clock()
    history = History(clock)
    history.observe(1.0)
    clock.now -= 3600
    history.observe(2.0)
    assert [one.worst for one in history.periods] == [(2.0,)]


def test_what_is_no_number_is_the_worst() -> None:
    history = History(_Clock())
    for value in (1.0, math.nan, 2.0):
        history.observe(value)
    assert [one.worst for one in history.periods] == [(math.inf,)]


def test_a_copy_stays_as_it_is() -> None:
    history = History(_Clock())
    history.observe(1.0)
    copy = history.copy()
    history.observe(2.0)
    assert [one.worst for one in copy.periods] == [(1.0,)]
