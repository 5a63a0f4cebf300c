"""Where a curve bends: the knee as Kneedle has it (Satopää et al., "Finding a Kneedle in a Haystack", 2011).

Both axes are logarithmic, since sizes are doubled and costs are compared by their ratio: growth by the same
factor with each doubling is a straight line. Each axis is scaled to the range from 0 to 1; the knee is the
point farthest, vertically, from the chord between the first point and the last.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

FLAT = 1.25
"""A curve whose largest value is no more than this many times its smallest does not bend: it is flat."""

STRAIGHT = 0.1
"""A curve that leaves its chord by no more than this share of its range has no knee."""


@dataclass(frozen=True)
class Knee:
    """The point where a curve begins to grow otherwise."""

    at: float
    """Where, in the units of x."""

    before: float
    """Factor by which y changes with each doubling of x up to the knee."""

    after: float
    """The same from the knee on."""


def knee(x: Sequence[float], y: Sequence[float]) -> Knee | None:
    """The knee of the curve through these points, of which there are three at least; None if it has none.

    ``x`` ascends, and all numbers are positive; else ValueError is raised.
    """
    if len(x) != len(y) or len(x) < 3 or min(*x, *y) <= 0 or list(x) != sorted(set(x)):
        raise ValueError(f"not a curve of three or more positive points with ascending x: {x}, {y}")
    across, up = np.log2(x), np.log2(y)
    if np.ptp(up) <= np.log2(FLAT):
        return None
    chord = up[0] + (up[-1] - up[0]) * (across - across[0]) / (across[-1] - across[0])
    distances = np.abs(up - chord) / np.ptp(up)
    farthest = int(distances.argmax())
    if distances[farthest] <= STRAIGHT:
        return None
    return Knee(
        x[farthest],
        before=growth(x[: farthest + 1], y[: farthest + 1]),
        after=growth(x[farthest:], y[farthest:]),
    )


def growth(x: Sequence[float], y: Sequence[float]) -> float:
    """Factor by which y changes with each doubling of x, from the first point to the last."""
    return float((y[-1] / y[0]) ** (1 / np.log2(x[-1] / x[0])))
