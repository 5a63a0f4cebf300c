"""Which engine serves: two rivals in all combinations of speed, distance, failure; and what is advised."""

import math
from itertools import product

import pytest
from foldserve.serving.engine_choice import (
    INEXACT,
    WORTH,
    EngineReport,
    EngineTrial,
    choose_engine,
    excess,
)
from foldserve.settings import ParityBudget, Precision
from pydantic import ValidationError

BUDGET = ParityBudget(relative_l2=1e-2, scaled_max=1e-1, top1_agreement=0.9)
SPEEDS = (None, 0.5, 1.0, WORTH - 0.01, WORTH, 2.0, 2.0, 6.0)
DISTANCES = (None, 0.0, 1e-2, 1.1e-2, 0.5, math.inf, math.nan)
AGREEMENTS = (None, 1.0, 0.9, 0.89)
BASELINE = EngineTrial(engine="baseline", precision=Precision.FLOAT32, speedup=1.0)


def _trial(
    engine: str,
    speedup: float | None = 2.0,
    relative_l2: float | None = 0.0,
    *,
    scaled_max: float | None = 0.0,
    top1_agreement: float | None = None,
    mismatches: int = 0,
    failure: str = "",
) -> EngineTrial:
    return EngineTrial(
        engine=engine,
        precision=Precision.BFLOAT16,
        speedup=speedup,
        relative_l2=relative_l2,
        scaled_max=scaled_max,
        top1_agreement=top1_agreement,
        mismatches=mismatches,
        rows=64,
        failure=failure,
    )


RIVALS = [
    [
        _trial(name, speed, far, top1_agreement=agreement, mismatches=mismatches, failure=failure)
        for speed, far, agreement, mismatches, failure in product(
            SPEEDS, DISTANCES, AGREEMENTS, (0, 1), ("", "not installed")
        )
    ]
    for name in ("first", "second")
]


def _is_allowed(trial: EngineTrial) -> bool:
    """The rules, written down once more and differently."""
    if trial.failure or trial.mismatches or trial.relative_l2 is None:
        return False
    if trial.top1_agreement is not None and trial.top1_agreement < BUDGET.top1_agreement:
        return False
    return 0 <= trial.relative_l2 <= BUDGET.relative_l2


def _speed(trial: EngineTrial) -> float:
    return trial.speedup if trial.speedup is not None else 1.0


@pytest.mark.parametrize("first", RIVALS[0][::3])
def test_the_fastest_within_the_budget_serves(first: EngineTrial) -> None:
    for second in RIVALS[1][::5]:
        report = choose_engine([BASELINE, first, second], BUDGET)
        fit = [trial for trial in (first, second) if _is_allowed(trial) and _speed(trial) >= WORTH]
        expected = max(fit, key=_speed).engine if fit else "baseline"
        assert report.engine == expected, (first, second)
        assert report.trials == (BASELINE, first, second) or math.isnan(
            (first.relative_l2 or 0.0) + (second.relative_l2 or 0.0)
        )
        assert set(report.why_not) == {"baseline", "first", "second"} - {expected}
        assert all(report.why_not.values())


def test_alone_the_baseline_serves_whatever_was_found_of_it() -> None:
    broken = BASELINE.model_copy(update={"relative_l2": math.inf, "mismatches": 3})
    assert choose_engine([broken], BUDGET) == EngineReport(engine="baseline", trials=(broken,), why_not={})


def test_why_not_says_by_how_much() -> None:
    far = _trial("far", 6.0, 1.2e-2, scaled_max=0.2, top1_agreement=0.5, mismatches=2)
    report = choose_engine(
        [BASELINE, far, _trial("slow", 0.5), _trial("same", 1.0), _trial("none", failure="no such CPU")],
        BUDGET,
    )
    assert report.why_not["far"] == (
        "2 elements are no match, relative L2 0.012 (budget 0.01), scaled max 0.2 (budget 0.1), "
        "top-1 50.00% (budget 90.00%)"
    )
    assert report.why_not["slow"] == "0.50 × as fast as baseline"
    assert report.why_not["same"] == f"no more than {WORTH} × as fast as baseline"
    assert report.why_not["none"] == "no such CPU"


def test_a_faster_engine_just_outside_is_advised_with_settings_that_let_it_pass() -> None:
    bfloat16 = _trial("bfloat16", 5.9, 1.2e-2, scaled_max=2e-2, top1_agreement=1.0)
    report = choose_engine([BASELINE, bfloat16], ParityBudget())
    assert report.advice == (
        "bfloat16 would be 5.9 × as fast, with relative L2 1.2e-02, scaled max 2.0e-02, top-1 100 % of 64 "
        "rows; to allow it, set parity: {relative_l2: 0.03, scaled_max: 0.04}"
    )
    assert choose_engine([BASELINE, bfloat16], ParityBudget(relative_l2=0.03, scaled_max=0.04)).engine == (
        "bfloat16"
    )


@pytest.mark.parametrize(
    "wrong",
    [
        _trial("wrong", 6.0, INEXACT * 1.01),
        _trial("wrong", 6.0, math.inf),
        _trial("wrong", 6.0, math.nan),
        _trial("wrong", 6.0, None),
        _trial("wrong", 6.0, 1e-2, mismatches=1),
        _trial("wrong", WORTH - 0.01, 1e-2),
        _trial("wrong", 6.0, 1e-2, failure="it has no kernel"),
    ],
)
def test_what_is_wrong_slow_or_missing_is_not_advised(wrong: EngineTrial) -> None:
    report = choose_engine([BASELINE, wrong], ParityBudget())
    assert report.engine == "baseline"
    assert not report.advice


def test_advice_compares_with_what_serves() -> None:
    report = choose_engine([BASELINE, _trial("inside", 2.0), _trial("outside", 6.0, 0.05)], BUDGET)
    assert report.engine == "inside"
    assert report.advice.startswith("outside would be 3.0 × as fast")
    assert not choose_engine([BASELINE, _trial("inside", 6.0), _trial("outside", 6.1, 0.05)], BUDGET).advice


def test_too_few_equal_classes_keep_an_engine_out_and_the_advice_names_that_limit() -> None:
    trial = _trial("coarse", 6.0, 1e-3, top1_agreement=0.875)
    assert excess(trial, BUDGET) == "top-1 87.50% (budget 90.00%)"
    assert choose_engine([BASELINE, trial], BUDGET).advice.endswith("set parity: {top1_agreement: 0.87}")


def test_reports_keep_infinite_distances_through_json() -> None:
    report = choose_engine([BASELINE, _trial("far", 2.0, math.inf)], BUDGET)
    assert EngineReport.model_validate_json(report.model_dump_json()) == report
    with pytest.raises(ValidationError):
        EngineReport.model_validate_json('{"engine": "x", "trials": [], "why_not": {}, "more": 1}')
