"""The Prometheus metrics of a server, in Triton's vocabulary.

*queue* is the wait for the engine, *compute input* decoding and checking, *compute infer* the runtime,
*compute output* encoding. An *inference* is one row of a batch, an *execution* one run of the engine.
"""

from dataclasses import dataclass

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    GCCollector,
    Histogram,
    PlatformCollector,
    ProcessCollector,
)

from foldserve import __version__

SECONDS = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0)
MODEL = ("model", "version")


@dataclass(frozen=True, slots=True)
class StageSeconds:
    """What one request took, stage by stage, in seconds."""

    queue: float
    compute_input: float
    compute_infer: float
    compute_output: float


class Metrics:
    """Every metric of one server, in a registry of its own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry(auto_describe=True)
        ProcessCollector(registry=self.registry)
        PlatformCollector(registry=self.registry)
        GCCollector(registry=self.registry)

        def histogram(name: str, text: str, labels: tuple[str, ...] = MODEL) -> Histogram:
            return Histogram(name, text, labels, buckets=SECONDS, registry=self.registry)

        def counter(name: str, text: str, labels: tuple[str, ...] = MODEL) -> Counter:
            return Counter(name, text, labels, registry=self.registry)

        def gauge(name: str, text: str, labels: tuple[str, ...] = MODEL) -> Gauge:
            return Gauge(name, text, labels, registry=self.registry)

        self.requests = counter(
            "foldserve_requests", "RPCs answered, by status code.", ("model", "version", "method", "code")
        )
        self.request_duration = histogram(
            "foldserve_request_duration_seconds",
            "From the arrival of an RPC at its handler to its answer, failures included.",
            ("model", "version", "method"),
        )
        self.queue_duration = histogram("foldserve_inference_queue_duration_seconds", "Wait for the engine.")
        self.compute_input_duration = histogram(
            "foldserve_inference_compute_input_duration_seconds", "Decoding and checking the inputs."
        )
        self.compute_infer_duration = histogram(
            "foldserve_inference_compute_infer_duration_seconds",
            "Running the model: folded or unfolded in service, reference (the unoptimised original) at load.",
            ("model", "version", "variant"),
        )
        self.compute_output_duration = histogram(
            "foldserve_inference_compute_output_duration_seconds", "Encoding the outputs."
        )
        self.inference_count = counter("foldserve_inference_count", "Rows inferred.")
        self.execution_count = counter("foldserve_inference_exec_count", "Runs of the engine.")
        self.ready = gauge("foldserve_model_ready", "1 while the model version serves.")
        self.load_failures = counter("foldserve_model_load_failures", "Loads that failed.")
        self.provider_info = gauge(
            "foldserve_provider_info",
            "Always 1; the execution provider that was asked for and the one that runs.",
            ("model", "version", "requested", "actual"),
        )
        self.variant_info = gauge(
            "foldserve_variant_info",
            "Always 1; whether the folded or the unfolded model serves.",
            ("model", "version", "variant"),
        )
        self.batchnorms = gauge(
            "foldserve_batchnorms",
            "BatchNorms of the model, by what folding did: folded, or stayed for a reason.",
            ("model", "version", "outcome", "reason"),
        )
        self.biases_stripped = gauge("foldserve_biases_stripped", "Redundant biases removed from the model.")
        self.load_duration = gauge(
            "foldserve_load_duration_seconds", "What loading took, by stage.", ("model", "version", "stage")
        )
        parity = ("model", "version", "output")
        self.parity_relative_l2 = gauge(
            "foldserve_parity_relative_l2",
            "Relative L2 distance from the unfolded reference at load.",
            parity,
        )
        self.parity_scaled_max = gauge(
            "foldserve_parity_scaled_max", "Largest error at load over the largest reference value.", parity
        )
        self.parity_top1_agreement = gauge(
            "foldserve_parity_top1_agreement",
            "Share of probe rows with the reference's arg-max at load.",
            parity,
        )
        gauge("foldserve_build_info", "Always 1; the version that runs.", ("version",)).labels(
            __version__
        ).set(1)

    def record_inference(
        self, model: str, version: str, variant: str, rows: int, stages: StageSeconds
    ) -> None:
        """Count one answered request of ``rows`` rows."""
        self.queue_duration.labels(model, version).observe(stages.queue)
        self.compute_input_duration.labels(model, version).observe(stages.compute_input)
        self.compute_infer_duration.labels(model, version, variant).observe(stages.compute_infer)
        self.compute_output_duration.labels(model, version).observe(stages.compute_output)
        self.inference_count.labels(model, version).inc(rows)
        self.execution_count.labels(model, version).inc()

    def record_request(self, model: str, version: str, method: str, code: str, seconds: float) -> None:
        """Count one RPC, answered or refused."""
        self.requests.labels(model, version, method, code).inc()
        self.request_duration.labels(model, version, method).observe(seconds)
