"""Which plots a report has, and from which of its numbers."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from hdrh.histogram import HdrHistogram

from foldserve_client.load import words
from foldserve_client.load.axes import Linear, Log, Numbers, Percentile, Time
from foldserve_client.load.levels import Loop
from foldserve_client.load.plots import Plot, Point, Series, plot
from foldserve_client.load.recording import histogram
from foldserve_client.load.report import Latency, Report, StepResult

MOST_STEPS = 6
"""Steps that one plot of percentiles can show apart."""

TICKS_PER_NINE = 20
LATENCIES = [("p50", "p50_ms", 0), ("p99", "p99_ms", 1)]
OUTSIDE, REST = "outside the handlers", "rest"


@dataclass(frozen=True)
class Segment:
    """A part of the mean latency."""

    name: str
    milliseconds: float
    width: float
    """In per cent of the widest bar."""


@dataclass(frozen=True)
class Bar:
    """The mean latency of a step, part by part."""

    name: str
    milliseconds: float
    segments: tuple[Segment, ...]
    step: StepResult


def percentiles(report: Report) -> Plot | None:
    """Latency by percentile, for each step that can be shown apart."""
    chosen = [(name, found) for name, found in _histograms(report) if found.get_total_count()]
    if not chosen:
        return None
    series = [
        Series(name, list(_percentile_points(name, found)), style)
        for style, (name, found) in enumerate(chosen)
    ]
    return plot(
        "Latency by percentile",
        series,
        Percentile(max(found.get_total_count() for _, found in chosen)),
        Log(point.y for one in series for point in one.points if point),
        x_name="percentile",
        y_name="ms",
    )


def throughput(report: Report) -> Plot | None:
    """Requests answered over time; due and failed, too, where that is something else."""
    if report.comparison is not None:
        kinds = [("A", "answered_per_s", 0), ("B", "answered_per_s", 1)]
    else:
        kinds = [("answered", "answered_per_s", 0)]
        if any(step.loop is not Loop.CLOSED for step in report.steps):
            kinds.append(("due", "due_per_s", 1))
        if any(step.failed_share for step in report.steps):
            kinds.append(("failed", "failed_per_s", 5))
    series = [Series(kind, _over_time(report, kind, field, "/s"), style) for kind, field, style in kinds]
    return _time_plot("Requests over time", report, series, "per second", log=False)


def latency(report: Report) -> Plot | None:
    """p50 and p99 over time; the p99 of both sides of a comparison."""
    kinds = [("A", "p99_ms", 0), ("B", "p99_ms", 1)] if report.comparison else LATENCIES
    series = [Series(kind, _over_time(report, kind, field, " ms"), style) for kind, field, style in kinds]
    title = "p99 over time" if report.comparison else "Latency over time"
    return _time_plot(title, report, series, "ms", log=True)


def against_load(report: Report) -> Plot | None:
    """Latency over the rate of answers: a point for each step, or each stretch of time of a ramp."""
    if report.comparison is not None:
        return None
    ramp = len(report.steps) == 1 and report.steps[0].level.start != report.steps[0].level.end
    series = _by_stretch(report.steps[0]) if ramp else _by_step(report.steps)
    found = [point for one in series for point in one.points if point]
    if len({point.x for point in found}) < 2:
        return None
    target = report.capacity and report.capacity.target_p99_ms
    return plot(
        "Latency against load" if ramp else "Latency against load (a point's number is its level)",
        series,
        Linear(point.x for point in found),
        Log([*(point.y for point in found), *([target] if target else [])]),
        x_name="answers per second",
        y_name="ms",
        limit=("target for p99", target) if target else None,
    )


def _by_step(steps: Sequence[StepResult]) -> list[Series]:
    ordered = sorted(steps, key=lambda step: (step.level.end, step.answered_per_s))
    return [
        Series(
            f"p{percent}",
            [
                _load_point(
                    words.level(step), f"p{percent}", step.answered_per_s, value, step if labelled else None
                )
                for step in ordered
                if (value := step.latency.percentile_ms(percent)) is not None
            ],
            style,
        )
        for style, (percent, labelled) in enumerate(((50, False), (90, False), (99, True)))
    ]


def _by_stretch(step: StepResult) -> list[Series]:
    """The intervals of a ramp's measurement, by their rate."""
    ordered = sorted(
        (point for point in step.points if point.at_s > 0), key=lambda point: point.answered_per_s
    )
    return [
        Series(
            name,
            [
                _load_point(f"{point.at_s:.1f} s", name, point.answered_per_s, value)
                for point in ordered
                if (value := getattr(point, field)) is not None
            ],
            style,
        )
        for name, field, style in LATENCIES
    ]


