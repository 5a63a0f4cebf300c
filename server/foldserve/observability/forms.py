"""Which form of each model answers, and where: asked when scraped, for a fallback changes it at any time."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from prometheus_client.metrics_core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from foldserve.observability.inference import MODEL


@dataclass(frozen=True, slots=True)
class Form:
    """What answers for one model version."""

    requested_provider: str
    provider: str
    engine: str
    batchnorms: Mapping[tuple[str, str], int]
    """Number of BatchNorms by outcome and reason."""

    biases_stripped: int


class FormCollector(Collector):
    """The forms of all models as Prometheus metrics."""

    def __init__(self) -> None:
        self._forms: dict[tuple[str, str], Callable[[], Form]] = {}

    def add(self, model: str, version: str, form: Callable[[], Form]) -> None:
        """Show the form of a model version, in place of that of the same version loaded before."""
        self._forms[model, version] = form

    def forget(self, model: str, version: str) -> None:
        """Show nothing more of a model version that serves no longer."""
        self._forms.pop((model, version), None)

    def collect(self) -> Iterable[Metric]:
        """What answers now."""
        provider = GaugeMetricFamily(
            "foldserve_provider_info",
            "Always 1; the execution provider that was asked for and the one that runs.",
            labels=(*MODEL, "requested", "actual"),
        )
        engine = GaugeMetricFamily(
            "foldserve_engine_info",
            "Always 1; the engine that answers: runtime, device and precision.",
            labels=(*MODEL, "engine"),
        )
        batchnorms = GaugeMetricFamily(
            "foldserve_batchnorms",
            "BatchNorms: folded, stayed for a reason, or rejected with the whole fold.",
            labels=(*MODEL, "outcome", "reason"),
        )
        biases = GaugeMetricFamily(
            "foldserve_biases_stripped", "Redundant biases removed from the model.", labels=MODEL
        )
        for labels, form_of in list(self._forms.items()):
            form = form_of()
            provider.add_metric([*labels, form.requested_provider, form.provider], 1)
            engine.add_metric([*labels, form.engine], 1)
            for fate, count in form.batchnorms.items():
                batchnorms.add_metric([*labels, *fate], count)
            biases.add_metric(labels, form.biases_stripped)
        return provider, engine, batchnorms, biases
