"""The highest rate within a target, found by bisection: a pure function of what was measured so far."""

from collections.abc import Sequence
from dataclasses import dataclass

GROWTH = 2.0
"""From one rate to the next while no rate is known that is too high."""

REPEATS = 2
"""Measurements that must miss the target before a rate counts as too high: noise misses it once."""


@dataclass(frozen=True)
class Probe:
    """What one rate, in requests per second, led to."""

    rate: float
    met: bool


@dataclass(frozen=True)
class Bounds:
    """Between which rates the capacity lies, as far as is known; 0 and None: not known yet."""

    met: float
    missed: float | None


def bounds(probes: Sequence[Probe]) -> Bounds:
    """The highest rate that met the target, below the lowest that missed it every time."""
    missed = min((rate for rate in {probe.rate for probe in probes} if _missed(probes, rate)), default=None)
    met = [probe.rate for probe in probes if probe.met and (missed is None or probe.rate < missed)]
    return Bounds(max(met, default=0.0), missed)


def next_rate(probes: Sequence[Probe], first: float, precision: float) -> float | None:
    """The rate to measure next; None once the capacity is known within ``precision`` (0.05: 5 %).

    Rates double from ``first`` until one is too high, and halve until one is not; then the interval between
    is halved. A search that falls below a thousandth of ``first`` gives up: nothing meets the target.
    """
    if probes and not probes[-1].met and not _missed(probes, probes[-1].rate):
        return probes[-1].rate
    known = bounds(probes)
    if known.missed is None:
        return known.met * GROWTH if known.met else first
    if not known.met:
        lower = known.missed / GROWTH
        return lower if lower >= first / 1000 else None
    if known.missed <= known.met * (1 + precision):
        return None
    return (known.met + known.missed) / 2


def _missed(probes: Sequence[Probe], rate: float) -> bool:
    """Whether a rate was measured often enough, and never met the target."""
    own = [probe.met for probe in probes if probe.rate == rate]
    return len(own) >= REPEATS and not any(own)
