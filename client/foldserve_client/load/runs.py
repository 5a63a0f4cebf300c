"""The three things that a load test does: measure steps, find the capacity, compare two sides."""

from collections.abc import Callable, Iterator, Sequence, Sized
from contextlib import contextmanager
from dataclasses import dataclass, replace
from statistics import fmean

from foldserve_client.load import capacity, comparison
from foldserve_client.load.levels import Level, Step
from foldserve_client.load.live import Watcher
from foldserve_client.load.report import Capacity, Comparison, Metric, StepResult
from foldserve_client.load.sides import Side

ATTEMPTS = 3
"""Measurements in a row that miss the goal with a generator that was too slow itself, until the search ends.
One that keeps it counts as it is: a late generator makes latencies longer, not shorter."""

NOTABLE_SHARE = 0.01
"""Of the requests: where one side answers so many fewer, nothing but that is compared."""

ANSWERED = "answered, %"


@dataclass(frozen=True)
class Goal:
    """What a rate must keep to count as within the capacity."""

    p99_ms: float
    most_failed_share: float
    precision: float


@contextmanager
def until_interrupted(finished: Sized, least: int, watcher: Watcher) -> Iterator[None]:
    """Ctrl-C ends the block only, where it has finished ``least`` measurements to report."""
    try:
        yield
    except KeyboardInterrupt:
        if len(finished) < least:
            raise
        watcher.say("interrupted: only what was finished is reported")


def run(side: Side, steps: Sequence[Step], watcher: Watcher) -> list[StepResult]:
    """One result for each step."""
    results: list[StepResult] = []
    with until_interrupted(results, 1, watcher):
        for number, step in enumerate(steps, 1):
            label = f"step {number} of {len(steps)}" if len(steps) > 1 else ""
            results.append(side.measure(step, watcher, label))
    return results


def find_capacity(side: Side, first: Step, goal: Goal, watcher: Watcher) -> tuple[list[StepResult], Capacity]:
    """The highest rate that keeps ``goal``, searched from ``first`` on, and every measurement on the way."""
    results: list[StepResult] = []
    probes: list[capacity.Probe] = []
    limited_by = None
    interrupted = True
    with until_interrupted(results, 1, watcher):
        while (rate := capacity.next_rate(probes, first.level.start, goal.precision)) is not None:
            step = replace(first, level=Level(rate, rate))
            for _ in range(ATTEMPTS):
                result = side.measure(step, watcher, f"probe {len(probes) + 1}")
                met = keeps(result, goal)
                results.append(result)
                watcher.say(_probe_words(result, met))
                if met or not result.generator.bottleneck:
                    break
            else:
                limited_by = result.generator.bottleneck
                break
            probes.append(capacity.Probe(rate, met))
        interrupted = False
    return results, Capacity(
        target_p99_ms=goal.p99_ms,
        most_failed_share=goal.most_failed_share,
        bounds=capacity.bounds(probes),
        limited_by=limited_by,
        interrupted=interrupted,
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
    """Both sides in turn under the same load, in rounds, and B over A; Ctrl-C leaves the whole rounds."""
    results: list[StepResult] = []
    order = comparison.turns(rounds)
    with until_interrupted(results, len(sides), watcher):
        for number, index in order:
            label = f"round {number + 1} of {rounds}, {labels[index]}"
            results.append(sides[index].measure(step, watcher, label))
    whole = len(results) // len(sides)
    results = results[: whole * len(sides)]
    a, b = (
        [one for (_, index), one in zip(order, results, strict=False) if index == side] for side in (0, 1)
    )
    return results, Comparison(sides=labels, rounds=whole, metrics=metrics(a, b))


def metrics(a: Sequence[StepResult], b: Sequence[StepResult]) -> tuple[Metric, ...]:
    """What is compared of the rounds of two sides.

    Latencies are of successful answers, and a caller that is refused asks again: a side that refuses what it
    cannot do would look well in both.
    """
    fair = abs(fmean(map(_answered, a)) - fmean(map(_answered, b))) < NOTABLE_SHARE
    found = []
    for name, higher_is_better, value in COMPARED:
        ours, theirs = tuple(map(value, a)), tuple(map(value, b))
        ratio = comparison.ratio(ours, theirs) if fair or name == ANSWERED else None
        found.append(Metric(name=name, higher_is_better=higher_is_better, a=ours, b=theirs, ratio=ratio))
    return tuple(found)


def _answered(result: StepResult) -> float:
    """The share of the requests with a successful answer."""
    return 1 - result.failed_share


def _percentile(percent: float) -> Callable[[StepResult], float]:
    return lambda result: result.latency.percentile_ms(percent) or 0.0


COMPARED: tuple[tuple[str, bool, Callable[[StepResult], float]], ...] = (
    ("answers per second", True, lambda result: result.answered_per_s),
    (ANSWERED, True, lambda result: 100 * _answered(result)),
    ("mean latency, ms", False, lambda result: result.latency.mean_ms or 0.0),
    ("p50 latency, ms", False, _percentile(50)),
    ("p90 latency, ms", False, _percentile(90)),
    ("p99 latency, ms", False, _percentile(99)),
)
"""Name, whether more is better, and where the value is; 0: nothing was answered."""


def _probe_words(result: StepResult, met: bool) -> str:
    p99 = "no answer" if result.p99_ms is None else f"p99 {result.p99_ms:.2f} ms"
    outcome = "met" if met else "the generator is the limit" if result.generator.bottleneck else "missed"
    return (
        f"{result.level}/s: {outcome} ({p99}, {result.answered_per_s:.0f}/s answered, "
        f"{result.failed_share:.2%} failed)"
    )
