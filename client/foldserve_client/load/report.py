"""What a load test comes to: plain values, which JSON keeps and every picture and table is made from."""

from typing import Literal

from grpc import StatusCode
from hdrh.histogram import HdrHistogram
from pydantic import BaseModel, ConfigDict

from foldserve_client.load.bottleneck import verdict
from foldserve_client.load.capacity import Bounds
from foldserve_client.load.comparison import Ratio, turns
from foldserve_client.load.generator import NOT_SENT
from foldserve_client.load.levels import Level, Loop
from foldserve_client.load.mix import Share
from foldserve_client.load.recording import Recorder
from foldserve_client.load.scrape import Parity, ServerView

PERCENTS = (50.0, 90.0, 95.0, 99.0, 99.9, 99.99)
NOT_SENT_NAME = "NOT_SENT"


class Frozen(BaseModel):
    """Base of everything here: frozen, and nothing unknown."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Latency(Frozen):
    """Latencies of some requests, in milliseconds; None for what no request stands for."""

    count: int
    mean_ms: float | None
    min_ms: float | None
    max_ms: float | None
    percentiles_ms: dict[str, float]
    """By per cent: 50, 90, 95, 99, 99.9, 99.99; empty without requests."""

    hdr: str
    """The whole histogram of microseconds, as HdrHistogram writes it (V2, compressed, base64)."""

    def percentile_ms(self, percent: float) -> float | None:
        """One of the percentiles above."""
        return self.percentiles_ms.get(f"{percent:g}")


class Code(Frozen):
    """Requests that ended with one status code."""

    name: str
    count: int
    p50_ms: float
    details: str
    """What the server said to the first of them."""


class ModelResult(Frozen):
    """One model of a mix."""

    model: str
    weight: float
    answered_per_s: float
    request_bytes: float
    latency: Latency


class Point(Frozen):
    """A stretch of time: rates per second, and latency of what was answered in it."""

    at_s: float
    """Its middle, from the begin of the measurement; negative in the warm-up."""

    due_per_s: float
    answered_per_s: float
    failed_per_s: float
    p50_ms: float | None
    p99_ms: float | None


class GeneratorCost(Frozen):
    """What the load generator itself took."""

    processes: int
    cpu_shares: tuple[float, ...]
    """Of a core, by process."""

    cpu_us_per_request: float | None
    lag_p50_ms: float
    lag_p99_ms: float
    """How late it was: from when a request was due to when it was sent; in a closed loop, at its ticks."""

    bottleneck: str | None
    """Why the measurement tells of the generator more than of the server."""


class StepResult(Frozen):
    """One level of load."""

    loop: Loop
    level: Level
    warm_up_s: float
    measured_s: float
    due_per_s: float
    answered_per_s: float
    """Successful answers."""

    failed_share: float
    """Of the requests that were due."""

    latency: Latency
    """Of the successful answers."""

    codes: tuple[Code, ...]
    models: tuple[ModelResult, ...]
    points: tuple[Point, ...]
    generator: GeneratorCost
    server: ServerView | None
    parity: tuple[Parity, ...]

    @property
    def p99_ms(self) -> float | None:
        """The latency that 99 % of the successful answers did not exceed."""
        return self.latency.percentile_ms(99)


class Capacity(Frozen):
    """The highest rate within a target, as far as it is known."""

    target_p99_ms: float
    most_failed_share: float
    bounds: Bounds
    limited_by: str | None
    """Why the search ended early: the generator could not send more."""

    interrupted: bool = False
    """The search was ended before it knew more."""


class Metric(Frozen):
    """A value compared between two sides: round by round, and B over A."""

    name: str
    higher_is_better: bool
    a: tuple[float, ...]
    b: tuple[float, ...]
    ratio: Ratio | None
    """None where the two cannot be compared."""


class Comparison(Frozen):
    """Two sides measured in turn."""

    sides: tuple[str, str]
    rounds: int
    metrics: tuple[Metric, ...]


class Report(Frozen):
    """Everything that a load test found."""

    kind: Literal["run", "capacity", "comparison"]
    created: str
    """ISO 8601, with the time zone."""

    addresses: tuple[str, ...]
    servers: tuple[str, ...]
    """Name and version as each server tells them."""

    shares: tuple[Share, ...]
    rows: int
    data: str
    """Where the inputs come from."""

    generator: str
    """Version of the load tester and of grpcio."""

    steps: tuple[StepResult, ...]
    """In the order of measuring; in a comparison A, B, B, A, and so on."""

    capacity: Capacity | None = None
    comparison: Comparison | None = None

    @property
    def sides(self) -> tuple[tuple[StepResult, ...], ...]:
        """The measurements of A and of B; without a comparison there is one side."""
        if self.comparison is None:
            return (self.steps,)
        ordered = list(zip(turns(self.comparison.rounds), self.steps, strict=True))
        return tuple(tuple(step for (_, side), step in ordered if side == wanted) for wanted in (0, 1))

    @property
    def answered(self) -> bool:
        """Whether each side answered something."""
        return all(any(step.latency.count for step in side) for side in self.sides)


def latency(histogram: HdrHistogram) -> Latency:
    """What a histogram of microseconds says."""
    count = histogram.get_total_count()
    found = histogram.get_percentile_to_value_dict(list(PERCENTS)) if count else {}
    return Latency(
        count=count,
        mean_ms=histogram.get_mean_value() / 1e3 if count else None,
        min_ms=histogram.get_min_value() / 1e3 if count else None,
        max_ms=histogram.get_max_value() / 1e3 if count else None,
        percentiles_ms={f"{percent:g}": value / 1e3 for percent, value in found.items()},
        hdr=histogram.encode().decode(),
    )


def step_result(
    recorder: Recorder,
    mix: list[tuple[Share, float]],
    failures: dict[int, str],
    server: ServerView | None,
    parity: list[Parity],
) -> StepResult:
    """A recorded step; ``mix`` has each model's share and the mean size of its requests in bytes."""
    measured_s = recorder.measured_s
    all_models = latency(recorder.all_models)
    codes = recorder.codes
    lag_p50_ms, lag_p99_ms = (recorder.lag.get_value_at_percentile(percent) / 1e3 for percent in (50, 99))
    shares = recorder.cpu_shares()
    per_s = recorder.answered_in_time / measured_s if measured_s else 0.0
    return StepResult(
        loop=recorder.step.loop,
        level=recorder.step.level,
        warm_up_s=recorder.step.warm_up_s,
        measured_s=measured_s,
        due_per_s=recorder.due / measured_s if measured_s else 0.0,
        answered_per_s=per_s,
        failed_share=(recorder.due - codes[0]) / recorder.due if recorder.due else 0.0,
        latency=all_models,
        codes=tuple(
            Code(
                name=code_name(code),
                count=count,
                p50_ms=(recorder.failed[code] if code else recorder.all_models).get_value_at_percentile(50)
                / 1e3,
                details=failures.get(code, ""),
            )
            for code, count in codes.items()
        ),
        models=tuple(
            ModelResult(
                model=str(share),
                weight=share.weight,
                answered_per_s=per_s * one.get_total_count() / max(all_models.count, 1),
                request_bytes=size,
                latency=latency(one),
            )
            for (share, size), one in zip(mix, recorder.latency, strict=True)
        ),
        points=_points(recorder),
        generator=GeneratorCost(
            processes=len(shares),
            cpu_shares=tuple(shares),
            cpu_us_per_request=1e6 * sum(shares) * measured_s / recorder.due if recorder.due else None,
            lag_p50_ms=lag_p50_ms,
            lag_p99_ms=lag_p99_ms,
            bottleneck=verdict(shares, lag_p99_ms, all_models.percentile_ms(99) or 0.0),
        ),
        server=server,
        parity=tuple(parity),
    )


def code_name(code: int) -> str:
    """The name of a gRPC status code, or NOT_SENT."""
    if code == NOT_SENT:
        return NOT_SENT_NAME
    return next(status.name for status in StatusCode if status.value[0] == code)


def _points(recorder: Recorder) -> tuple[Point, ...]:
    """One for each whole interval of warm-up and measurement: what came later has no rate."""
    width = recorder.interval_s
    end_s = recorder.step.warm_up_s + recorder.measured_s
    return tuple(
        Point(
            at_s=(index + 0.5) * width - recorder.step.warm_up_s,
            due_per_s=interval.due / width,
            answered_per_s=interval.answered / width,
            failed_per_s=interval.failed / width,
            p50_ms=interval.p50_ms,
            p99_ms=interval.p99_ms,
        )
        for index, interval in enumerate(recorder.intervals)
        if (index + 1) * width <= end_s + width / 100
    )
