"""Processor time for work in the background."""

from foldserve.parity.cpu_budget import BURST_S, CpuBudget


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_what_is_spent_beyond_the_burst_must_be_earned_again() -> None:
    clock = Clock()
    budget = CpuBudget(0.05, clock)
    assert budget.is_left()
    budget.spend(BURST_S + 0.5)
    assert not budget.is_left()
    clock.now += 0.5 / 0.05 - 0.1
    assert not budget.is_left()
    clock.now += 0.2
    assert budget.is_left()


def test_no_more_than_the_burst_is_saved_up() -> None:
    clock = Clock()
    budget = CpuBudget(0.05, clock)
    clock.now += 3600
    assert budget.is_left()
    budget.spend(BURST_S)
    assert not budget.is_left()


def test_the_share_holds_over_a_long_time() -> None:
    clock = Clock()
    budget = CpuBudget(0.05, clock)
    spent = 0.0
    for _ in range(100_000):
        clock.now += 0.01
        if budget.is_left():
            budget.spend(0.03)
            spent += 0.03
    assert 0.05 * 1000 <= spent <= 0.05 * 1000 + BURST_S + 0.03
