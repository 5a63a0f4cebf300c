"""The facts as they are now. Nothing here waits for a load, a check or a request that runs."""

import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence

from foldserve import __version__
from foldserve.errors import FoldserveError
from foldserve.observability.histogram import Histogram
from foldserve.observability.inference import InferenceMetrics, RequestMetrics, durations
from foldserve.observability.metrics import Metrics
from foldserve.parity.live_comparison import budgets_in_service
from foldserve.parity.report import OutputParity
from foldserve.serving.facts import drift_unavailable, summary
from foldserve.serving.ladder import Variant
from foldserve.serving.lifecycle import State
from foldserve.serving.manager import ModelManager
from foldserve.serving.model_table import Status
from foldserve.serving.servable import Servable
from foldserve.status.facts import (
    Batch,
    Calls,
    Durations,
    ModelFacts,
    ModelOverview,
    OutputHistory,
    ParityFacts,
    PeriodParity,
    ServableFacts,
    ServerFacts,
    ServiceOverview,
    Stage,
    Traffic,
)

INFERENCE = frozenset({"ModelInfer", "ModelStreamInfer"})
"""The methods that run a model."""


class Gatherer:
    """Looks at a server's models."""

    def __init__(self, manager: ModelManager, metrics: Metrics) -> None:
        self._manager = manager
        self._metrics = metrics
        self._started = time.time()

    def server(self) -> ServerFacts:
        """The server as it is now."""
        return ServerFacts(
            version=__version__,
            started=self._started,
            uptime_seconds=max(0.0, time.time() - self._started),
            not_ready=self._manager.not_ready(),
            models=tuple(self._overview(status) for status in self._manager.statuses()),
            calls=_calls(self._metrics.requests.all()),
            shadow_cpu_seconds=self._metrics.parity.cpu_s(),
        )

    def model(self, name: str, version: int | None) -> ModelFacts | None:
        """A model version as it is now, the highest one if none is given; None if there is no such."""
        known = [status for status in self._manager.statuses() if status.name == name]
        if version is not None:
            known = [status for status in known if status.version == version]
        status = max(known, key=lambda status: status.version or 0, default=None)
        if status is None:
            return None
        servable = self._servable(status)
        return ModelFacts(
            name=status.name,
            version=status.version,
            state=status.state,
            reason=status.reason,
            servable=self._of_servable(servable) if servable is not None else None,
        )

    def _servable(self, status: Status) -> Servable | None:
        """What serves; None where nothing does, or does so no more."""
        if status.state is not State.READY:
            return None
        try:
            return self._manager.servable(status.name, str(status.version))
        except FoldserveError:
            return None

    def _overview(self, status: Status) -> ModelOverview:
        servable = self._servable(status)
        return ModelOverview(
            name=status.name,
            version=status.version,
            state=status.state,
            reason=status.reason,
            service=self._service(servable) if servable is not None else None,
        )

    def _service(self, servable: Servable) -> ServiceOverview:
        provenance, shadow = servable.provenance, servable.shadow
        live = shadow.report() if shadow is not None else None
        drift = shadow.drift() if shadow is not None else None
        at_load = provenance.parity_report.outputs
        now = live.outputs if live is not None else ()
        calls = [
            one
            for one in self._metrics.requests.of_model(*servable.metrics.labels)
            if one.labels[2] in INFERENCE
        ]
        return ServiceOverview(
            variant=servable.variant,
            requested_provider=provenance.requested_provider,
            provider=servable.provider,
            batch_norms=provenance.fold_report.batch_norms,
            batch_norms_folded=(
                provenance.fold_report.batch_norms_folded if servable.variant is Variant.FOLDED else 0
            ),
            fallback=servable.fallback,
            parity_at_load=_largest(at_load),
            parity_in_service=_largest(now),
            within_budget=all(one.within_budget for one in now) if now else provenance.parity_report.passed,
            checks=live.checks if live is not None else {},
            drift=drift.overall.mean if drift is not None and drift.overall is not None else None,
            drift_baseline=drift.baseline.mean if drift is not None and drift.baseline is not None else None,
            waiting=servable.metrics.waiting(),
            requests=sum(one.codes.total() for one in calls),
            failed=sum(one.failed for one in calls),
            duration=_durations(_together(calls)),
        )

    def _of_servable(self, servable: Servable) -> ServableFacts:
        provenance = servable.provenance
        return ServableFacts(
            summary=summary(servable),
            fallback=servable.fallback,
            fold=provenance.fold_report,
            engines=provenance.engines,
            parity=_parity(servable),
            drift=servable.shadow.drift() if servable.shadow is not None else None,
            drift_unavailable=drift_unavailable(servable),
            traffic=_traffic(servable.metrics, self._metrics.requests.of_model(*servable.metrics.labels)),
            tuning=provenance.tuning,
            load_stages=dict(provenance.stage_seconds),
        )


