"""When the breaker trips, and what the window tells."""

from foldserve.parity.breaker import Breaker
from foldserve.parity.live_comparison import Comparison
from foldserve.parity.measures import Distance
from hypothesis import given
from hypothesis import strategies as some


def check(*, breached: bool, relative_l2: float = 0.0) -> Comparison:
    found = Distance(relative_l2, relative_l2, rows=1, agreeing_rows=1 - breached)
    return Comparison({"logits": found}, frozenset({"logits"} if breached else ()))


@given(some.lists(some.booleans(), max_size=60), some.integers(1, 8), some.integers(0, 8))
def test_it_trips_at_the_first_window_with_so_many_breaches_and_stays_tripped(
    found: list[bool], breaches: int, more: int
) -> None:
    window = breaches + more
    breaker = Breaker(window=window, breaches=breaches)
    tripped = [breaker.observe(check(breached=one)) for one in found]
    expected = [sum(found[max(0, end - window) : end]) >= breaches for end in range(1, len(found) + 1)]
    first = expected.index(True) if True in expected else None
    assert [index for index, one in enumerate(tripped) if one] == ([] if first is None else [first])
    assert breaker.tripped is (first is not None)


def test_a_reset_breaker_trusts_and_trips_again() -> None:
    breaker = Breaker(window=4, breaches=2)
    assert [breaker.observe(check(breached=True)) for _ in range(3)] == [False, True, False]
    breaker.reset()
    assert (breaker.tripped, breaker.checks, breaker.breaches) == (False, 0, 0)
    assert [breaker.observe(check(breached=True)) for _ in range(2)] == [False, True]


def test_the_window_tells_the_worst_distances_and_all_agreement() -> None:
    breaker = Breaker(window=2, breaches=2)
    for relative_l2, breached in ((0.9, True), (1e-7, False), (0.5, True)):
        breaker.observe(check(breached=breached, relative_l2=relative_l2))
    ((name, worst),) = breaker.worst()
    assert (name, worst.relative_l2, worst.top1_agreement) == ("logits", 0.5, 0.5)
