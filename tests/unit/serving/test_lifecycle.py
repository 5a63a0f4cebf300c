import itertools

import pytest
from foldserve.serving.lifecycle import NEXT, IllegalTransition, Lifecycle, State

HAPPY = [
    State.LOADING,
    State.FOLDING,
    State.PROVING,
    State.WARMING,
    State.READY,
    State.DRAINING,
    State.UNLOADED,
]


def test_the_written_path_can_be_walked() -> None:
    lifecycle = Lifecycle()
    for state in HAPPY:
        lifecycle.advance(state)
        assert lifecycle.state is state


@pytest.mark.parametrize(("start", "end"), list(itertools.product(State, State)))
def test_only_the_edges_of_the_table_exist(start: State, end: State) -> None:
    lifecycle = Lifecycle()
    lifecycle.state = start
    if end in NEXT[start]:
        lifecycle.advance(end)
        assert lifecycle.state is end
    else:
        with pytest.raises(IllegalTransition, match=f"from {start} to {end}"):
            lifecycle.advance(end)
        assert lifecycle.state is start


@pytest.mark.parametrize("reached", range(len(HAPPY)))
def test_every_state_before_unloaded_can_fail_and_keeps_the_reason(reached: int) -> None:
    lifecycle = Lifecycle()
    for state in HAPPY[:reached]:
        lifecycle.advance(state)
    lifecycle.fail("the disk is full")
    assert lifecycle.state is State.FAILED
    assert lifecycle.reason == "the disk is full"
