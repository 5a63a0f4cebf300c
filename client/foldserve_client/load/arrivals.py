"""When requests are due in an open loop, and when the callers of a closed one come and go.

A rate that is constant, then changes evenly from a to b, has sent N(t) requests at time t. The k-th request
is due where N(t) = k, or, for Poisson arrivals, where N(t) is the k-th arrival of a Poisson process of rate
1: one inverse of N serves both.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from foldserve_client.load.levels import Level, Loop, Step

BLOCK = 4096
"""Arrivals computed at once: an hour at a high rate would not fit into memory."""

Times = NDArray[np.float64]


def arrivals(step: Step, seed: int = 0) -> Iterator[float]:
    """When each request of an open loop is due, in seconds from the step's begin, without end.

    The same step and seed give the same times, so that processes can share them, each taking every n-th.
    """
    random = np.random.default_rng(seed)
    reached = 0.0
    while True:
        if step.loop is Loop.POISSON:
            gaps: Times = random.exponential(size=BLOCK)
            counts = reached + np.cumsum(gaps)
            reached = float(counts[-1])
        else:
            counts = reached + np.arange(BLOCK, dtype=np.float64)
            reached += BLOCK
        yield from due(step, counts).tolist()


def due(step: Step, counts: Times) -> Times:
    """When so many requests have been due: the inverse of N(t).

    For the ramp from a to b in D seconds, m = a u + (b − a) u² / (2 D) has the root
    u = 2 m / (a + √(a² + 2 m (b − a) / D)), which holds for a = b, too.
    """
    a, b = step.level.start, step.level.end
    if a == b:
        return counts / a
    warm_up, ramp = step.warm_up_s * a, step.duration_s * (a + b) / 2
    m = np.clip(counts - warm_up, 0, ramp)
    u = 2 * m / (a + np.sqrt(a * a + 2 * m * (b - a) / step.duration_s))
    times: Times = np.minimum(counts, warm_up) / a + u + np.maximum(counts - warm_up - ramp, 0) / b
    return times


@dataclass(frozen=True)
class Presence:
    """When a caller comes and goes, in seconds from the step's begin."""

    begin_s: float
    end_s: float


def callers(step: Step) -> list[Presence]:
    """The callers of a closed loop; in a ramp they come, or go, one after the other at even intervals."""
    level: Level = step.level
    low, high = sorted((int(level.start), int(level.end)))
    turns = [step.warm_up_s + step.duration_s * (n + 0.5) / (high - low) for n in range(high - low)]
    staying = [Presence(0.0, step.end_s)] * low
    if level.start < level.end:
        return staying + [Presence(turn, step.end_s) for turn in turns]
    return staying + [Presence(0.0, turn) for turn in turns]
