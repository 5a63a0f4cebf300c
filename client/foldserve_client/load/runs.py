"""The three things that a load test does: measure steps, find the capacity, compare two sides."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from foldserve_client.load import capacity, comparison
from foldserve_client.load.levels import Level, Step
from foldserve_client.load.live import Watcher
from foldserve_client.load.report import Capacity, Comparison, Metric, StepResult
from foldserve_client.load.sides import Side

ATTEMPTS = 3
"""Measurements in a row in which the generator itself was too slow, until the search ends."""


@dataclass(frozen=True)
class Goal:
    """What a rate must keep to count as within the capacity."""

    p99_ms: float
    most_failed_share: float
    precision: float


def run(side: Side, steps: Sequence[Step], watcher: Watcher) -> Iterator[StepResult]:
    """One result for each step."""
    for number, step in enumerate(steps, 1):
        yield side.measure(step, watcher, f"step {number} of {len(steps)}" if len(steps) > 1 else "")


def find_capacity(side: Side, first: Step, goal: Goal, watcher: Watcher) -> tuple[list[StepResult], Capacity]:
    """The highest rate that keeps ``goal``, searched from ``first`` on, and every measurement on the way."""
    results: list[StepResult] = []
    probes: list[capacity.Probe] = []
    limited_by = None
    while (rate := capacity.next_rate(probes, first.level.start, goal.precision)) is not None:
        step = replace(first, level=Level(rate, rate))
        for _ in range(ATTEMPTS):
            result = side.measure(step, watcher, f"probe {len(probes) + 1}")
            met = keeps(result, goal)
            results.append(result)
            watcher.say(_probe_words(result, met))
            if not result.generator.bottleneck:
                break
        else:
            limited_by = result.generator.bottleneck
            break
        probes.append(capacity.Probe(rate, met))
    return results, Capacity(
        target_p99_ms=goal.p99_ms,
        most_failed_share=goal.most_failed_share,
        bounds=capacity.bounds(probes),
        limited_by=limited_by,
    )


def keeps(result: StepResult, goal: Goal) -> bool:
    """Whether a measured rate keeps the goal.

    That answers keep up with requests needs no rule: latency counts from when a request was due.
    """
    return (
        result.p99_ms is not None
        and result.p99_ms <= goal.p99_ms
        and result.failed_share <= goal.most_failed_share
    )


def compare(
    sides: tuple[Side, Side], labels: tuple[str, str], step: Step, rounds: int, watcher: Watcher
) -> tuple[list[StepResult], Comparison]:
    """Both sides in turn under the same load, in rounds, and B over A."""
    found: tuple[list[StepResult], list[StepResult]] = ([], [])
    results = []
    for number, index in comparison.turns(rounds):
        result = sides[index].measure(step, watcher, f"round {number + 1} of {rounds}, {labels[index]}")
        found[index].append(result)
        results.append(result)
    return results, Comparison(
        sides=labels,
        rounds=rounds,
        metrics=tuple(_metric(name, better, value, *found) for name, better, value in COMPARED),
    )


def _metric(
    name: str,
    higher_is_better: bool,
    value: Callable[[StepResult], float],
    a: Sequence[StepResult],
    b: Sequence[StepResult],
) -> Metric:
    ours, theirs = tuple(map(value, a)), tuple(map(value, b))
    return Metric(
        name=name, higher_is_better=higher_is_better, a=ours, b=theirs, ratio=comparison.ratio(ours, theirs)
    )


def _percentile(percent: float) -> Callable[[StepResult], float]:
    return lambda result: result.latency.percentile_ms(percent) or 0.0


COMPARED: tuple[tuple[str, bool, Callable[[StepResult], float]], ...] = (
    ("answers per second", True, lambda result: result.answered_per_s),
    ("mean latency, ms", False, lambda result: result.latency.mean_ms or 0.0),
    ("p50 latency, ms", False, _percentile(50)),
    ("p90 latency, ms", False, _percentile(90)),
    ("p99 latency, ms", False, _percentile(99)),
)
"""Name, whether more is better, and where the value is."""


def _probe_words(result: StepResult, met: bool) -> str:
    p99 = "no answer" if result.p99_ms is None else f"p99 {result.p99_ms:.2f} ms"
    outcome = "the generator is the limit" if result.generator.bottleneck else "met" if met else "missed"
    return (
        f"{result.level}/s: {outcome} ({p99}, {result.answered_per_s:.0f}/s answered, "
        f"{result.failed_share:.2%} failed)"
    )