def _parity(servable: Servable) -> ParityFacts:
    report, shadow = servable.provenance.parity_report, servable.shadow
    budgets = budgets_in_service(report, servable.output_names)
    history: list[OutputHistory] = []
    if shadow is not None:
        for output, one in shadow.metrics.history().items():
            periods = tuple(
                PeriodParity(
                    start=period.start_s,
                    checks=period.count,
                    relative_l2=period.worst[0],
                    scaled_max=period.worst[1],
                )
                for period in one.periods
            )
            history.append(
                OutputHistory(
                    output=output, budget=budgets[output], period_seconds=one.period_s, periods=periods
                )
            )
    return ParityFacts(
        at_load=report, live=shadow.report() if shadow is not None else None, history=tuple(history)
    )


def _traffic(inference: InferenceMetrics, requests: Sequence[RequestMetrics]) -> Traffic:
    with inference.lock:
        stages = [
            _stage("queue", inference.queue),
            _stage("compute_input", inference.compute_input),
            *(_stage(f"compute_infer, {variant}", one) for variant, one in inference.compute_infer.items()),
            _stage("compute_output", inference.compute_output),
        ]
        batches = tuple(
            Batch(rows=rows, runs=batch.count, mean_seconds=batch.compute_infer / batch.count)
            for rows, batch in sorted(inference.batches.items())
        )
        return Traffic(
            calls=_calls(requests),
            stages=tuple(stages),
            batches=batches,
            rows=inference.inferences,
            runs=inference.executions,
            waiting=inference.waiting(),
            last_inference=inference.last_inference_ms / 1000 or None,
        )


def _calls(requests: Iterable[RequestMetrics]) -> tuple[Calls, ...]:
    """By method, the models taken together."""
    by_method: dict[str, list[RequestMetrics]] = defaultdict(list)
    for one in requests:
        by_method[one.labels[2]].append(one)
    return tuple(
        Calls(method=method, codes=_codes(those), duration=_durations(_together(those)))
        for method, those in sorted(by_method.items())
    )


def _codes(requests: Iterable[RequestMetrics]) -> dict[str, int]:
    codes: Counter[str] = Counter()
    for one in requests:
        with one.lock:
            codes += one.codes
    return dict(codes.most_common())


def _together(requests: Iterable[RequestMetrics]) -> Histogram:
    together = durations()
    for one in requests:
        with one.lock:
            together = together.plus(one.duration)
    return together


def _stage(name: str, histogram: Histogram) -> Stage:
    return Stage(name=name, duration=_durations(histogram))


def _durations(histogram: Histogram) -> Durations:
    count = histogram.count
    return Durations(
        count=count,
        mean=histogram.sum / count if count else None,
        p50=histogram.quantile(0.5),
        p99=histogram.quantile(0.99),
    )


def _largest(outputs: Iterable[OutputParity]) -> float | None:
    return max((one.relative_l2 for one in outputs), default=None)
