"""Parity in service: a sample of a model's answers, compared with what its unfolded form answers.

The request path only draws a random number, and hands over what it has; nothing is copied, nothing waits. A
worker of the lowest priority runs the sample on the unfolded, unoptimised reference and compares.
"""

import random
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from foldserve.errors import FoldserveError
from foldserve.observability.logging import get_logger
from foldserve.observability.parity import DriftScores, ParityMetrics, WindowParity
from foldserve.parity.breach_folder import BreachFolder
from foldserve.parity.breaker import Breaker, Check
from foldserve.parity.drift import DriftMonitor, DriftReport
from foldserve.parity.gate import keeps
from foldserve.parity.measures import distance
from foldserve.parity.report import BreachReport, LiveParity, OutputParity, ParityReport, Verdict
from foldserve.parity.shadow_worker import ShadowWorker
from foldserve.parity.statistics import Statistics
from foldserve.runtime.session import Array
from foldserve.settings import ParityBudget, ReferenceMode, ShadowSettings

LARGEST_CHECK_ROWS = 8
"""Rows of a larger request that are compared, where rows do not depend on each other."""

ALLOWANCE = 3.0
"""Times the distance at load that a model may have in service whose original was judged inaccurate there."""

log = get_logger()


class Reference(Protocol):
    """The unfolded, unoptimised model; used by one thread."""

    statistics: Statistics | None
    """Of its BatchNorms, by which the drift of the inputs is seen; None where it has none, or before it was
    opened."""

    def open(self) -> object:
        """Open the model if it is not. Raises FoldserveError."""

    def run(self, inputs: Mapping[str, Array], outputs: Sequence[str]) -> list[Array]:
        """The named outputs; the model is opened if it is not. Raises FoldserveError."""

    def rest(self) -> None:
        """Give its memory back; :meth:`run` opens it again."""

    def close(self) -> None:
        """Give back all that it holds, for good."""


@dataclass(frozen=True, slots=True, eq=False)
class Sample:
    """One request and what it was answered."""

    inputs: Mapping[str, Array]
    outputs: Mapping[str, Array]
    rows: int

    @property
    def nbytes(self) -> int:
        """Bytes of all arrays."""
        return sum(array.nbytes for array in (*self.inputs.values(), *self.outputs.values()))

    def head(self, rows: int) -> "Sample":
        """The first rows, as views."""
        if self.rows <= rows:
            return self
        return Sample(
            {name: array[:rows] for name, array in self.inputs.items()},
            {name: array[:rows] for name, array in self.outputs.items()},
            rows,
        )


@dataclass(frozen=True, slots=True)
class Breach:
    """A check in which an answer left its budget."""

    at_s: float
    """Seconds since 1970."""

    evidence: str
    """Which outputs, and how far."""

    sample: Sample
    expected: Mapping[str, Array]
    """What the reference answers to it."""


