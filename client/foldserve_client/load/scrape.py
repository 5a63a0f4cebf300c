"""What the server says of itself: /metrics in Prometheus's text format, before a measurement and after it."""

import math
import urllib.error
import urllib.request
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from prometheus_client.parser import text_string_to_metric_families

from foldserve_client.load.errors import LoadTestError

HTTP_PORT = 8002
TIMEOUT_S = 5.0
REQUEST = "foldserve_request_duration_seconds"
STAGES = ("queue", "compute_input", "compute_infer", "compute_output")
REFERENCE = "reference"
"""The variant that runs at load and in checks, not for requests."""

Labels = Mapping[str, str]
Choose = Callable[[list[float]], float]


class Samples:
    """The values of a scrape by name and labels."""

    def __init__(self, values: Mapping[tuple[str, frozenset[tuple[str, str]]], float]) -> None:
        self._values = values

    @classmethod
    def parse(cls, text: str) -> "Samples":
        """Read Prometheus's text format; raises ValueError where it is something else."""
        return cls(
            {
                (sample.name, frozenset(sample.labels.items())): sample.value
                for family in text_string_to_metric_families(text)
                for sample in family.samples
            }
        )

    def select(self, name: str, **labels: str) -> list[tuple[Labels, float]]:
        """The samples of a name that have these labels."""
        wanted = set(labels.items())
        return [
            (dict(own), value)
            for (sample, own), value in self._values.items()
            if sample == name and wanted <= own
        ]

    def total(self, name: str, **labels: str) -> float:
        """Their sum."""
        return sum(value for _, value in self.select(name, **labels))


@dataclass(frozen=True)
class Stage:
    """What a stage took, averaged over the requests of a step."""

    name: str
    mean_ms: float


@dataclass(frozen=True)
class ServerView:
    """A step as the server saw it, the warm-up included; all requests of the models under load."""

    requests: int
    mean_ms: float
    p50_ms: float
    p99_ms: float
    """From the arrival at the server's handler to its answer; percentiles as exact as the buckets are."""

    stages: tuple[Stage, ...]
    mean_batch: float
    """Rows of a run."""


@dataclass(frozen=True)
class Parity:
    """How near a model's answers stayed to the unfolded original during a step."""

    model: str
    version: str
    variant: str
    checks: dict[str, int]
    """Sampled requests by what became of their check, in this step."""

    at_load: float | None
    in_service: float | None
    """Relative L2 distances, the worst output's: as proven at load, and in the last window of checks."""

    top1_agreement: float | None
    fallback: bool


def fetch(url: str) -> Samples:
    """The samples at ``url``; raises LoadTestError where there are none to read."""
    try:
        with urllib.request.urlopen(url, timeout=TIMEOUT_S) as answer:
            return Samples.parse(answer.read().decode())
    except (OSError, ValueError, urllib.error.URLError) as error:
        raise LoadTestError(f"no metrics at {url}: {error}") from None


def default_url(address: str) -> str:
    """Where foldserve's metrics are if they are at their usual port: the address's host, port 8002."""
    host = address.rsplit("/", 1)[-1].rpartition(":")[0] or "localhost"
    return f"http://{host}:{HTTP_PORT}/metrics"


def server_view(before: Samples, after: Samples, models: Sequence[str]) -> ServerView | None:
    """What happened between two scrapes; None where the server counted no request of the models."""
    count = _growth(before, after, f"{REQUEST}_count", models, method="ModelInfer")
    if not count:
        return None
    buckets = [
        (edge, _growth(before, after, f"{REQUEST}_bucket", models, method="ModelInfer", le=edge))
        for edge in {labels["le"] for labels, _ in after.select(f"{REQUEST}_bucket", method="ModelInfer")}
    ]
    stages = []
    for stage in STAGES:
        name = f"foldserve_inference_{stage}_duration_seconds"
        seconds, requests = (
            _growth(before, after, f"{name}{part}", models)
            - _growth(before, after, f"{name}{part}", models, variant=REFERENCE)
            for part in ("_sum", "_count")
        )
        stages.append(Stage(stage.replace("_", " "), 1e3 * seconds / requests if requests else 0.0))
    runs = _growth(before, after, "foldserve_inference_exec_count_total", models)
    rows = _growth(before, after, "foldserve_inference_count_total", models)
    seconds = _growth(before, after, f"{REQUEST}_sum", models, method="ModelInfer")
    return ServerView(
        requests=round(count),
        mean_ms=1e3 * seconds / count,
        p50_ms=1e3 * quantile(buckets, 0.5),
        p99_ms=1e3 * quantile(buckets, 0.99),
        stages=tuple(stages),
        mean_batch=rows / runs if runs else 0.0,
    )


def parity(before: Samples, after: Samples, models: Iterable[str]) -> list[Parity]:
    """Parity of each version of the models that the server tells of."""
    found = []
    for model in dict.fromkeys(models):
        for labels, is_so in after.select("foldserve_variant_info", model=model):
            if not is_so:
                continue
            one = {"model": model, "version": labels["version"]}
            checks = {
                own["result"]: round(value - before.total("foldserve_parity_checks_total", **own))
                for own, value in after.select("foldserve_parity_checks_total", **one)
            }
            found.append(
                Parity(
                    model,
                    labels["version"],
                    labels["variant"],
                    checks,
                    _worst(after, "foldserve_parity_relative_l2", max, one),
                    _worst(after, "foldserve_parity_window_relative_l2", max, one),
                    _worst(after, "foldserve_parity_window_top1_agreement", min, one),
                    bool(after.total("foldserve_fallback_active", **one)),
                )
            )
    return found


def quantile(buckets: Iterable[tuple[str, float]], share: float) -> float:
    """The value that a share of a histogram does not exceed, linear within its bucket as Prometheus has it.

    ``buckets`` are (upper edge, count so far); what is beyond the last finite edge counts as that edge.
    """
    ordered = sorted((float(edge), count) for edge, count in buckets)
    wanted = share * ordered[-1][1]
    lower, below = 0.0, 0.0
    for edge, count in ordered:
        if count >= wanted and count > below:
            share_of_bucket = (wanted - below) / (count - below)
            return lower if edge == math.inf else lower + (edge - lower) * share_of_bucket
        lower, below = edge, count
    return lower


def _growth(before: Samples, after: Samples, name: str, models: Sequence[str], **labels: str) -> float:
    return sum(
        after.total(name, model=model, **labels) - before.total(name, model=model, **labels)
        for model in dict.fromkeys(models)
    )


def _worst(samples: Samples, name: str, choose: Choose, labels: Labels) -> float | None:
    values = [value for _, value in samples.select(name, **labels)]
    return choose(values) if values else None
