"""Axes of plots."""

import pytest
from foldserve_client.load.axes import Axis, Linear, Log, Numbers, Percentile, Time
from hypothesis import given
from hypothesis import strategies as st

VALUES = st.lists(st.floats(1e-3, 1e6), min_size=1, max_size=20)


def _labels(axis: Axis) -> list[str]:
    return [tick.label for tick in axis.ticks()]


@given(VALUES)
def test_every_value_is_on_the_axis(values: list[float]) -> None:
    for axis in (Linear(values), Log(values), Time(max(values))):
        assert all(-1e-9 <= axis.place(value) <= 1 + 1e-9 for value in values)
        places = [tick.place for tick in axis.ticks()]
        assert places == sorted(set(places))
        assert -1e-9 <= places[0] <= places[-1] <= 1 + 1e-9


@given(VALUES)
def test_an_axis_has_few_labels_and_each_only_once(values: list[float]) -> None:
    for axis in (Linear(values), Log(values), Time(min(max(values), 1e4))):
        labels = _labels(axis)
        assert len(set(labels)) == len(labels) <= 12
    assert len(_labels(Log(values))) >= 2


def test_labels_are_round_numbers() -> None:
    assert _labels(Linear([3342])) == ["0", "1,000", "2,000", "3,000", "4,000"]
    assert _labels(Log([1.3, 40])) == ["1", "2", "5", "10", "20", "50"]
    assert _labels(Log([1.3, 4])) == ["1", "1.5", "2", "3", "4"]
    assert _labels(Log([0.02, 4000])) == ["0.01", "0.1", "1", "10", "100", "1,000", "10,000"]
    assert _labels(Time(14)) == ["0", "5", "10"]
    assert _labels(Numbers(4)) == ["1", "2", "3", "4"]
    assert _labels(Numbers(30)) == [str(number) for number in range(1, 31, 3)]


def test_each_nine_takes_the_same_room() -> None:
    axis = Percentile(10_000)
    assert [axis.place(percent) for percent in (0, 90, 99, 99.9, 99.99, 100)] == pytest.approx(
        [0, 0.25, 0.5, 0.75, 1, 1]
    )
    assert _labels(axis) == ["0 %", "90 %", "99 %", "99.9 %", "99.99 %"]
    assert _labels(Percentile(10)) == ["0 %", "50 %", "90 %"]
    assert _labels(Percentile(1)) == ["0 %", "50 %", "90 %"]
