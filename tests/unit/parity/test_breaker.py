"""When the breaker trips, what the window tells, and what it keeps."""

import numpy as np
import pytest
from foldserve.parity import breaker as breaker_module
from foldserve.parity.breach import Breach
from foldserve.parity.breaker import Breaker
from foldserve.parity.live_comparison import Comparison
from foldserve.parity.measures import Distance
from foldserve.parity.sample import Sample
from hypothesis import given
from hypothesis import strategies as some


def check(*, breached: bool, relative_l2: float = 0.0) -> Comparison:
    found = Distance(relative_l2, relative_l2, rows=1, agreeing_rows=1 - breached)
    return Comparison({"logits": found}, frozenset({"logits"} if breached else ()))


def breach(number: int = 0) -> Breach:
    """One that keeps 24 bytes."""
    logits = np.zeros(2, np.float32)
    sample = Sample({"x": np.full(2, number, np.float32)}, {"logits": logits}, 1)
    return Breach(0.0, "", frozenset({"logits"}), sample, {"logits": logits + 1})


def observe(breaker: Breaker, *, breached: bool, number: int = 0) -> list[int]:
    """The numbers of the breaches that are told."""
    told = breaker.observe(check(breached=breached), breach(number) if breached else None, breaker.generation)
    return [int(one.sample.inputs["x"][0]) for one in told]


@given(some.lists(some.booleans(), max_size=60), some.integers(1, 8), some.integers(0, 8))
def test_it_trips_at_the_first_window_with_so_many_breaches_and_stays_tripped(
    found: list[bool], breaches: int, more: int
) -> None:
    window = breaches + more
    breaker = Breaker(window=window, breaches=breaches)
    tripped = [bool(observe(breaker, breached=one)) for one in found]
    expected = [sum(found[max(0, end - window) : end]) >= breaches for end in range(1, len(found) + 1)]
    first = expected.index(True) if True in expected else None
    assert [index for index, one in enumerate(tripped) if one] == ([] if first is None else [first])
    assert breaker.tripped is (first is not None)


def test_it_tells_the_last_breaches_in_the_window() -> None:
    breaker = Breaker(window=4, breaches=2)
    assert observe(breaker, breached=True, number=1) == []
    for _ in range(3):
        assert observe(breaker, breached=False) == []
    assert observe(breaker, breached=True, number=2) == []  # the first one has left the window
    assert observe(breaker, breached=True, number=3) == [2, 3]


def test_a_reset_breaker_trusts_and_trips_again() -> None:
    breaker = Breaker(window=4, breaches=2)
    assert [bool(observe(breaker, breached=True)) for _ in range(3)] == [False, True, False]
    breaker.reset()
    assert (breaker.tripped, breaker.checks, breaker.breaches) == (False, 0, 0)
    assert [bool(observe(breaker, breached=True)) for _ in range(2)] == [False, True]


def test_a_rearmed_breaker_trips_with_the_next_breach_and_forgets_nothing() -> None:
    breaker = Breaker(window=8, breaches=2)
    for number in (1, 2):
        observe(breaker, breached=True, number=number)
    breaker.rearm()
    assert observe(breaker, breached=False) == []
    assert breaker.breaches == 2
    assert observe(breaker, breached=True, number=3) == [2, 3]


def test_what_was_asked_for_before_a_reset_is_not_observed() -> None:
    breaker = Breaker(window=4, breaches=1)
    generation = breaker.generation
    breaker.reset()
    assert breaker.observe(check(breached=True), breach(), generation) == ()
    assert breaker.checks == 0


def test_evidence_is_bounded_by_its_bytes_and_the_count_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(breaker_module, "MOST_EVIDENCE_BYTES", 2 * 24)
    breaker = Breaker(window=8, breaches=4)
    told = [observe(breaker, breached=True, number=number) for number in range(1, 5)]
    assert told == [[], [], [], [3, 4]]
    assert breaker.breaches == 4


def test_the_window_tells_the_worst_distances_and_all_agreement() -> None:
    breaker = Breaker(window=2, breaches=2)
    for relative_l2, breached in ((0.9, True), (1e-7, False), (0.5, True)):
        found = check(breached=breached, relative_l2=relative_l2)
        breaker.observe(found, breach() if breached else None, breaker.generation)
    ((name, worst, kept),) = breaker.worst()
    assert (name, worst.relative_l2, worst.top1_agreement, kept) == ("logits", 0.5, 0.5, False)
