"""What counts as a difference in service."""

import numpy as np
import pytest
from foldserve.parity.live_comparison import (
    DIFFERING_SHARE,
    REMEMBERED,
    LiveComparison,
    budgets_in_service,
)
from foldserve.parity.live_comparison import compare as compare_by
from foldserve.parity.measures import Size
from foldserve.parity.report import OutputParity, ParityReport, ProbeSource, ProbesReport, Verdict
from foldserve.runtime.session import Array
from foldserve.settings import ParityBudget

NOISE = 1e-7


def compare(comparison: LiveComparison, expected: Array, answered: Array) -> tuple[bool, bool]:
    """Whether it is a breach, and whether it is inconclusive."""
    found = comparison.of({"y": expected}, {"y": answered})
    return bool(found.breaching), found.inconclusive


def fresh() -> LiveComparison:
    return LiveComparison({"y": ParityBudget()})


def logit(value: float) -> Array:
    return np.array([[value]], np.float32)


def test_noise_of_a_single_logit_near_zero_is_no_breach() -> None:
    """The terms that cancel are of the usual size, so noise is relative to that."""
    comparison, generator = fresh(), np.random.default_rng(1)
    logits = generator.normal(size=2000)
    breaches = [
        compare(comparison, logit(value), logit(value + NOISE * generator.normal()))[0] for value in logits
    ]
    assert np.abs(logits[1:]).min() < 1e-3
    assert sum(breaches) == 0


def test_a_wrong_single_logit_is_a_breach_however_near_to_zero() -> None:
    comparison = fresh()
    for value in (1.0, -2.0, 0.5):
        assert not compare(comparison, logit(value), logit(value))[0]
    assert compare(comparison, logit(1e-4), logit(2e-4))[0]


def test_huge_answers_of_one_caller_hide_nothing() -> None:
    comparison = fresh()
    right = np.ones((1, 4), np.float32)
    for index in range(60):
        scale = np.float32(1e30 if index % 3 == 0 else 1)
        assert not compare(comparison, right * scale, right * scale)[0]
    assert compare(comparison, right, right * np.float32(1.01))[0]


def test_huge_answers_of_most_callers_hide_little() -> None:
    comparison = fresh()
    right = np.ones((1, 4), np.float32)
    for _ in range(REMEMBERED):
        assert not compare(comparison, right * np.float32(1e30), right * np.float32(1e30))[0]
    assert not compare(comparison, right, right + np.float32(NOISE))[0]
    assert compare(comparison, right, right * np.float32(1.02))[0]


@pytest.mark.parametrize(
    "empty", [np.zeros((0, 1), np.float32), np.full((1, 1), np.nan, np.float32), logit(0.0)]
)
def test_answers_without_a_size_do_not_make_noise_a_breach(empty: Array) -> None:
    comparison = fresh()
    for value in (1.0, -2.0, 0.5):
        compare(comparison, logit(value), logit(value))
    for _ in range(REMEMBERED):
        compare(comparison, empty, empty)
    assert not compare(comparison, logit(1e-4), logit(1e-4 + NOISE))[0]


def test_sizes_of_another_time_can_be_given() -> None:
    budgets = {"y": ParityBudget()}
    near_zero = {"y": logit(1e-4)}, {"y": logit(1e-4 + NOISE)}
    assert compare_by(*near_zero, budgets, {}).breaching
    assert not compare_by(*near_zero, budgets, {"y": Size(1.0, 1.0)}).breaching


def test_where_the_original_overflows_nothing_is_proven() -> None:
    reference = np.array([[1, np.inf, np.nan]], np.float32)
    assert compare(fresh(), reference, np.array([[1, 5, 6]], np.float32)) == (False, True)
    assert compare(fresh(), reference, reference) == (False, False)
    assert compare(fresh(), reference, np.array([[1, np.nan, np.nan]], np.float32)) == (False, True)
    assert compare(fresh(), reference, np.array([[1.1, 5, 6]], np.float32)) == (True, False)


def test_an_answer_that_overflows_where_the_original_does_not_is_a_breach() -> None:
    assert compare(fresh(), np.ones((1, 2), np.float32), np.array([[1, np.nan]], np.float32))[0]


