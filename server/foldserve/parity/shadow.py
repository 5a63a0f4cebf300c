"""Parity in service: a sample of a model's answers, compared with what its unfolded form answers.

The request path only draws a random number, and hands over what it has; nothing waits. A worker of lower
priority runs the sample on the unfolded, unoptimised reference and compares.
"""

import random
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Protocol

import numpy as np

from foldserve.observability.logging import get_logger
from foldserve.observability.parity import DriftScores, ParityMetrics, WindowParity
from foldserve.parity.breach import Breach, worst_row
from foldserve.parity.breach_folder import BreachFolder
from foldserve.parity.breaker import Breaker
from foldserve.parity.drift import DriftMonitor, DriftReport
from foldserve.parity.live_comparison import Comparison, LiveComparison
from foldserve.parity.measures import is_float
from foldserve.parity.report import BreachReport, LiveParity, OutputParity
from foldserve.parity.sample import Arrays, Sample
from foldserve.parity.shadow_worker import REST_AFTER_S, ShadowWorker
from foldserve.parity.statistics import Statistics
from foldserve.runtime.session import Array
from foldserve.settings import ParityBudget, ReferenceMode, ShadowSettings

LARGEST_CHECK_ROWS = 8
"""Rows of a larger request that are compared, where rows do not depend on each other."""

LONGEST_CHECK_S = 2.0
"""Processor time that a check should not exceed: fewer rows are compared where more would."""

log = get_logger()


class LiveReference(Protocol):
    """The unfolded, unoptimised model; used by one thread."""

    statistics: Statistics | None
    """Of its BatchNorms, by which the drift of the inputs is seen; None where it has none, or before it was
    opened."""

    def open(self) -> object:
        """Open the model if it is not."""

    def run(self, inputs: Arrays, outputs: Sequence[str]) -> list[Array]:
        """The named outputs; the model is opened if it is not."""

    def rest(self) -> None:
        """Give its memory back; :meth:`run` opens it again."""

    def close(self) -> None:
        """Give back all that it holds, for good."""


