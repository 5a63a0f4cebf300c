"""What requests cost, counted on their way: one lock and a few additions per request.

prometheus-client's own histograms and counters take a lock and a look-up by label each, ten of them per
request, which a small model notices. So requests are counted here, and turned into metrics when scraped.
"""

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from prometheus_client.metrics_core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector
from prometheus_client.samples import Exemplar

from foldserve.observability.histogram import Histogram

SECONDS = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0)

MODEL = ("model", "version")
INFER_TEXT = "Running the model: folded or unfolded in service, reference (the unoptimised original) at load."


class StageSeconds(NamedTuple):
    """What one request took, stage by stage, in seconds."""

    queue: float
    compute_input: float
    compute_infer: float
    compute_output: float


def durations() -> Histogram:
    """A histogram of seconds."""
    return Histogram(SECONDS)


@dataclass(slots=True)
class BatchSeconds:
    """What the runs of one number of rows took altogether, in seconds."""

    count: int = 0
    compute_input: float = 0.0
    compute_infer: float = 0.0
    compute_output: float = 0.0

    def add(self, stages: StageSeconds, share: float) -> None:
        """Count one run, which had ``share`` of the stages."""
        self.count += 1
        self.compute_input += stages.compute_input * share
        self.compute_infer += stages.compute_infer * share
        self.compute_output += stages.compute_output * share


class InferenceMetrics:
    """The requests of one model version that were answered."""

    def __init__(self, model: str, version: str, variant: str, waiting: Callable[[], int]) -> None:
        """``waiting`` tells how many requests wait for the engine now."""
        self.labels = (model, version)
        self.waiting = waiting
        self.variant = variant
        self.lock = threading.Lock()
        self.queue = durations()
        self.compute_input = durations()
        self.compute_infer = {variant: durations()}
        """By the variant of the model that answered."""

        self.run_s = {variant: 0.0}
        """What the runs of each variant took altogether, in seconds."""

        self.reference = durations()
        self.compute_output = durations()
        self.inferences = 0
        self.executions = 0
        self.batches: dict[int, BatchSeconds] = {}
        """What runs took, by their rows."""

        self.last_inference_ms = 0
        """When the last request was answered, in milliseconds since 1970; 0 before the first."""

    def answer_with(self, variant: str) -> None:
        """Count what comes as answered by another variant of the model."""
        with self.lock:
            self.compute_infer.setdefault(variant, durations())
            self.run_s.setdefault(variant, 0.0)
            self.variant = variant

    def record(self, rows: int, runs: Sequence[int], stages: StageSeconds) -> None:
        """Count a request of ``rows`` rows, and the runs of the engine that are its own, by their rows.

        Of the requests in one batch, only the first has a run.
        """
        with self.lock:
            self.queue.observe(stages.queue)
            self.compute_input.observe(stages.compute_input)
            self.compute_infer[self.variant].observe(stages.compute_infer)
            self.compute_output.observe(stages.compute_output)
            self.inferences += rows
            self._add_runs(runs, stages)
            self.last_inference_ms = int(time.time() * 1000)

    def record_runs(self, runs: Sequence[int], stages: StageSeconds) -> None:
        """Count the runs of a request that was not answered: others may have been, of the same runs."""
        with self.lock:
            self._add_runs(runs, stages)

    def _add_runs(self, runs: Sequence[int], stages: StageSeconds) -> None:
        self.executions += len(runs)
        self.run_s[self.variant] += stages.compute_infer if runs else 0.0
        for rows in runs:
            self.batches.setdefault(rows, BatchSeconds()).add(stages, share=1 / len(runs))


class RequestMetrics:
    """The RPCs of one model version and method, by status code."""

    def __init__(self, model: str, version: str, method: str) -> None:
        self.labels = (model, version, method)
        self.lock = threading.Lock()
        self.duration = durations()
        self.codes: Counter[str] = Counter()
        self.exemplars: dict[int, Exemplar] = {}
        """The last RPC of each bucket of ``duration`` that was traced."""

        self.failed_s = 0.0
        """What the RPCs that failed took altogether, in seconds."""

    def record(self, code: str, seconds: float) -> None:
        """Count one RPC, answered or refused."""
        with self.lock:
            self.duration.observe(seconds)
            self.codes[code] += 1
            if code != "OK":
                self.failed_s += seconds

    def exemplify(self, seconds: float, trace_id: str) -> None:
        """Let an RPC that is counted already, and was traced, stand for its bucket."""
        with self.lock:
            exemplar = Exemplar({"trace_id": trace_id}, seconds, time.time())
            self.exemplars[self.duration.bucket(seconds)] = exemplar

    @property
    def failed(self) -> int:
        """Number of RPCs that failed."""
        return sum(count for code, count in self.codes.items() if code != "OK")


