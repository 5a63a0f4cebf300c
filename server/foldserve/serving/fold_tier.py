"""How intrusively to fold: as far as a measurement on this machine says that it pays.

Tier 1 only ever removes work. Tiers 2 and 3 trade a BatchNorm for another element-wise operator, and a
runtime may have a fused kernel for the one and none for the other.
"""

import statistics
import time
from collections.abc import Sequence

import onnx_ir as ir

from foldserve.folding import FoldResult, fold
from foldserve.folding.report import Outcome
from foldserve.parity.probes import Probe
from foldserve.runtime.session import Session
from foldserve.serving.ladder import ALWAYS

GAIN = 0.03
"""A higher tier must save at least this share of the time: less is noise."""

MEASURING_S = 1.0
MOST_ROUNDS = 50


def folded_forms(model: ir.Model, most: int) -> list[FoldResult]:
    """The model folded at tier 1, then at each higher tier up to ``most`` that folds more than the last."""
    forms = [fold(model, max_tier=min(most, ALWAYS))]
    for tier in range(ALWAYS + 1, most + 1):
        if _folded(forms[-1]) == len(forms[-1].report.sites):
            break
        form = fold(model, max_tier=tier)
        if _folded(form) > _folded(forms[-1]):
            forms.append(form)
    return forms


def fastest(seconds: Sequence[float]) -> int:
    """Index of the form to serve: the first, unless a later one is faster by more than noise."""
    best = 0
    for index, candidate in enumerate(seconds):
        if candidate < seconds[best] * (1 - GAIN):
            best = index
    return best


def median_seconds(sessions: Sequence[Session], probe: Probe) -> list[float]:
    """Median time of one run of each session, taken in turn so that a slow moment hits all alike."""
    times: list[list[float]] = [[] for _ in sessions]
    for session in sessions:
        session.run(probe)
    started = time.perf_counter()
    while time.perf_counter() - started < MEASURING_S and len(times[0]) < MOST_ROUNDS:
        for session, spent in zip(sessions, times, strict=True):
            before = time.perf_counter()
            session.run(probe)
            spent.append(time.perf_counter() - before)
    return [statistics.median(spent) for spent in times]


def _folded(form: FoldResult) -> int:
    return sum(site.outcome is Outcome.FOLDED for site in form.report.sites)
