"""The search for the highest rate within a target."""

from collections.abc import Callable

import pytest
from foldserve_client.load.capacity import Bounds, Probe, bounds, next_rate
from hypothesis import given
from hypothesis import strategies as st

MOST_PROBES = 200


def _search(meets: Callable[[float], bool], first: float, precision: float) -> list[Probe]:
    probes: list[Probe] = []
    while (rate := next_rate(probes, first, precision)) is not None:
        probes.append(Probe(rate, meets(rate)))
        assert len(probes) < MOST_PROBES
    return probes


@given(capacity=st.floats(0.1, 1e6), first=st.floats(1, 1000), precision=st.sampled_from([0.01, 0.05, 0.2]))
def test_it_ends_with_the_capacity_between_two_near_bounds(
    capacity: float, first: float, precision: float
) -> None:
    found = bounds(_search(lambda rate: rate <= capacity, first, precision))
    if capacity < first / 1000:
        assert found.met == 0
    elif found.met:
        assert found.missed is not None
        assert found.met <= capacity < found.missed
        assert found.missed <= found.met * (1 + precision)


def test_nothing_is_found_where_nothing_meets_the_target() -> None:
    probes = _search(lambda _: False, 10, 0.05)
    assert bounds(probes).met == 0
    assert min(probe.rate for probe in probes) < 0.02


def test_a_rate_that_missed_once_and_met_then_is_met() -> None:
    seen: dict[float, int] = {}

    def meets(rate: float) -> bool:
        seen[rate] = seen.get(rate, 0) + 1
        return rate <= 500 and seen[rate] > 1

    found = bounds(_search(meets, 100, 0.05))
    assert 470 < found.met <= 500


def test_each_rate_that_is_too_high_is_measured_twice_in_a_row() -> None:
    probes = _search(lambda rate: rate <= 100, 64, 0.1)
    missed = [probe.rate for probe in probes if not probe.met]
    assert missed[::2] == missed[1::2]


@pytest.mark.parametrize(
    ("probes", "rate"),
    [
        ([], 10),
        ([Probe(10, True)], 20),
        ([Probe(10, True), Probe(20, True)], 40),
        ([Probe(10, False)], 10),
        ([Probe(10, False), Probe(10, False)], 5),
        ([Probe(10, True), Probe(20, False), Probe(20, False)], 15),
        ([Probe(10, True), Probe(20, False), Probe(20, False), Probe(15, True)], 17.5),
        ([Probe(10, True), Probe(10.4, False), Probe(10.4, False)], None),
    ],
)
def test_the_next_rate_follows_from_what_was_measured(probes: list[Probe], rate: float | None) -> None:
    assert next_rate(probes, 10, 0.05) == rate


def test_bounds_before_anything_is_known() -> None:
    assert bounds([]) == Bounds(0, None)
    assert bounds([Probe(10, False)]) == Bounds(0, None)
    assert bounds([Probe(10, True), Probe(20, False), Probe(20, False)]) == Bounds(10, 20)