class RequestCollector(Collector):
    """All requests of a server as Prometheus metrics."""

    def __init__(self) -> None:
        self._inferences: dict[tuple[str, str], InferenceMetrics] = {}
        self._requests: dict[tuple[str, str, str], RequestMetrics] = {}

    def add(self, inference: InferenceMetrics) -> None:
        """Show the metrics of a model version, in place of those of the same version loaded before."""
        self._inferences[inference.labels] = inference

    def forget(self, model: str, version: str) -> None:
        """Show nothing more of a model version that is gone."""
        self._inferences.pop((model, version), None)
        for key in [key for key in self._requests.copy() if key[:2] == (model, version)]:
            self._requests.pop(key, None)

    def record_request(self, model: str, version: str, method: str, code: str, seconds: float) -> None:
        """Count one RPC, answered or refused."""
        key = (model, version, method)
        requests = self._requests.get(key) or self._requests.setdefault(key, RequestMetrics(*key))
        requests.record(code, seconds)

    def exemplify(self, model: str, version: str, method: str, seconds: float, trace_id: str) -> None:
        """Name the trace of an RPC that is counted already."""
        if (requests := self._requests.get((model, version, method))) is not None:
            requests.exemplify(seconds, trace_id)

    def requests(self, model: str, version: str, method: str) -> RequestMetrics:
        """The RPCs of one model version and method so far."""
        return self._requests.get((model, version, method)) or RequestMetrics(model, version, method)

    def of_model(self, model: str, version: str) -> list[RequestMetrics]:
        """The RPCs of one model version so far, by method."""
        return [requests for requests in self.all() if requests.labels[:2] == (model, version)]

    def all(self) -> list[RequestMetrics]:
        """The RPCs so far, by model version and method."""
        return list(self._requests.values())

    def collect(self) -> Iterable[Metric]:
        """Everything counted so far."""
        yield from self._collect_requests()
        yield from self._collect_inferences()

    def _collect_requests(self) -> Iterable[Metric]:
        requests = CounterMetricFamily(
            "foldserve_requests", "RPCs answered, by status code.", labels=(*MODEL, "method", "code")
        )
        duration = HistogramMetricFamily(
            "foldserve_request_duration_seconds",
            "From the arrival of an RPC at its handler to its answer, failures included.",
            labels=(*MODEL, "method"),
        )
        for one in self.all():
            with one.lock:
                one.duration.add_to(duration, one.labels, one.exemplars)
                for code, count in one.codes.items():
                    requests.add_metric([*one.labels, code], count)
        return requests, duration

    def _collect_inferences(self) -> Iterable[Metric]:
        queue, compute_input, compute_infer, compute_output = (
            HistogramMetricFamily(f"foldserve_inference_{stage}_duration_seconds", text, labels=labels)
            for stage, text, labels in (
                ("queue", "Wait for the engine.", MODEL),
                ("compute_input", "Decoding and checking the inputs.", MODEL),
                ("compute_infer", INFER_TEXT, (*MODEL, "variant")),
                ("compute_output", "Encoding the outputs.", MODEL),
            )
        )
        inferences = CounterMetricFamily("foldserve_inference_count", "Rows inferred.", labels=MODEL)
        waiting = GaugeMetricFamily(
            "foldserve_queue_requests", "Requests waiting for the engine.", labels=MODEL
        )
        executions = CounterMetricFamily(
            "foldserve_inference_exec_count", "Runs of the engine.", labels=MODEL
        )
        served = GaugeMetricFamily(
            "foldserve_variant_info",
            "Always 1; whether the folded or the unfolded model answers.",
            labels=(*MODEL, "variant"),
        )
        run_seconds = CounterMetricFamily(
            "foldserve_inference_exec_seconds", "Time of the engine's runs.", labels=(*MODEL, "variant")
        )
        for one in list(self._inferences.values()):
            with one.lock:
                one.queue.add_to(queue, one.labels)
                one.compute_input.add_to(compute_input, one.labels)
                for variant, compute in one.compute_infer.items():
                    compute.add_to(compute_infer, (*one.labels, variant))
                for variant, seconds in one.run_s.items():
                    run_seconds.add_metric([*one.labels, variant], seconds)
                one.reference.add_to(compute_infer, (*one.labels, "reference"))
                one.compute_output.add_to(compute_output, one.labels)
                served.add_metric([*one.labels, one.variant], 1)
                waiting.add_metric(one.labels, one.waiting())
                inferences.add_metric(one.labels, one.inferences)
                executions.add_metric(one.labels, one.executions)
        families = (queue, compute_input, compute_infer, compute_output, waiting, inferences)
        return *families, executions, run_seconds, served
