"""What is told about a servable: one set of facts for metadata, log lines and metrics."""

from collections import Counter
from datetime import UTC, datetime

from foldserve.folding.report import BATCH_NORMALIZATION, Outcome
from foldserve.observability.forms import Form
from foldserve.observability.metrics import Metrics
from foldserve.serving.ladder import Variant
from foldserve.serving.opening import in_words
from foldserve.serving.servable import Servable


def summary(servable: Servable) -> dict[str, str | int | float]:
    """The facts that fit on a line, by names that metadata properties and log lines share."""
    provenance = servable.provenance
    fold, parity = provenance.fold_report, provenance.parity_report
    facts: dict[str, str | int | float] = {
        "variant": _served(servable),
        "runtime_optimisation": _optimisation(servable),
        "provider_requested": provenance.requested_provider,
        "provider": servable.provider,
        "engine": servable.engine,
        "batches": servable.rows_of_a_run is not None,
        "batchnorms": fold.batch_norms,
        "batchnorms_folded": fold.batch_norms_folded if servable.variant is Variant.FOLDED else 0,
        "biases_stripped": len(fold.stripped_biases) if servable.variant is Variant.FOLDED else 0,
        "parity_verdict": parity.verdict,
        "instances": provenance.tuning.layout.instances,
        "intra_op_threads": provenance.tuning.layout.threads,
        "rows_of_a_run": servable.rows_of_a_run or 1,
        "from_cache": provenance.from_cache,
        "load_seconds": round(sum(provenance.stage_seconds.values()), 3),
    }
    for provider, seconds in provenance.provider_seconds.items():
        facts[f"milliseconds_on_{provider}"] = round(seconds * 1e3, 3)
    if servable.fallback is not None:
        since = datetime.fromtimestamp(servable.fallback.since, UTC)
        facts |= {"fallback": servable.fallback.reason, "fallback_since": since.isoformat(timespec="seconds")}
    if provenance.engines.advice:
        facts["faster_engine"] = provenance.engines.advice
    if fold.hint:
        facts["hint"] = fold.hint
    return facts


def _optimisation(servable: Servable) -> str:
    if servable.fallback is not None:
        return servable.fallback.runtime_optimisation
    return in_words(servable.provenance.optimisation)


def _served(servable: Servable) -> str:
    """The variant, for people: with nothing folded, the folded model is the original."""
    fold = servable.provenance.fold_report
    changed = fold.stripped_biases or any(site.outcome is Outcome.FOLDED for site in fold.sites)
    if servable.variant is Variant.UNFOLDED or changed:
        return servable.variant
    return "nothing folded" if fold.sites else "nothing to fold"


def drift_unavailable(servable: Servable) -> str:
    """Why nothing is known of the drift of a servable's inputs; empty where something is."""
    shadow = servable.shadow
    if shadow is None:
        return "no answers of this model are compared in service; set shadow.sample_rate and shadow.reference"
    if shadow.drift() is not None:
        return ""
    if not any(site.operator == BATCH_NORMALIZATION for site in servable.provenance.fold_report.sites):
        return (
            "the model has no BatchNorm whose statistics could be compared; many exporters fold them away: "
            "export it with BatchNorm kept (torch.export.save, and serve the .pt2)"
        )
    return shadow.report().reference_failure or "nothing was compared yet"


def publish(servable: Servable, metrics: Metrics) -> None:
    """Set the gauges of a servable that just became ready, in place of those of the one before it."""
    withdraw(servable.name, servable.version, metrics)
    model, version = servable.name, str(servable.version)
    provenance = servable.provenance
    for stage, seconds in provenance.stage_seconds.items():
        metrics.load_duration.labels(model, version, stage).set(seconds)
    for seconds in provenance.reference_seconds:
        servable.metrics.reference.observe(seconds)
    metrics.requests.add(servable.metrics)
    for output in provenance.parity_report.outputs:
        metrics.parity_relative_l2.labels(model, version, output.output).set(output.relative_l2)
        metrics.parity_scaled_max.labels(model, version, output.output).set(output.scaled_max)
        if output.top1_agreement is not None:
            metrics.parity_top1_agreement.labels(model, version, output.output).set(output.top1_agreement)
    metrics.forms.add(model, version, lambda: form(servable))


def form(servable: Servable) -> Form:
    """Which form of the model answers now, and where."""
    provenance = servable.provenance
    fold, fallback = provenance.fold_report, servable.fallback
    served = servable.variant is Variant.FOLDED
    reason = fallback.reason if fallback else provenance.parity_report.verdict
    return Form(
        requested_provider=provenance.requested_provider,
        provider=servable.provider,
        engine=servable.engine,
        batchnorms=Counter(
            (site.outcome, site.reason or "") if served else ("rejected", reason)
            for site in fold.sites
            if site.operator == BATCH_NORMALIZATION
        ),
        biases_stripped=len(fold.stripped_biases) if served else 0,
    )


def withdraw(model: str, version: int, metrics: Metrics) -> None:
    """Take back the gauges of a model version that serves no longer."""
    metrics.forms.forget(model, str(version))
    for gauge in (
        metrics.load_duration,
        metrics.parity_relative_l2,
        metrics.parity_scaled_max,
        metrics.parity_top1_agreement,
    ):
        gauge.remove_by_labels({"model": model, "version": str(version)})


def forget(model: str, version: int, metrics: Metrics) -> None:
    """Drop all series of a model version that is gone: versions come and go for as long as a server runs."""
    withdraw(model, version, metrics)
    metrics.ready.remove_by_labels({"model": model, "version": str(version)})
    metrics.requests.forget(model, str(version))
    metrics.parity.forget(model, str(version))