class Shadow:
    """Compares a share of the answers of one model version; ``on_trip`` is told the breach that is too many.

    ``budgets`` has one for each output, ``rows_are_independent`` says whether a part of a request may stand
    for it. ``on_trip`` is called by the worker's thread.
    """

    def __init__(
        self,
        settings: ShadowSettings,
        budgets: Mapping[str, ParityBudget],
        reference: Reference,
        worker: ShadowWorker,
        metrics: ParityMetrics,
        *,
        on_trip: Callable[[Breach], None],
        rows_are_independent: bool,
        breach_folder: BreachFolder | None = None,
    ) -> None:
        self.metrics = metrics
        self._log = log.bind(model=metrics.labels[0], version=metrics.labels[1])
        self._last_breach: Breach | None = None
        self._reference_failure = ""
        self._drift: DriftMonitor | None = None
        self._settings = settings
        self._budgets = budgets
        self._reference = reference
        self._worker = worker
        self._on_trip = on_trip
        self._most_rows = LARGEST_CHECK_ROWS if rows_are_independent else None
        self._breach_folder = breach_folder
        self.breaker = Breaker(window=settings.window, breaches=settings.breaches)
        self._checking = threading.Lock()
        self._closed = False
        if settings.reference is ReferenceMode.RESIDENT:
            worker.submit(self._open)
        else:
            worker.when_idle(self._rest)

    def offer(self, inputs: Mapping[str, Array], outputs: Iterable[tuple[str, Array]], rows: int) -> None:
        """Have a request and its answer compared if it is drawn; never waits."""
        if random.random() >= self._settings.sample_rate:
            return
        sample = Sample(inputs, dict(outputs), rows)
        if self._most_rows is not None:
            sample = sample.head(self._most_rows)
        if not self._worker.offer(lambda: self._check(sample), sample.nbytes):
            self.metrics.count("dropped")

    def reset(self) -> None:
        """Forget what was found, and trust again."""
        with self._checking:
            self.breaker.reset()
            self._publish_window()
            self.metrics.fallback_active = False

    def report(self) -> LiveParity:
        """What was found so far."""
        breach, metrics, breaker = self._last_breach, self.metrics, self.breaker
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
                    within_budget=keeps(self._budgets[name], found),
                )
                for name, found in breaker.worst()
            ),
            last_breach=BreachReport(at=breach.at_s, evidence=breach.evidence) if breach else None,
            reference_bytes=metrics.reference_bytes(),
            reference_failure=self._reference_failure,
        )

    def drift(self) -> DriftReport | None:
        """How far the inputs are from those of training; None where that cannot be known, or not yet."""
        return self._drift.report() if self._drift is not None else None

    def close(self) -> None:
        """Compare nothing more, and give the reference back; waits for a comparison that runs."""
        self._closed = True
        self._worker.forget(self._rest)
        with self._checking:
            self._reference.close()
        self._on_trip = _nothing  # what it calls knows the servable, which else waited for the collector

    def _open(self) -> None:
        with self._checking:
            if self._closed:
                return
            try:
                self._reference.open()
                self._taps()
            except FoldserveError as error:
                self._tell_failure(str(error))

    def _rest(self) -> None:
        with self._checking:
            self._reference.rest()

    def _check(self, sample: Sample) -> None:
        with self._checking:
            if self._closed:
                return
            names = list(sample.outputs)
            started = time.thread_time()
            try:
                self._reference.open()
                taps = self._taps()
                answers = self._reference.run(sample.inputs, [*names, *taps])
            except FoldserveError as error:
                self.metrics.count("error")
                self._tell_failure(str(error))
                return
            expected = dict(zip(names, answers, strict=False))
            self._reference_failure = ""
            self._observe_drift(answers[len(names) :], sample.rows)
            self.metrics.count_reference(time.thread_time() - started, sample.rows)
            check = self._compared(sample, expected)
            trips = self.breaker.observe(check)
            self._publish_window()
            self.metrics.count("breach" if check.breached else "ok")
            if not check.breached:
                return
            breach = Breach(time.time(), _evidence(check, self._budgets), sample, expected)
            self._last_breach = breach
            self._tell(breach)
        if trips:
            self._on_trip(breach)

    def _taps(self) -> Sequence[str]:
        """The outputs of the reference that show the inputs' drift."""
        statistics = self._reference.statistics
        if statistics is None:
            return ()
        if self._drift is None:
            self._drift = DriftMonitor(statistics, self._settings.drift_window)
        return statistics.outputs

    def _observe_drift(self, taps: Sequence[Array], rows: int) -> None:
        if self._drift is not None and (report := self._drift.observe(taps, rows)) is not None:
            self.metrics.drift = _scores(report)

    def _tell_failure(self, reason: str) -> None:
        """Log why answers cannot be compared, once for each reason."""
        if reason != self._reference_failure:
            self._log.warning("answers cannot be compared with the unfolded model's", reason=reason)
        self._reference_failure = reason

    def _compared(self, sample: Sample, expected: Mapping[str, Array]) -> Check:
        distances = {name: distance(expected[name], answered) for name, answered in sample.outputs.items()}
        for name, found in distances.items():
            self.metrics.observe(name, found.relative_l2, found.scaled_max)
        breached = any(not keeps(self._budgets[name], found) for name, found in distances.items())
        return Check(distances, breached)

    def _tell(self, breach: Breach) -> None:
        kept = None
        if self._breach_folder is not None:
            kept = self._breach_folder.keep(
                "-".join(self.metrics.labels), breach.sample.inputs, breach.sample.outputs, breach.expected
            )
        self._log.error(
            "parity breach in service",
            evidence=breach.evidence,
            breaches=f"{self.breaker.breaches} of the last {self.breaker.checks} checks",
            **({"kept": str(kept)} if kept else {}),
        )

    def _publish_window(self) -> None:
        self.metrics.window = {
            name: WindowParity(found.relative_l2, found.scaled_max, found.top1_agreement)
            for name, found in self.breaker.worst()
        }


def budgets_in_service(report: ParityReport, outputs: Iterable[str]) -> dict[str, ParityBudget]:
    """How far each of ``outputs`` may be from the reference in service, by the proof at load.

    As far as at load; further where float64 found there that it is the original that is inaccurate: the
    distance between the two is then its error, and stays.
    """
    budgets = dict.fromkeys(outputs, report.budget)
    if report.verdict is Verdict.ORIGINAL_INACCURATE:
        for found in report.outputs:
            budgets[found.output] = ParityBudget(
                relative_l2=max(report.budget.relative_l2, ALLOWANCE * found.relative_l2),
                scaled_max=max(report.budget.scaled_max, ALLOWANCE * found.scaled_max),
            )
    return budgets


def _nothing(_: Breach) -> None:
    """What a trip does once nothing serves any more."""


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


def _evidence(check: Check, budgets: Mapping[str, ParityBudget]) -> str:
    return ", ".join(
        f"'{name}': relative L2 {found.relative_l2:.2g} (budget {budgets[name].relative_l2:.2g}), "
        f"scaled max {found.scaled_max:.2g} (budget {budgets[name].scaled_max:.2g})"
        + (f", {found.mismatches} elements that are no match" if found.mismatches else "")
        for name, found in check.distances.items()
        if not keeps(budgets[name], found)
    )