def _load_point(
    what: str, percentile: str, per_s: float, value: float, labelled: StepResult | None = None
) -> Point:
    says = f"{what}: {words.rate(per_s)}/s, {percentile} {words.milliseconds(value)} ms"
    return Point(per_s, value, says, f"{labelled.level.end:g}" if labelled else "")


def rounds(report: Report) -> Plot | None:
    """Answers per second of both sides, round by round."""
    if report.comparison is None:
        return None
    metric = report.comparison.metrics[0]
    series = [
        Series(
            side,
            [
                Point(n, value, f"{side}, round {n}: {words.rate(value)}/s")
                for n, value in enumerate(values, 1)
            ],
            style,
        )
        for style, (side, values) in enumerate((("A", metric.a), ("B", metric.b)))
    ]
    return plot(
        "Answers per second by round",
        series,
        Numbers(report.comparison.rounds),
        Linear([*metric.a, *metric.b]),
        x_name="round",
        y_name="per second",
    )


def stages(report: Report) -> list[Bar]:
    """Where the mean latency went, for the steps whose server told."""
    told = [(name, s) for name, s in words.steps(report) if s.server is not None and s.latency.mean_ms]
    widest = max((step.latency.mean_ms or 0.0 for _, step in told), default=0.0)
    return [_bar(name, step, widest) for name, step in told]


def _bar(name: str, step: StepResult, widest: float) -> Bar:
    """The client's mean: the server's stages, the rest of the server, and what was outside of it."""
    assert step.server is not None
    client_ms = step.latency.mean_ms or 0.0
    parts = [(stage.name.removeprefix("compute "), stage.mean_ms) for stage in step.server.stages]
    parts.append((REST, max(step.server.mean_ms - sum(value for _, value in parts), 0.0)))
    parts.insert(0, (OUTSIDE, max(client_ms - step.server.mean_ms, 0.0)))
    scale = 100 / max(widest, sum(value for _, value in parts))
    return Bar(name, client_ms, tuple(Segment(part, value, value * scale) for part, value in parts), step)


def _histograms(report: Report) -> list[tuple[str, HdrHistogram]]:
    if report.comparison is not None:
        sides = [_merged(s.latency for s in own) for own in report.sides]
        return list(zip(("A", "B"), sides, strict=True))
    steps: Sequence[StepResult] = report.steps
    if report.capacity is not None:
        edges = {report.capacity.bounds.met, report.capacity.bounds.missed}
        steps = [step for step in steps if step.level.end in edges]
    if len(steps) > MOST_STEPS:
        steps = [steps[round(n * (len(steps) - 1) / (MOST_STEPS - 1))] for n in range(MOST_STEPS)]
    return [(words.level(step), _merged([step.latency])) for step in steps]


def _merged(latencies: Iterator[Latency] | Sequence[Latency]) -> HdrHistogram:
    total = histogram()
    for one in latencies:
        total.decode_and_add(one.hdr.encode())
    return total


def _percentile_points(name: str, found: HdrHistogram) -> Iterator[Point]:
    for item in found.get_percentile_iterator(TICKS_PER_NINE):
        percent = min(item.percentile_level_iterated_to, 100 - 100 / found.get_total_count())
        value = item.value_iterated_to / 1e3
        yield Point(percent, value, f"{name}: {percent:.6g} % within {words.milliseconds(value)} ms")


def _over_time(report: Report, kind: str, field: str, unit: str) -> list[Point | None]:
    """A value of all steps, or those of one side, in order; the line is interrupted between them."""
    points: list[Point | None] = []
    begin_s = 0.0
    for name, step in words.steps(report):
        for point in step.points if report.comparison is None or name.startswith(kind) else ():
            value = getattr(point, field)
            at_s = begin_s + step.warm_up_s + point.at_s
            says = f"{at_s:.1f} s, {name}: {kind} {words.rate(value)}{unit}"
            points.append(None if value is None else Point(at_s, value, says))
        points.append(None)
        begin_s += step.warm_up_s + step.measured_s
    return points


def _time_plot(
    title: str, report: Report, series: Sequence[Series], y_name: str, *, log: bool
) -> Plot | None:
    values = [point.y for one in series for point in one.points if point]
    if not values:
        return None
    ends = [0.0]
    for step in report.steps:
        ends.append(ends[-1] + step.warm_up_s + step.measured_s)
    return plot(
        title,
        series,
        Time(ends[-1]),
        Log(values) if log else Linear(values),
        x_name="seconds",
        y_name=y_name,
        marks=ends[1:-1],
    )
