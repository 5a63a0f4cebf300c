"""The Prometheus metrics of a server, in Triton's vocabulary.

*queue* is the wait for the engine, *compute input* decoding and checking, *compute infer* the runtime,
*compute output* encoding. An *inference* is one row of a batch, an *execution* one run of the engine.
"""

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    GCCollector,
    PlatformCollector,
    ProcessCollector,
)

from foldserve import __version__
from foldserve.observability.forms import FormCollector
from foldserve.observability.inference import MODEL, RequestCollector
from foldserve.observability.parity import ParityCollector


class Metrics:
    """Every metric of one server, in a registry of its own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry(auto_describe=True)
        ProcessCollector(registry=self.registry)
        PlatformCollector(registry=self.registry)
        GCCollector(registry=self.registry)
        self.requests = RequestCollector()
        self.registry.register(self.requests)
        self.parity = ParityCollector()
        self.registry.register(self.parity)
        self.forms = FormCollector()
        self.registry.register(self.forms)

        def counter(name: str, text: str, labels: tuple[str, ...] = MODEL) -> Counter:
            return Counter(name, text, labels, registry=self.registry)

        def gauge(name: str, text: str, labels: tuple[str, ...] = MODEL) -> Gauge:
            return Gauge(name, text, labels, registry=self.registry)

        self.ready = gauge(
            "foldserve_model_ready",
            "1 while the model version serves; without a version if none was even tried.",
        )
        self.load_failures = counter(
            "foldserve_model_load_failures", "Loads that failed; without a version if none was even tried."
        )
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
        self.rejected_calls = counter(
            "foldserve_rejected_calls",
            "Calls turned away: missing_token, unknown_token, missing_right, management_port (not this one).",
            ("reason",),
        )
        self.certificate_expiry = gauge(
            "foldserve_tls_certificate_expiry_timestamp_seconds",
            "When the TLS certificate that serves, or the first of its chain, ends.",
            ("file",),
        )
        gauge("foldserve_build_info", "Always 1; the version that runs.", ("version",)).labels(
            __version__
        ).set(1)
