"""Steps, searches and comparisons, of sides that answer as a rule says."""

from collections.abc import Callable
from typing import cast

import pytest
from foldserve_client.load import runs, words
from foldserve_client.load.capacity import Bounds
from foldserve_client.load.levels import Level, Loop, Step
from foldserve_client.load.mix import Share
from foldserve_client.load.report import Capacity, Comparison, Metric, Report, StepResult
from foldserve_client.load.sides import Side
from unit.client.load.outcomes import result

STEP = Step(Loop.CONSTANT, Level(100, 100), 1.0, 4.0)
GOAL = runs.Goal(p99_ms=10, most_failed_share=0.01, precision=0.1)
ALL = 400
"""Of the requests of a made-up result; 80 of them are the warm-up's."""


class Said:
    """Remembers what was said."""

    def __init__(self) -> None:
        self.texts: list[str] = []

    def begin(self, *_: object) -> None: ...

    def see(self, *_: object) -> None: ...

    def say(self, text: str) -> None:
        self.texts.append(text)


def _side(answer: Callable[[float], StepResult], interrupted_after: int = 10**6) -> Side:
    class Rule:
        left = interrupted_after

        def measure(self, step: Step, *_: object) -> StepResult:
            self.left -= 1
            if self.left < 0:
                raise KeyboardInterrupt
            return answer(step.level.start)

    return cast("Side", Rule())


def _at(rate: float, *, latency_s: float = 0.001, failed: int = 0, cpu_share: float = 0.2) -> StepResult:
    return result(Loop.CONSTANT, rate, latency_s=latency_s, failed=failed, cpu_share=cpu_share)


def _limited_to(rate: float, *, slow_s: float = 0.001, failed: int = 0) -> Callable[[float], StepResult]:
    return lambda asked: _at(asked, latency_s=slow_s, failed=failed) if asked > rate else _at(asked)


def _comparison(a: StepResult, b: StepResult) -> Report:
    results, found = runs.compare((_side(lambda _: a), _side(lambda _: b)), ("a", "b"), STEP, 3, Said())
    return Report(
        kind="comparison",
        created="",
        addresses=(),
        servers=(),
        shares=(Share("digits"),),
        rows=1,
        data="random",
        generator="",
        steps=tuple(results),
        comparison=found,
    )


def _metric(report: Report, name: str) -> Metric:
    assert report.comparison is not None
    (found,) = [metric for metric in report.comparison.metrics if metric.name == name]
    return found


@pytest.mark.parametrize(
    "answer", [_limited_to(300, slow_s=0.02), _limited_to(300, failed=10)], ids=["slow", "failing"]
)
def test_a_search_ends_where_latency_or_failures_do(answer: Callable[[float], StepResult]) -> None:
    results, found = runs.find_capacity(_side(answer), STEP, GOAL, Said())
    assert found.bounds.missed is not None
    assert found.bounds.met <= 300 < found.bounds.missed <= found.bounds.met * 1.1
    assert (found.limited_by, found.interrupted) == (None, False)
    assert [step.level.start for step in results[:4]] == [100, 200, 400, 400]


def test_a_search_ends_where_the_generator_does() -> None:
    def busy(rate: float) -> StepResult:
        """Busy from 150 on, and late from 300 on."""
        cpu_share, latency_s = 0.95 if rate > 150 else 0.2, 0.02 if rate > 300 else 0.001
        return _at(rate, latency_s=latency_s, cpu_share=cpu_share)

    results, found = runs.find_capacity(_side(busy), STEP, GOAL, Said())
    assert found.bounds == Bounds(200, None)
    assert "95% of a core" in (found.limited_by or "")
    assert [step.level.start for step in results] == [100, 200, *[400] * runs.ATTEMPTS]


def test_a_generator_that_cannot_keep_up_at_all_leaves_the_capacity_unknown() -> None:
    late = _side(lambda rate: _at(rate, latency_s=0.02, cpu_share=0.95))
    results, found = runs.find_capacity(late, STEP, GOAL, Said())
    assert len(results) == runs.ATTEMPTS
    assert words.capacity(found).startswith(
        "no rate is known to keep p99 within 10 ms and at most 1 % failed; the "
    )


