"""How much load, and when: callers or a rate, at one level, in steps or rising evenly."""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from foldserve_client.load.errors import LoadTestError

RAMP = re.compile(r"\s*(\S+?)\s*\.\.\s*(\S+?)\s*")


class Loop(StrEnum):
    """What makes a request due."""

    CLOSED = "closed"
    """The answer to the caller's request before it; a slow server is asked less."""

    CONSTANT = "constant"
    """The clock: the same time between any two requests, whatever the server does."""

    POISSON = "poisson"
    """The clock, at random times, as independent users come."""


@dataclass(frozen=True)
class Level:
    """Callers of a closed loop, or requests per second of an open one; ``start`` ≠ ``end`` is a ramp."""

    start: float
    end: float

    def __str__(self) -> str:
        return f"{self.start:g}" if self.start == self.end else f"{self.start:g}..{self.end:g}"


def in_words(loop: Loop, level: Level) -> str:
    """Such as "16 callers" or "500/s"."""
    if loop is Loop.CLOSED:
        return f"{level} caller{'' if str(level) == '1' else 's'}"
    return f"{level}/s"


@dataclass(frozen=True)
class Step:
    """A stretch of load: the warm-up at the level's start, which does not count, then the measurement."""

    loop: Loop
    level: Level
    warm_up_s: float
    duration_s: float
    """Longest measurement; infinite where ``requests`` alone end it."""

    requests: int | None = None
    """Most requests of the measurement."""

    @property
    def end_s(self) -> float:
        """When the last request may be due, from the step's begin."""
        return self.warm_up_s + self.duration_s


def parse_levels(text: str, loop: Loop) -> list[Level]:
    """The levels in ``"16"``, ``"1,4,16"`` (steps) or ``"10..1000"`` (a ramp).

    Raises LoadTestError for anything else, and for callers that are not whole.
    """
    ramp = RAMP.fullmatch(text)
    if ramp:
        return [Level(_level(ramp[1], loop), _level(ramp[2], loop))]
    return [Level(value, value) for value in (_level(part, loop) for part in text.split(","))]


def steps(
    levels: Sequence[Level], loop: Loop, warm_up_s: float, duration_s: float | None, requests: int | None
) -> list[Step]:
    """One step for each level; without a duration ``requests`` alone end it.

    Raises LoadTestError for a ramp without a duration: it would have no slope.
    """
    if duration_s is None and any(level.start != level.end for level in levels):
        raise LoadTestError("a ramp needs --duration: the time from its first level to its last")
    longest = math.inf if duration_s is None else duration_s
    return [Step(loop, level, warm_up_s, longest, requests) for level in levels]


def _level(text: str, loop: Loop) -> float:
    try:
        value = float(text)
    except ValueError:
        raise LoadTestError(
            f"'{text}' is no level: give a number, steps (1,4,16) or a ramp (10..1000)"
        ) from None
    if not 0 < value < math.inf:
        raise LoadTestError(f"a level must be a number above 0, got {text}")
    if loop is Loop.CLOSED and not value.is_integer():
        raise LoadTestError(f"callers must be whole, got {text}")
    return value
