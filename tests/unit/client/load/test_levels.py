"""How much load is asked for."""

import math

import pytest
from foldserve_client.load.errors import LoadTestError
from foldserve_client.load.levels import Level, Loop, parse_levels, steps


@pytest.mark.parametrize(
    ("text", "levels"),
    [
        ("16", [Level(16, 16)]),
        ("1,4,16", [Level(1, 1), Level(4, 4), Level(16, 16)]),
        ("4, 2", [Level(4, 4), Level(2, 2)]),
        ("10..1000", [Level(10, 1000)]),
        ("1000 .. 10", [Level(1000, 10)]),
    ],
)
@pytest.mark.parametrize("loop", Loop)
def test_levels_are_numbers_steps_or_a_ramp(text: str, levels: list[Level], loop: Loop) -> None:
    assert parse_levels(text, loop) == levels


@pytest.mark.parametrize("text", ["", "x", "0", "-1", "1,", "1..", "..2", "1..2..3", "inf", "nan", "1,2..3"])
@pytest.mark.parametrize("loop", Loop)
def test_anything_else_is_refused(text: str, loop: Loop) -> None:
    with pytest.raises(LoadTestError):
        parse_levels(text, loop)


def test_rates_may_be_fractions_and_callers_may_not() -> None:
    assert parse_levels("0.5", Loop.POISSON) == [Level(0.5, 0.5)]
    with pytest.raises(LoadTestError, match=r"callers must be whole, got 0\.5"):
        parse_levels("0.5", Loop.CLOSED)


def test_a_level_reads_as_it_is_written() -> None:
    assert [str(level) for level in (Level(16, 16), Level(0.5, 0.5), Level(10, 1000))] == [
        "16",
        "0.5",
        "10..1000",
    ]


def test_each_level_becomes_a_step_that_ends_with_its_duration() -> None:
    first, second = steps([Level(1, 1), Level(2, 2)], Loop.CLOSED, 1.5, 10.0, 7)
    assert (first.level.start, second.level.start) == (1, 2)
    assert first.end_s == 11.5
    assert first.requests == 7


def test_requests_alone_can_end_a_step_but_not_a_ramp() -> None:
    (step,) = steps([Level(5, 5)], Loop.CONSTANT, 0.0, None, 100)
    assert step.end_s == math.inf
    with pytest.raises(LoadTestError, match="a ramp needs --duration"):
        steps([Level(5, 6)], Loop.CONSTANT, 0.0, None, 100)
