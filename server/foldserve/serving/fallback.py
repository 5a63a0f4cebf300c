"""When parity breaks in service the unfolded model takes over, and nobody waits for it or notices.

The fold goes on answering until another session is open that has proven itself on the very inputs that broke
parity; then one assignment swaps the two. What runs at that moment finishes where it began. Where that model
breaks parity as well, it is the runtime's optimisation, and the next one has less of it; the last of them is
what the reference itself runs on.

Only then float64 is asked who was right: it takes its time. If the fold was, it answers again, for what the
caller sent made the *original* inaccurate, on purpose perhaps; and for an hour float64 is asked first.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from foldserve.errors import FoldserveError
from foldserve.observability.logging import get_logger
from foldserve.parity.breach import Breach
from foldserve.parity.judge import Dispute, Float64Judge, settle
from foldserve.parity.live_comparison import LiveComparison
from foldserve.parity.shadow import Shadow
from foldserve.runtime.session import Session
from foldserve.serving.ladder import LESS, Optimisation, Variant
from foldserve.serving.opening import Opening, in_words
from foldserve.serving.original import Original
from foldserve.serving.original_record import ORIGINAL
from foldserve.serving.reshaped import reshaped
from foldserve.serving.servable import Fallback, Servable
from foldserve.settings import ProviderChoice

PARITY_BREACH = "parity_breach"
"""The reason that is counted."""

ASKED_FIRST_S = 3600.0
"""For so long, in seconds, after float64 said that the fold is right, it is asked before a swap."""

log = get_logger()


class Ruling(StrEnum):
    """What float64 says about the breaches."""

    FOLD_WRONG = "fold_wrong"
    FOLD_RIGHT = "fold_right"
    UNDECIDED = "undecided"


@dataclass(frozen=True)
class Rung:
    """One way to run the unfolded model."""

    provider: ProviderChoice
    optimisation: Optimisation


class TakeOver:
    """Decides what becomes of one servable whose answers broke parity too often; for one thread."""

    def __init__(self, servable: Servable, shadow: Shadow, original: Original, opening: Opening) -> None:
        self.servable = servable
        self._shadow = shadow
        self._original = original
        self._opening = opening
        self._rungs = rungs(servable)
        self._stands_on = -1
        self._asked_first_until = 0.0
        self._log = log.bind(model=servable.name, version=servable.version)

    def __call__(self, breaches: Sequence[Breach]) -> bool:
        """Swap to the unfolded model, or to one with less optimisation, and ask float64 about the fold.

        Whatever comes of it, checks are counted anew afterwards, so that it can come to this again. True if
        something was swapped.
        """
        is_fold = self.servable.fallback is None
        try:
            if not self._shadow.breaker.tripped:
                return False  # somebody decided meanwhile to trust it again
            if is_fold and time.monotonic() < self._asked_first_until and self._is_right(breaches):
                return False
            swapped = self._swap(breaches, first=0 if is_fold else self._stands_on + 1)
            if swapped and is_fold and self._is_right(breaches):
                self.servable.reset_fallback()
            return swapped
        finally:
            self._shadow.reset()

    def _swap(self, breaches: Sequence[Breach], first: int) -> bool:
        """Let the first of the rungs from ``first`` on that answers rightly take over; whether one could."""
        for index in range(first, len(self._rungs)):
            rung, is_last = self._rungs[index], index == len(self._rungs) - 1
            try:
                session = self._opened(rung)
                if not is_last and not self._answers_rightly(session, breaches):
                    session.close()
                    continue
            except (FoldserveError, OSError) as error:
                self._log.error("the unfolded model cannot be opened to take over", reason=str(error))
                continue
            fallback = Fallback(
                since=breaches[-1].at_s,
                reason=PARITY_BREACH,
                evidence=breaches[-1].evidence,
                runtime_optimisation=in_words(rung.optimisation),
            )
            if self.servable.fall_back(session, fallback):
                self._stands_on = index
                self._log.error(
                    "parity broke in service: the unfolded model answers from now on",
                    evidence=fallback.evidence,
                    runtime_optimisation=fallback.runtime_optimisation,
                    provider=session.provider,
                )
                return True
            return False  # it is being unloaded
        self._log.error(
            "parity broke in service, and nothing could take over", evidence=breaches[-1].evidence
        )
        return False

    def _opened(self, rung: Rung) -> Session:
        folder, _ = self._original.files()
        threads = self.servable.provenance.tuning.layout.threads
        session = self._opening.open(folder / ORIGINAL, rung.provider, rung.optimisation, threads)
        return reshaped(session, self._opening.settings)

    def _answers_rightly(self, session: Session, breaches: Sequence[Breach]) -> bool:
        """Whether ``session`` answers all inputs that broke parity as the reference does."""
        comparison = LiveComparison(self._shadow.comparison.budgets)
        for breach in breaches:
            names = list(breach.expected)
            answered = dict(zip(names, session.run(breach.sample.inputs, names), strict=True))
            if comparison.of(breach.expected, answered).breaching:
                return False
        return True

    def _is_right(self, breaches: Sequence[Breach]) -> bool:
        """Whether float64 says that the fold was right."""
        ruling, reason = self._ruling(breaches)
        self._shadow.metrics.count_dispute(ruling)
        self._log.warning("float64 was asked about the breaches", ruling=ruling, reason=reason)
        if ruling is Ruling.FOLD_RIGHT:
            self._asked_first_until = time.monotonic() + ASKED_FIRST_S
        return ruling is Ruling.FOLD_RIGHT

    def _ruling(self, breaches: Sequence[Breach]) -> tuple[Ruling, str]:
        if self.servable.provenance.variant is not Variant.FOLDED:
            return Ruling.UNDECIDED, "it was the unfolded model that answered, optimised by the runtime"
        names = [spec.name for spec in self.servable.outputs]
        disputes = [
            Dispute(breach.sample.inputs, breach.expected, breach.sample.outputs, breach.outputs)
            for breach in breaches
        ]
        report = settle(Float64Judge(self._original.files()[0] / ORIGINAL), disputes, names)
        errors = ", ".join(
            f"'{output.output}': the original's error is {output.original_error:.2g}, the fold's "
            f"{output.candidate_error:.2g}"
            for output in report.outputs
        )
        if not all(output.candidate_acceptable for output in report.outputs):
            return Ruling.FOLD_WRONG, errors
        if report.failure or report.judged_probes < len(breaches):
            return Ruling.UNDECIDED, report.failure or "not all inputs could be judged"
        return Ruling.FOLD_RIGHT, errors


def rungs(servable: Servable) -> tuple[Rung, ...]:
    """The ways to run the unfolded model that may take over, the fastest first.

    None has an optimisation that the proof at load did without, nor is it what answers already.
    """
    provenance = servable.provenance
    provider = ProviderChoice(servable.provider)
    optimisation: Optimisation | None = provenance.optimisation
    if provenance.variant is Variant.UNFOLDED:
        optimisation = LESS.get(provenance.optimisation)
    found: list[Rung] = []
    while optimisation is not None:
        found.append(Rung(provider, optimisation))
        optimisation = LESS.get(optimisation)
    if provider is not ProviderChoice.CPU:
        found.append(Rung(ProviderChoice.CPU, Optimisation.OFF))
    return tuple(found)
