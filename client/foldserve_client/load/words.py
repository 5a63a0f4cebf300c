"""Numbers as people read them: three significant digits, thousands apart, a dash where there is none."""

from collections.abc import Sequence
from statistics import fmean

from foldserve_client.load.comparison import turns
from foldserve_client.load.levels import Loop, in_words
from foldserve_client.load.report import Capacity, Metric, Report, StepResult
from foldserve_client.load.scrape import Parity

NONE = "–"
LOOPS = {
    Loop.CLOSED: "closed loop",
    Loop.CONSTANT: "open loop, evenly spaced",
    Loop.POISSON: "open loop, Poisson",
}


def rate(value: float | None) -> str:
    """Requests per second."""
    if value is None:
        return NONE
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def milliseconds(value: float | None) -> str:
    """A time in milliseconds, without its unit."""
    if value is None:
        return NONE
    return f"{value:,.0f}" if value >= 1000 else f"{value:.3g}" if value >= 1 else f"{value:.3f}"


def share(value: float) -> str:
    """A share in per cent; what is above 0 never reads as 0."""
    if 0 < value < 0.0001:
        return "< 0.01 %"
    return f"{100 * value:.3g} %"


def size(count: float) -> str:
    """Bytes."""
    for unit in ("B", "kB", "MB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} GB"


def level(step: StepResult) -> str:
    """What a step's load was."""
    return in_words(step.loop, step.level)


def loop(report: Report) -> str:
    """What made requests due, in words."""
    loops = {step.loop for step in report.steps}
    return ", ".join(sorted(LOOPS[one] for one in loops))


def steps(report: Report) -> list[tuple[str, StepResult]]:
    """Each step and what to call it: its level, or its side and round."""
    if report.comparison is None:
        return [(level(step), step) for step in report.steps]
    order = turns(report.comparison.rounds)
    return [
        (f"{'AB'[side]}, round {number + 1}", step)
        for (number, side), step in zip(order, report.steps, strict=True)
    ]


def checks(found: Parity) -> str:
    """What became of the sampled requests."""
    return ", ".join(f"{count} {result}" for result, count in found.checks.items() if count) or "none"


def distance(value: float | None) -> str:
    """A relative L2 distance."""
    return NONE if value is None else f"{value:.2e}"


def mean(values: Sequence[float]) -> str:
    """Of the rounds; a dash where nothing was answered in one, which a value of 0 stands for."""
    return milliseconds(fmean(values)) if all(values) else NONE


def capacity(found: Capacity) -> str:
    """What the search found, as a sentence."""
    failed = share(found.most_failed_share)
    goal = f"p99 within {milliseconds(found.target_p99_ms)} ms and at most {failed} failed"
    met, missed = found.bounds.met, found.bounds.missed
    least = f"at least {rate(met)}/s with {goal}" if met else f"no rate is known to keep {goal}"
    if found.interrupted:
        above = f"; {rate(missed)}/s missed it twice" if missed is not None else ""
        return f"{least}{above}; the search was interrupted"
    if found.limited_by is not None:
        return f"{least}; the generator is the limit: {found.limited_by}"
    if not met:
        lowest = f": {rate(missed)}/s missed it, too" if missed is not None else ""
        return f"no rate keeps {goal}{lowest}"
    above = f"; {rate(missed)}/s missed it twice" if missed is not None else ""
    return f"{rate(met)}/s with {goal}{above}"


def ratio(metric: Metric) -> str:
    """B over A with its interval, and what it means."""
    found = metric.ratio
    if found is None:
        return NONE
    return f"{found.mean:.3f} [{found.low:.3f}, {found.high:.3f}]"


def outcome(metric: Metric) -> str:
    """Which side is better, if that is clear."""
    found = metric.ratio
    if found is None:
        return "not comparable"
    if not found.clear:
        return "no clear difference"
    return "B is better" if (found.mean > 1) == metric.higher_is_better else "A is better"


def warnings(report: Report) -> list[str]:
    """What a reader must know before believing a number; each once."""
    limited = [(name, step.generator.bottleneck) for name, step in steps(report) if step.generator.bottleneck]
    found = [f"at {name}, {reason}" for name, reason in limited[:1]]
    if len(limited) > 1:
        found = [f"{found[0]}; it was a limit in {len(limited)} of {len(report.steps)} measurements"]
    for step in report.steps:
        found += [
            f"{parity.model} version {parity.version} had fallen back to its unfolded form"
            for parity in step.parity
            if parity.fallback
        ]
    return list(dict.fromkeys(found + _failing(report)))


def _failing(report: Report) -> list[str]:
    """The sides of a comparison that did not answer everything."""
    found = []
    for name, measured in zip("AB", report.sides if report.comparison else (), strict=False):
        silent = sum(not step.latency.count for step in measured)
        failed = fmean(step.failed_share for step in measured)
        if silent:
            found.append(f"{name} answered nothing in {silent} of {len(measured)} rounds")
        elif failed:
            found.append(f"{name} failed {share(failed)} of its requests; latencies are of the others")
    return found
