"""Which engine serves: the fastest whose answers stay within the budget. A pure function of measurements."""

from collections.abc import Sequence
from math import ceil, floor, inf, log10

from pydantic import BaseModel, ConfigDict

from foldserve.runtime.session import Execution
from foldserve.settings import ParityBudget, Precision

WORTH = 1.2
"""An engine must be so many times as fast: a smaller gain may be noise, and requests have costs beside it."""

INEXACT = 0.2
"""Relative L2 up to which answers are taken for inexact ones; beyond, they are wrong."""

MARGIN = 2.0
"""What is advised as a budget leaves so much room: inputs in service are not the probes."""


class _Report(BaseModel):
    model_config = ConfigDict(
        frozen=True, extra="forbid", use_attribute_docstrings=True, ser_json_inf_nan="strings"
    )


class EngineTrial(_Report):
    """What trying one engine on a model gave."""

    engine: str
    """Name of the engine."""

    precision: Precision
    """What it was asked to multiply in."""

    execution: Execution | None = None
    """What it really runs; None where it could not be opened."""

    speedup: float | None = None
    """By the model's objective, how many times as fast as the baseline, measured in turn; None if unknown."""

    rows_per_s: float | None = None
    """Throughput at its own best layout and batch size."""

    row_seconds: float | None = None
    """Duration of a run of one row, in seconds."""

    relative_l2: float | None = None
    """Largest distance of any output from the original's, over all probes; None where none was compared."""

    scaled_max: float | None = None
    """As ``relative_l2``."""

    top1_agreement: float | None = None
    """Smallest share of rows with the original's arg-max; None for what does not look like class scores."""

    mismatches: int = 0
    """Elements that are NaN or infinite on one side only, or different where they must be equal."""

    rows: int = 0
    """Rows that were compared."""

    memory_bytes: int | None = None
    """About what the process grew by when it was opened and answered."""

    failure: str = ""
    """Why there is no such engine for this model; empty if there is."""


class EngineReport(_Report):
    """All that were tried, which one serves, and why not the others."""

    engine: str
    """Name of the one that serves."""

    trials: tuple[EngineTrial, ...]
    """The baseline first; nothing else where there was nothing to choose from."""

    why_not: dict[str, str]
    """Of each other engine the reason, by name."""

    advice: str = ""
    """A faster engine outside the budget, and the setting that would allow it; empty if there is none."""


def choose_engine(trials: Sequence[EngineTrial], budget: ParityBudget) -> EngineReport:
    """The fastest of ``trials`` within ``budget``; the first, the baseline, is proven and always allowed.

    Another must be :data:`WORTH` times as fast as the baseline. Of equally fast ones the first is taken.
    """
    baseline, *others = trials
    allowed = [trial for trial in others if not trial.failure and not excess(trial, budget)]
    fastest = max(allowed, key=_speed, default=baseline)
    chosen = fastest if _speed(fastest) >= WORTH else baseline
    why_not = {trial.engine: _why_not(trial, chosen, budget) for trial in trials if trial is not chosen}
    return EngineReport(
        engine=chosen.engine,
        trials=tuple(trials),
        why_not=why_not,
        advice=_advice(others, chosen, budget),
    )


def excess(trial: EngineTrial, budget: ParityBudget) -> str:
    """By what a trial leaves the budget; empty if it does not."""
    if trial.relative_l2 is None or trial.scaled_max is None:
        return "its answers could not be compared"
    found = []
    if trial.mismatches:
        found.append(f"{trial.mismatches} elements are no match")
    if not trial.relative_l2 <= budget.relative_l2:
        found.append(f"relative L2 {trial.relative_l2:.2g} (budget {budget.relative_l2:.2g})")
    if not trial.scaled_max <= budget.scaled_max:
        found.append(f"scaled max {trial.scaled_max:.2g} (budget {budget.scaled_max:.2g})")
    if trial.top1_agreement is not None and trial.top1_agreement < budget.top1_agreement:
        found.append(f"top-1 {trial.top1_agreement:.2%} (budget {budget.top1_agreement:.2%})")
    return ", ".join(found)


def _speed(trial: EngineTrial) -> float:
    return 1.0 if trial.speedup is None else trial.speedup


def _why_not(trial: EngineTrial, chosen: EngineTrial, budget: ParityBudget) -> str:
    if trial.failure:
        return trial.failure
    if trial.speedup is not None and trial.speedup < _speed(chosen):
        slower = f"{trial.speedup / _speed(chosen):.2f} × as fast as {chosen.engine}"
    else:
        slower = f"no more than {WORTH} × as fast as {chosen.engine}"
    return excess(trial, budget) or slower


def _advice(others: Sequence[EngineTrial], chosen: EngineTrial, budget: ParityBudget) -> str:
    """On the fastest engine that is outside the budget by being inexact, and not by being wrong."""
    outside = [
        trial
        for trial in others
        if not trial.failure
        and excess(trial, budget)
        and not trial.mismatches
        and (trial.relative_l2 if trial.relative_l2 is not None else inf) <= INEXACT
        and _speed(trial) >= WORTH * _speed(chosen)
    ]
    best = max(outside, key=_speed, default=None)
    if best is None:
        return ""
    agreement, top1 = best.top1_agreement, ""
    if agreement is not None:
        top1 = f", top-1 {100 * agreement:.4g} % of {best.rows} rows"
    return (
        f"{best.engine} would be {_speed(best) / _speed(chosen):.1f} × as fast, with relative L2 "
        f"{best.relative_l2:.1e}, scaled max {best.scaled_max:.1e}{top1}; "
        f"to allow it, set parity: {{{', '.join(_settings_for(best, budget))}}}"
    )


def _settings_for(trial: EngineTrial, budget: ParityBudget) -> list[str]:
    """The settings that would let a trial pass, with some room."""
    relative_l2, scaled_max = trial.relative_l2 or 0.0, trial.scaled_max or 0.0
    wanted = []
    if relative_l2 > budget.relative_l2:
        wanted.append(f"relative_l2: {_rounded_up(MARGIN * relative_l2):g}")
    if scaled_max > budget.scaled_max:
        wanted.append(f"scaled_max: {_rounded_up(MARGIN * scaled_max):g}")
    if trial.top1_agreement is not None and trial.top1_agreement < budget.top1_agreement:
        wanted.append(f"top1_agreement: {floor(trial.top1_agreement * 100) / 100:g}")
    return wanted


def _rounded_up(value: float) -> float:
    """The next number with one digit."""
    unit = 10.0 ** floor(log10(value))
    return ceil(value / unit) * unit
