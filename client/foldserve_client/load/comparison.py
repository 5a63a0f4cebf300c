"""Two sides measured in turn: the ratio of each round, and how sure their mean is.

Load and machine drift over minutes, which both sides of one round share; so ratios are taken within rounds.
They are averaged geometrically (twice as fast and half as fast cancel), and the confidence interval is
Student's t on their logarithms: with a handful of rounds a bootstrap would be too narrow.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

CONFIDENCE = 0.95
T_QUANTILES = (
    12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228,
    2.201, 2.179, 2.160, 2.145, 2.131, 2.120, 2.110, 2.101, 2.093, 2.086,
    2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042,
)  # fmt: skip
"""The 97.5 % quantile of Student's t by degrees of freedom, from 1."""


@dataclass(frozen=True)
class Ratio:
    """B over A: the geometric mean of the rounds, and its confidence interval of 95 %."""

    mean: float
    low: float
    high: float

    @property
    def clear(self) -> bool:
        """Whether the interval leaves 1 out."""
        return not self.low <= 1 <= self.high


def ratio(a: Sequence[float], b: Sequence[float]) -> Ratio | None:
    """B's values over A's, round by round; None for less than two rounds, or a value that is not above 0."""
    if len(a) < 2 or min(*a, *b) <= 0:
        return None
    logs = [math.log(second / first) for first, second in zip(a, b, strict=True)]
    mean = fmean(logs)
    margin = t_quantile(len(logs) - 1) * stdev(logs) / math.sqrt(len(logs))
    return Ratio(math.exp(mean), math.exp(mean - margin), math.exp(mean + margin))


def t_quantile(degrees: int) -> float:
    """The 97.5 % quantile of Student's t; beyond 30 degrees of freedom by its expansion, within 0.001."""
    if degrees <= len(T_QUANTILES):
        return T_QUANTILES[degrees - 1]
    z = 1.959964  # the normal distribution's
    return z + (z**3 + z) / (4 * degrees) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * degrees**2)


def turns(rounds: int) -> list[tuple[int, int]]:
    """(round, side) in the order of measuring: A B, B A, A B, so that neither is always first."""
    return [(number, (side + number) % 2) for number in range(rounds) for side in (0, 1)]