class Shadow:
    """Compares a share of the answers of one model version.

    ``budgets`` has one for each output. ``on_trip`` is told the breaches that are too many, by the worker's
    thread; nothing more is told until the breaker is rearmed or reset.
    """

    def __init__(
        self,
        settings: ShadowSettings,
        budgets: Mapping[str, ParityBudget],
        reference: LiveReference,
        worker: ShadowWorker,
        metrics: ParityMetrics,
        *,
        on_trip: Callable[[Sequence[Breach]], None],
        breach_folder: BreachFolder | None = None,
    ) -> None:
        self.metrics = metrics
        self.comparison = LiveComparison(budgets)
        self.breaker = Breaker(window=settings.window, breaches=settings.breaches)
        self._log = log.bind(model=metrics.labels[0], version=metrics.labels[1])
        self._settings = settings
        self._reference = reference
        self._worker = worker
        self._on_trip: Callable[[Sequence[Breach]], None] | None = on_trip
        self._breach_folder = breach_folder
        self._last_breach: BreachReport | None = None
        self._reference_failure = ""
        self._answers_the_same: bool | None = None
        self._drift: DriftMonitor | None = None
        self._element_s: float | None = None
        self._checked_at = time.monotonic()
        if settings.reference is ReferenceMode.RESIDENT:
            worker.submit(self._open)
        else:
            worker.regularly(self._rest)

    @property
    def generation(self) -> int:
        """Changes with each :meth:`reset`: which answers are to be trusted again."""
        return self.breaker.generation

    def offer(self, inputs: Arrays, outputs: Iterable[tuple[str, Array]], rows: int, generation: int) -> None:
        """Have a request and its answer compared if it is drawn; never waits.

        Of several ``rows`` a part may stand for the request. ``generation`` is that from before it ran.
        """
        if random.random() >= self._settings.sample_rate:
            return
        sample = Sample(inputs, dict(outputs), rows)
        sample = sample.head(self._affordable_rows(sample))
        if not self._worker.offer(lambda: self._check(sample, generation), sample.held_bytes()):
            self.metrics.count("dropped")

    def reset(self) -> None:
        """Forget the breaches, and trust again; what was asked for before counts no more."""
        self.breaker.reset()
        self.comparison.forget_mismatches()
        self._publish_window()

    def report(self) -> LiveParity:
        """What was found so far."""
        metrics, breaker = self.metrics, self.breaker
        return LiveParity(
            checks=dict(metrics.checks),
            window_checks=breaker.checks,
            window_breaches=breaker.breaches,
            most_breaches=self._settings.breaches,
            outputs=tuple(
                OutputParity(
                    output=name,
                    relative_l2=found.relative_l2,
                    scaled_max=found.scaled_max,
                    top1_agreement=found.top1_agreement,
                    mismatches=found.mismatches,
                    within_budget=kept,
                )
                for name, found, kept in breaker.worst()
            ),
            last_breach=self._last_breach,
            reference_bytes=metrics.reference_bytes(),
            reference_failure=self._reference_failure,
        )

    def drift(self) -> DriftReport | None:
        """How far the inputs are from those of training; None where that cannot be known, or not yet."""
        return self._drift.report() if self._drift is not None else None

    def close(self) -> None:
        """Compare nothing more; the worker gives the reference back, after a check that it may be at."""
        self._on_trip = None  # what it calls knows the servable, which else waited for the collector
        self._worker.forget(self._rest)
        self._worker.submit(self._reference.close)

    @property
    def _is_closed(self) -> bool:
        return self._on_trip is None

    def _affordable_rows(self, sample: Sample) -> int:
        """How many rows may be compared: one at first, then as many as do not take too long."""
        if self._element_s is None or not sample.rows:
            return 1
        row_s = self._element_s * sample.elements / sample.rows
        return max(1, min(LARGEST_CHECK_ROWS, int(LONGEST_CHECK_S / max(row_s, 1e-9))))

    def _open(self) -> None:
        if not self._is_closed:
            try:
                self._reference.open()
                self._taps()
            except Exception as error:
                self._tell_failure(error)

    def _rest(self) -> None:
        if time.monotonic() - self._checked_at >= REST_AFTER_S:
            self._reference.rest()

    def _check(self, sample: Sample, generation: int) -> None:
        if self._is_closed:
            return
        try:
            comparison, expected = self._compared(sample)
            breach = self._breach(comparison, sample, expected) if comparison.breaching else None
        except Exception as error:
            self.metrics.count("error")
            self._tell_failure(error)
            return
        finally:
            self._checked_at = time.monotonic()
        self._reference_failure = ""
        if comparison.inconclusive:
            self.metrics.count("inconclusive")
            return
        self.metrics.count("breach" if comparison.breaching else "ok")
        too_many = self.breaker.observe(comparison, breach, generation)
        self._publish_window()
        on_trip = self._on_trip
        if too_many and on_trip is not None:
            on_trip(too_many)
        if breach is not None:
            self._tell(breach)

    def _compared(self, sample: Sample) -> tuple[Comparison, Arrays]:
        """The comparison, and what the reference answers; counts what that took, and the inputs' drift."""
        if self._answers_the_same is False:
            raise _Random
        names = list(sample.outputs)
        self._reference.open()
        taps = self._taps()
        started = time.thread_time()
        answers = self._reference.run(sample.inputs, [*names, *taps])
        spent_s = time.thread_time() - started
        self._element_s = spent_s / max(sample.elements, 1)
        self.metrics.count_reference(spent_s, sample.rows)
        expected = dict(zip(names, answers, strict=False))
        self._require_the_same_again(sample, expected)
        if self._drift is not None and (report := self._drift.observe(answers[len(names) :], sample.rows)):
            self.metrics.drift = _scores(report)
        comparison = self.comparison.of(expected, sample.outputs)
        if comparison.breaching and not all(np.isfinite(tap).all() for tap in answers[len(names) :]):
            # It overflowed inside, which what follows may hide: a sigmoid, a clip, an arg-max.
            comparison = replace(comparison, distances={}, breaching=frozenset(), inconclusive=True)
        for name, found in comparison.distances.items():
            self.metrics.observe(name, found.relative_l2, found.scaled_max)
        return comparison, expected

    def _require_the_same_again(self, sample: Sample, expected: Arrays) -> None:
        """Raise :class:`_Random` for a model that answers differently each time it is asked."""
        if self._answers_the_same is None:
            again = self._reference.run(sample.inputs, list(expected))
            pairs = zip(expected.values(), again, strict=True)
            self._answers_the_same = all(_equal(first, second) for first, second in pairs)
        if not self._answers_the_same:
            raise _Random

    def _breach(self, comparison: Comparison, sample: Sample, expected: Arrays) -> Breach:
        evidence = self.comparison.evidence(comparison)
        has_rows = all(expected[name].shape == sample.outputs[name].shape for name in comparison.breaching)
        if has_rows and sample.rows > 1:
            sample, expected = worst_row(comparison.breaching, sample, expected)
        return Breach(time.time(), evidence, comparison.breaching, sample, expected, comparison.sizes)

    def _taps(self) -> Sequence[str]:
        """The outputs of the reference that show the inputs' drift."""
        statistics = self._reference.statistics
        if statistics is None:
            return ()
        if self._drift is None:
            self._drift = DriftMonitor(statistics, self._settings.drift_window)
        return statistics.outputs

    def _tell_failure(self, error: Exception) -> None:
        """Log why answers cannot be compared, once for each reason."""
        reason = str(error) or type(error).__name__
        if reason != self._reference_failure and not self._is_closed:
            self._log.warning("answers cannot be compared with the unfolded model's", reason=reason)
        self._reference_failure = reason

    def _tell(self, breach: Breach) -> None:
        self._last_breach = BreachReport(at=breach.at_s, evidence=breach.evidence)
        kept = None
        if self._breach_folder is not None:
            name = "-".join(self.metrics.labels)
            kept = self._breach_folder.keep(
                name, breach.sample.inputs, breach.sample.outputs, breach.expected
            )
        self._log.error(
            "parity breach in service", evidence=breach.evidence, **({"kept": str(kept)} if kept else {})
        )

    def _publish_window(self) -> None:
        self.metrics.window = {
            name: WindowParity(found.relative_l2, found.scaled_max, found.top1_agreement)
            for name, found, _ in self.breaker.worst()
        }


class _Random(Exception):
    """A model that does not repeat its answers."""

    def __str__(self) -> str:
        return (
            "the model answers differently each time it is asked, so nothing can be compared; "
            "remove what is random from it, or set shadow.reference to off"
        )


def _equal(first: Array, second: Array) -> bool:
    return np.array_equal(first, second, equal_nan=is_float(first.dtype))


def _scores(report: DriftReport) -> DriftScores:
    layers = {
        (layer.layer, measure): score
        for layer in report.layers
        for measure, score in (("mean", layer.mean), ("variance", layer.variance))
    }
    overall, baseline = (
        {} if scores is None else {"mean": scores.mean, "variance": scores.variance}
        for scores in (report.overall, report.baseline)
    )
    return DriftScores(layers, overall, baseline, report.windows)
