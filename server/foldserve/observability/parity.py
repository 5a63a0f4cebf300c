"""What comparing with the unfolded model in service found: counted by the shadow, scraped by others."""

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from prometheus_client.metrics_core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from foldserve.observability.histogram import Histogram
from foldserve.observability.history import History
from foldserve.observability.inference import MODEL

DISTANCES = (*(float(f"{digit}e{decade}") for decade in range(-8, 0) for digit in (1, 3)), 1.0)
"""Bounds of the histograms of distances: two steps a decade from far below float32's noise to nonsense."""

RESULTS = ("ok", "breach", "inconclusive", "dropped", "error")

LARGEST_DISTANCE = 10.0
"""What counts for a distance beyond it: an infinite one would spoil the histogram's sum for good."""


@dataclass(frozen=True, slots=True)
class WindowParity:
    """One output in the last window of checks: the worst distances, and the share of rows that agree."""

    relative_l2: float
    scaled_max: float
    top1_agreement: float | None


@dataclass(frozen=True, slots=True)
class DriftScores:
    """Drift of the inputs, by measure (``mean``, ``variance``)."""

    layers: Mapping[tuple[str, str], float]
    """Of the last whole window, by layer and measure."""

    overall: Mapping[str, float]
    baseline: Mapping[str, float]
    """Empty until it is learned."""

    windows: int


@dataclass(slots=True)
class _Output:
    relative_l2: Histogram = field(default_factory=lambda: Histogram(DISTANCES))
    scaled_max: Histogram = field(default_factory=lambda: Histogram(DISTANCES))
    history: History = field(default_factory=History)
    """Of both distances, in this order."""


class ParityMetrics:
    """The checks of one model version."""

    def __init__(self, model: str, version: str, reference_bytes: Callable[[], int]) -> None:
        """``reference_bytes`` tells what the reference's weights take now."""
        self.labels = (model, version)
        self.reference_bytes = reference_bytes
        self.lock = threading.Lock()
        self.checks: Counter[str] = Counter(dict.fromkeys(RESULTS, 0))
        self.outputs: dict[str, _Output] = {}
        self.window: Mapping[str, WindowParity] = {}
        self.last_breach_s: float | None = None
        self.reference_s = 0.0
        self.reference_rows = 0
        self.fallbacks: Counter[str] = Counter()
        self.disputes: Counter[str] = Counter()
        self.fallback_active = False
        self.drift: DriftScores | None = None

    def count(self, result: str) -> None:
        """Count a sampled request by what became of its check."""
        with self.lock:
            self.checks[result] += 1
            if result == "breach":
                self.last_breach_s = time.time()

    def observe(self, output: str, relative_l2: float, scaled_max: float) -> None:
        """Count the distance of one output in one check."""
        with self.lock:
            histograms = self.outputs.setdefault(output, _Output())
            # NaN is smaller than nothing.
            histograms.relative_l2.observe(
                relative_l2 if relative_l2 < LARGEST_DISTANCE else LARGEST_DISTANCE
            )
            histograms.scaled_max.observe(scaled_max if scaled_max < LARGEST_DISTANCE else LARGEST_DISTANCE)
            histograms.history.observe(relative_l2, scaled_max)

    def history(self) -> dict[str, History]:
        """Relative L2 and scaled max over time, by output."""
        with self.lock:
            return {name: output.history.copy() for name, output in self.outputs.items()}

    def count_reference(self, seconds: float, rows: int) -> None:
        """Count a run of the reference, in seconds of processor time."""
        with self.lock:
            self.reference_s += seconds
            self.reference_rows += rows

    def count_fallback(self, reason: str) -> None:
        """Count that the unfolded model answers from now on."""
        with self.lock:
            self.fallbacks[reason] += 1
            self.fallback_active = True

    def end_fallback(self) -> None:
        """Count that the model answers again as it was loaded."""
        with self.lock:
            self.fallback_active = False

    def count_dispute(self, verdict: str) -> None:
        """Count what float64 said about breaches."""
        with self.lock:
            self.disputes[verdict] += 1


class ParityCollector(Collector):
    """The checks of all models as Prometheus metrics."""

    def __init__(self) -> None:
        self.cpu_s: Callable[[], float] = lambda: 0.0
        """Tells what all checks together took, in seconds of processor time."""

        self._models: dict[tuple[str, str], ParityMetrics] = {}

    def add(self, metrics: ParityMetrics) -> None:
        """Show the checks of a model version, in place of those of the same version loaded before."""
        self._models[metrics.labels] = metrics

    def forget(self, model: str, version: str) -> None:
        """Show nothing more of a model version that is gone."""
        self._models.pop((model, version), None)

    def collect(self) -> Iterable[Metric]:
        """Everything found so far."""
        models = list(self._models.values())
        yield from _checks(models)
        yield from _distances(models)
        yield from _windows(models)
        yield from _references(models)
        yield from _fallbacks(models)
        yield from _drifts(models)
        cpu = CounterMetricFamily(
            "foldserve_shadow_cpu_seconds", "Processor time of comparing with unfolded models in service."
        )
        cpu.add_metric([], self.cpu_s())
        yield cpu