def test_a_search_that_is_interrupted_tells_what_it_knows() -> None:
    said = Said()
    for after, text in (
        (2, "at least 200/s with {}; the search was interrupted"),
        (4, "at least 200/s with {}; 400/s missed it twice; the search was interrupted"),
    ):
        results, found = runs.find_capacity(
            _side(_limited_to(300, slow_s=0.02), interrupted_after=after), STEP, GOAL, said
        )
        assert len(results) == after
        assert words.capacity(found) == text.format("p99 within 10 ms and at most 1 % failed")
    assert said.texts[-1] == "interrupted: only what was finished is reported"
    with pytest.raises(KeyboardInterrupt):
        runs.find_capacity(_side(_at, interrupted_after=0), STEP, GOAL, said)


def test_a_search_that_ended_by_itself_is_not_called_interrupted() -> None:
    found = Capacity(target_p99_ms=10, most_failed_share=0, bounds=Bounds(100, 104), limited_by=None)
    assert "interrupted" not in words.capacity(found)


def test_steps_that_ended_outlive_an_interrupt() -> None:
    said = Said()
    assert len(runs.run(_side(_at, interrupted_after=2), [STEP] * 3, said)) == 2
    assert said.texts == ["interrupted: only what was finished is reported"]
    with pytest.raises(KeyboardInterrupt):
        runs.run(_side(_at, interrupted_after=0), [STEP], said)


def test_an_interrupt_leaves_the_whole_rounds() -> None:
    def compared(rounds_of_b: int) -> tuple[list[StepResult], Comparison]:
        sides = (_side(_at), _side(lambda rate: _at(rate, latency_s=0.002), interrupted_after=rounds_of_b))
        return runs.compare(sides, ("a", "b"), STEP, 5, Said())

    results, found = compared(3)  # A B, B A, A B, then B is interrupted before A
    assert (len(results), found.rounds) == (6, 3)
    results, found = compared(2)  # A B, B A, A: one too many
    assert (len(results), found.rounds) == (4, 2)
    assert (
        [len(metric.a) for metric in found.metrics] == [len(metric.b) for metric in found.metrics] == [2] * 6
    )
    p99 = found.metrics[-1].ratio
    assert p99 is not None
    assert p99.mean == pytest.approx(2, rel=0.01)
    with pytest.raises(KeyboardInterrupt):
        compared(0)


def test_quick_refusals_do_not_win_a_comparison() -> None:
    report = _comparison(_at(100, latency_s=0.004), _at(100, latency_s=0.001, failed=160))
    assert words.outcome(_metric(report, "answered, %")) == "A is better"
    assert _metric(report, "answered, %").b == (50, 50, 50)
    assert report.comparison is not None
    assert [words.outcome(metric) for metric in report.comparison.metrics].count("not comparable") == 5
    assert words.warnings(report) == ["B failed 50 % of its requests; latencies are of the others"]
    assert report.answered


def test_a_few_failures_do_not_hide_which_side_is_faster() -> None:
    report = _comparison(_at(100, latency_s=0.004), _at(100, latency_s=0.001, failed=2))
    assert words.outcome(_metric(report, "p99 latency, ms")) == "B is better"
    assert words.warnings(report) == ["B failed 0.625 % of its requests; latencies are of the others"]


@pytest.mark.parametrize(("a", "b", "silent"), [(0, ALL, "B"), (ALL, 0, "A"), (ALL, ALL, "AB")])
def test_a_side_without_an_answer_is_never_the_better_one(a: int, b: int, silent: str) -> None:
    report = _comparison(_at(100, failed=a), _at(100, failed=b))
    assert report.comparison is not None
    assert {words.outcome(metric) for metric in report.comparison.metrics} == {"not comparable"}
    assert words.warnings(report) == [f"{side} answered nothing in 3 of 3 rounds" for side in silent]
    assert not report.answered


def test_sides_that_answer_everything_need_no_warning() -> None:
    report = _comparison(_at(100), _at(100))
    assert words.outcome(_metric(report, "answered, %")) == "no clear difference"
    assert words.warnings(report) == []