def test_some_labels_may_differ_at_ties() -> None:
    labels = np.zeros((1, 100, 100), np.int64)
    few, many = labels.copy(), labels.copy()
    few.flat[: int(DIFFERING_SHARE * labels.size)] = 1
    many.flat[: int(3 * DIFFERING_SHARE * labels.size)] = 1
    comparison = fresh()
    for _ in range(3):
        assert not compare(comparison, labels, few)[0]
    compare(comparison, labels, many)
    assert compare(comparison, labels, many)[0]


def test_one_label_that_differs_is_a_tie_and_many_are_none() -> None:
    comparison = fresh()
    right, wrong = np.array([[3]]), np.array([[5]])
    found = [compare(comparison, right, wrong if index in {20, 40, 41} else right)[0] for index in range(50)]
    assert [index for index, breach in enumerate(found) if breach] == [40, 41]


def test_one_tie_is_forgotten_in_time() -> None:
    comparison = fresh()
    right, wrong = np.array([[3]]), np.array([[5]])
    assert not compare(comparison, right, wrong)[0]
    for _ in range(REMEMBERED):
        assert not compare(comparison, right, right)[0]
    assert not compare(comparison, right, wrong)[0]


def test_labels_of_another_shape_are_no_tie() -> None:
    assert compare(fresh(), np.array([3, 4]), np.array([3]))[0]


def scores(best: int) -> Array:
    """Of three classes, one of which is ahead by less than the budget."""
    array = np.ones((1, 3), np.float32)
    array[0, best] += np.float32(1e-3)
    return array


def test_the_arg_max_counts_over_many_rows_where_its_owner_set_how_many_must_agree() -> None:
    strict = LiveComparison({"y": ParityBudget(relative_l2=0.1, top1_agreement=0.9)})
    free = LiveComparison({"y": ParityBudget(relative_l2=0.1)})
    for comparison in (strict, free):
        assert not compare(comparison, scores(0), scores(1))[0], "one answer alone says nothing"
        assert not compare(comparison, scores(0), scores(0))[0]
    assert not compare(free, scores(0), scores(1))[0]
    found = strict.of({"y": scores(0)}, {"y": scores(1)})
    assert found.breaching == {"y"}
    assert "top-1 0.33 of the last 3 rows (budget 0.9)" in strict.evidence(found)
    for _ in range(REMEMBERED):
        assert not compare(strict, scores(2), scores(2))[0]
    assert not compare(strict, scores(0), scores(1))[0]


def test_another_session_starts_with_a_clean_record_of_classes() -> None:
    comparison = LiveComparison({"y": ParityBudget(relative_l2=0.1, top1_agreement=0.9)})
    compare(comparison, scores(0), scores(1))
    comparison.forget_mismatches()
    assert not compare(comparison, scores(0), scores(1))[0]


def test_shapes_and_types_must_be_the_same() -> None:
    one = np.ones((1, 2), np.float32)
    assert compare(fresh(), one, np.ones((2, 2), np.float32))[0]
    assert compare(fresh(), one, np.ones((1, 2), np.int64))[0]


def report(verdict: Verdict, relative_l2: float) -> ParityReport:
    output = OutputParity(
        output="y",
        relative_l2=relative_l2,
        scaled_max=relative_l2,
        top1_agreement=None,
        mismatches=0,
        within_budget=relative_l2 <= 1e-5,
    )
    return ParityReport(
        verdict=verdict,
        explanation="",
        reference="",
        candidate="",
        budget=ParityBudget(),
        outputs=(output,),
        probes=ProbesReport(source=ProbeSource.SYNTHETIC, seed=1, shapes=(), refused=()),
    )


def test_an_inaccurate_original_is_allowed_its_error_in_service() -> None:
    budgets = budgets_in_service(report(Verdict.ORIGINAL_INACCURATE, 1e-4), ["y", "z"])
    assert budgets["y"].relative_l2 == pytest.approx(3e-4)
    assert budgets["y"].scaled_max == pytest.approx(3e-4)
    assert budgets["z"] == ParityBudget()
    (hopeless,) = budgets_in_service(report(Verdict.ORIGINAL_INACCURATE, 0.9), ["y"]).values()
    assert compare(LiveComparison({"y": hopeless}), logit(1.0), logit(0.0))[0]
    assert budgets_in_service(report(Verdict.BREACH, 1e-4), ["y"])["y"] == ParityBudget()
    assert budgets_in_service(report(Verdict.ORIGINAL_INACCURATE, np.inf), ["y"])["y"] == ParityBudget()