def _checks(models: Iterable[ParityMetrics]) -> Iterable[Metric]:
    checks = CounterMetricFamily(
        "foldserve_parity_checks",
        "Sampled requests by what became of their check: ok, breach, inconclusive (the reference "
        "overflowed), dropped (no time for it), error.",
        labels=(*MODEL, "result"),
    )
    last_breach = GaugeMetricFamily(
        "foldserve_parity_last_breach_timestamp_seconds",
        "When parity was last broken in service.",
        labels=MODEL,
    )
    for one in models:
        with one.lock:
            for result, count in one.checks.items():
                checks.add_metric([*one.labels, result], count)
            if one.last_breach_s is not None:
                last_breach.add_metric(one.labels, one.last_breach_s)
    return checks, last_breach


def _distances(models: Iterable[ParityMetrics]) -> Iterable[Metric]:
    labels = (*MODEL, "output")
    relative_l2 = HistogramMetricFamily(
        "foldserve_parity_check_relative_l2",
        "Relative L2 distance of sampled answers from the unfolded reference, of small ones by the usual "
        "size; 10 for an infinite one.",
        labels=labels,
    )
    scaled_max = HistogramMetricFamily(
        "foldserve_parity_check_scaled_max",
        "Largest error of sampled answers over the largest reference value, or the usual one; "
        "10 for an infinite one.",
        labels=labels,
    )
    for one in models:
        with one.lock:
            for output, histograms in one.outputs.items():
                histograms.relative_l2.add_to(relative_l2, (*one.labels, output))
                histograms.scaled_max.add_to(scaled_max, (*one.labels, output))
    return relative_l2, scaled_max


def _windows(models: Iterable[ParityMetrics]) -> Iterable[Metric]:
    labels = (*MODEL, "output")
    relative_l2, scaled_max, top1_agreement = (
        GaugeMetricFamily(f"foldserve_parity_window_{name}", text, labels=labels)
        for name, text in (
            ("relative_l2", "Largest relative L2 distance in the last window of checks."),
            ("scaled_max", "Largest error over the largest reference value in the last window of checks."),
            ("top1_agreement", "Share of rows with the reference's arg-max in the last window of checks."),
        )
    )
    for one in models:
        for output, found in one.window.items():
            relative_l2.add_metric([*one.labels, output], found.relative_l2)
            scaled_max.add_metric([*one.labels, output], found.scaled_max)
            if found.top1_agreement is not None:
                top1_agreement.add_metric([*one.labels, output], found.top1_agreement)
    return relative_l2, scaled_max, top1_agreement


def _references(models: Iterable[ParityMetrics]) -> Iterable[Metric]:
    size = GaugeMetricFamily(
        "foldserve_reference_bytes", "Weights of the unfolded reference while it is open.", labels=MODEL
    )
    seconds = CounterMetricFamily(
        "foldserve_parity_reference_seconds",
        "Processor time of the reference's runs in checks.",
        labels=MODEL,
    )
    rows = CounterMetricFamily(
        "foldserve_parity_reference_rows", "Rows that the reference ran in checks.", labels=MODEL
    )
    for one in models:
        size.add_metric(one.labels, one.reference_bytes())
        seconds.add_metric(one.labels, one.reference_s)
        rows.add_metric(one.labels, one.reference_rows)
    return size, seconds, rows


def _fallbacks(models: Iterable[ParityMetrics]) -> Iterable[Metric]:
    active = GaugeMetricFamily(
        "foldserve_fallback_active", "1 while the unfolded model answers since parity broke.", labels=MODEL
    )
    total = CounterMetricFamily(
        "foldserve_fallback", "Times that the unfolded model took over in service.", labels=(*MODEL, "reason")
    )
    disputes = CounterMetricFamily(
        "foldserve_parity_disputes",
        "What float64 said of answers that broke parity: wrong, right (who gave them answers on), undecided.",
        labels=(*MODEL, "verdict"),
    )
    for one in models:
        with one.lock:
            active.add_metric(one.labels, one.fallback_active)
            for reason, count in one.fallbacks.items():
                total.add_metric([*one.labels, reason], count)
            for verdict, count in one.disputes.items():
                disputes.add_metric([*one.labels, verdict], count)
    return active, total, disputes


def _drifts(models: Iterable[ParityMetrics]) -> Iterable[Metric]:
    score = GaugeMetricFamily(
        "foldserve_drift_score",
        "Departure of a BatchNorm's input in the last window from what it saw in training.",
        labels=(*MODEL, "layer", "measure"),
    )
    overall = GaugeMetricFamily(
        "foldserve_drift_overall",
        "Average drift of all BatchNorms in the last window.",
        labels=(*MODEL, "measure"),
    )
    baseline = GaugeMetricFamily(
        "foldserve_drift_baseline", "Average overall drift of the first windows.", labels=(*MODEL, "measure")
    )
    windows = CounterMetricFamily("foldserve_drift_windows", "Windows of drift scored.", labels=MODEL)
    for one in models:
        drift = one.drift
        if drift is None:
            continue
        windows.add_metric(one.labels, drift.windows)
        for (layer, measure), value in drift.layers.items():
            score.add_metric([*one.labels, layer, measure], value)
        for family, scores in ((overall, drift.overall), (baseline, drift.baseline)):
            for measure, value in scores.items():
                family.add_metric([*one.labels, measure], value)
    return score, overall, baseline, windows
