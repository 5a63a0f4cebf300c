"""When parity breaks in service another form of the model takes over, and nobody waits for it.

An engine that was chosen for its speed gives way to the baseline engine, that to the unfolded model: a step
at a time. What broke parity goes on answering until another session is open that has proven itself on the
very inputs that broke it; then one assignment swaps the two. What runs just then finishes where it began.
Where the unfolded model breaks parity as well, it is the runtime's optimisation, and the next one has less of
it; the last of them is what the reference itself runs on.

Then float64 is asked whether the answers that broke parity were right: it takes its time. If they were, the
fold answers again, for what the caller sent made the *original* inaccurate, on purpose perhaps. It is asked
first where nothing is left but a form that is much slower, and for an hour after it spoke for the fold.
"""

import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from math import sqrt

from foldserve.errors import FoldserveError
from foldserve.observability.logging import get_logger
from foldserve.parity.breach import Breach
from foldserve.parity.judge import Dispute, Float64Judge, settle
from foldserve.parity.live_comparison import compare, within
from foldserve.parity.measures import Size
from foldserve.parity.shadow import Shadow
from foldserve.runtime.engines import baseline, is_baseline
from foldserve.runtime.session import Session
from foldserve.serving.ladder import LESS, Optimisation, Variant
from foldserve.serving.opening import Opening, in_words
from foldserve.serving.original import Original
from foldserve.serving.original_record import ORIGINAL
from foldserve.serving.reshaped import reshaped, reshaped_judge
from foldserve.serving.servable import Fallback, Servable
from foldserve.settings import ProviderChoice

PARITY_BREACH = "parity_breach"
"""The reason that is counted."""

ASKED_FIRST_S = 3600.0
"""For so long, in seconds, after float64 said that the fold was right, it is asked before a swap."""

ASKING_SHARE = 0.1
"""Largest share of that time for asking: what callers send must not keep a core busy."""

PATIENCE_S = 60.0
"""Longest that answers which may be wrong go on because float64 is asked first."""

LONGEST_RULING_S = 600.0
"""Longest that float64 is asked for afterwards, when nobody waits: on a busy machine it gets what is left."""

FIRST_PAUSE_S = 1.0
LONGEST_PAUSE_S = 300.0
"""After an attempt that failed, in seconds; each pause is twice the one before."""

log = get_logger()


class Ruling(StrEnum):
    """What float64 says of the answers that broke parity."""

    WRONG = "wrong"
    RIGHT = "right"
    UNDECIDED = "undecided"


@dataclass(frozen=True)
class Rung:
    """One way to run the model that may take over."""

    variant: Variant
    provider: ProviderChoice
    optimisation: Optimisation


@dataclass(frozen=True)
class Replacement:
    """A rung that answers rightly what broke parity, open."""

    index: int
    session: Session


class TakeOver:
    """Decides what becomes of one servable whose answers broke parity too often.

    ``judging`` is held while float64 is asked: for one model at a time.
    """

    def __init__(
        self,
        servable: Servable,
        shadow: Shadow,
        original: Original,
        opening: Opening,
        judging: threading.Lock,
    ) -> None:
        self._servable = servable
        self._shadow = shadow
        self._original = original
        self._opening = opening
        self._judging = judging
        self._rungs = rungs(servable)
        self._stands_on = -1
        self._swaps_from_fold = 0
        self._asked_first_until = self._ask_again_at = self._try_again_at = 0.0
        self._pause_s = FIRST_PAUSE_S
        self._deciding = threading.Lock()
        self._log = log.bind(model=servable.name, version=servable.version)

    def __call__(self, breaches: Sequence[Breach]) -> None:
        """Swap to what is more exact, and ask float64 about the answers if it was the fold that gave them."""
        with self._deciding:
            try:
                is_to_be_asked = self._decide(breaches)
            finally:
                self._shadow.breaker.rearm()
            swap = self._swaps_from_fold
        if not is_to_be_asked:
            return
        with self._judging:
            ruling = self._ruling(breaches, LONGEST_RULING_S)
        with self._deciding:
            if ruling is Ruling.RIGHT and swap == self._swaps_from_fold:
                self._servable.reset_fallback()

    def _decide(self, breaches: Sequence[Breach]) -> bool:
        """Swap, or leave it as it is; True if float64 is to be asked about the fold afterwards."""
        if not self._shadow.breaker.tripped:
            return False  # somebody decided meanwhile to trust it again
        current, now = self._servable.fallback, time.monotonic()
        # An engine that was taken for its speed is given up without asking: the next one is at hand.
        has_rival = not is_baseline(self._servable.provenance.engine)
        is_fold = current is None and not has_rival
        # What took over from a rival is the fold as it was proven: float64 is asked before it is lost.
        is_proven = current is not None and has_rival and self._stands_on == 0
        is_trusted = is_proven or (is_fold and now < self._asked_first_until)
        if now < (self._ask_again_at if is_trusted else self._try_again_at):
            return False
        ruling = self._ruling_at_once(breaches) if is_trusted else None
        if ruling is Ruling.RIGHT:
            return False
        replacement = self._replacement(breaches, first=0 if current is None else self._stands_on + 1)
        if replacement is None:
            self._try_again_at = time.monotonic() + self._pause_s
            self._pause_s = min(2 * self._pause_s, LONGEST_PAUSE_S)
            return False
        if ruling is None and self._is_slower(replacement):
            ruling = self._ruling_at_once(breaches)
            if ruling is Ruling.RIGHT:
                replacement.session.close()
                return False
        is_settled = ruling is Ruling.WRONG
        return self._swap(replacement, breaches[-1], instead_of=current) and is_fold and not is_settled

    def _ruling_at_once(self, breaches: Sequence[Breach]) -> Ruling | None:
        """What float64 says; None, and nobody waits, where it is busy with another model's answers."""
        if not self._judging.acquire(blocking=False):
            return None
        try:
            ruling = self._ruling(breaches, PATIENCE_S)
        finally:
            self._judging.release()
        if ruling is Ruling.RIGHT:
            self._shadow.reset()
        return ruling

    def _replacement(self, breaches: Sequence[Breach], first: int) -> Replacement | None:
        """The first rung from ``first`` on that answers rightly; None where there is none."""
        reason = "nothing is left that is more exact"
        for index in range(first, len(self._rungs)):
            try:
                session = self._opened(self._rungs[index])
                if index == len(self._rungs) - 1 or self._answers_rightly(session, breaches):
                    return Replacement(index, session)
                session.close()
            except (FoldserveError, OSError) as error:
                reason = str(error)
        self._log.error(
            "parity broke in service, and nothing can take over",
            evidence=breaches[-1].evidence,
            reason=reason,
        )
        return None

    def _opened(self, rung: Rung) -> Session:
        provenance = self._servable.provenance
        if rung.variant is provenance.variant and rung.optimisation is provenance.optimisation:
            file = provenance.file
        else:
            file = self._original.files()[0] / ORIGINAL
        session = self._opening.open(file, rung.provider, rung.optimisation, provenance.tuning.layout.threads)
        return reshaped(session, self._opening.settings)

    def _answers_rightly(self, session: Session, breaches: Sequence[Breach]) -> bool:
        """Whether ``session`` answers all inputs that broke parity as the reference does."""
        for breach in breaches:
            names = list(breach.expected)
            answered = dict(zip(names, session.run(breach.sample.inputs, names), strict=True))
            budgets = self._shadow.comparison.budgets
            if compare(breach.expected, answered, budgets, breach.sizes).breaching:
                return False
        return True

    def _is_slower(self, replacement: Replacement) -> bool:
        """Whether a rung lacks all optimisation, or the device, that the fold has."""
        rung, provenance = self._rungs[replacement.index], self._servable.provenance
        lost_all = rung.optimisation is Optimisation.OFF is not provenance.optimisation
        return lost_all or rung.provider is not self._rungs[0].provider

    def _swap(self, replacement: Replacement, breach: Breach, *, instead_of: Fallback | None) -> bool:
        """Let it answer from now on; False if the model is being unloaded, or another form answers by now."""
        rung, session = self._rungs[replacement.index], replacement.session
        fallback = Fallback(
            since=breach.at_s,
            reason=PARITY_BREACH,
            evidence=breach.evidence,
            variant=rung.variant,
            engine=baseline(session.provider).name,
            runtime_optimisation=in_words(rung.optimisation),
        )
        given_up = self._servable.engine
        if not self._servable.fall_back(session, fallback, instead_of):
            session.close()
            return False
        self._stands_on = replacement.index
        self._swaps_from_fold += instead_of is None
        self._pause_s = FIRST_PAUSE_S
        self._shadow.reset()
        self._log.error(
            f"parity broke in service: the {fallback.variant} model answers from now on",
            evidence=fallback.evidence,
            engine=fallback.engine,
            instead_of=given_up,
            runtime_optimisation=fallback.runtime_optimisation,
        )
        return True

    def _ruling(self, breaches: Sequence[Breach], time_limit_s: float) -> Ruling:
        """What float64 says; whoever calls holds ``judging``."""
        started = time.monotonic()
        try:
            ruling, reason = self._judged(breaches, time_limit_s)
        except Exception as error:
            ruling, reason = Ruling.UNDECIDED, str(error) or type(error).__name__
        ended = time.monotonic()
        self._shadow.metrics.count_dispute(ruling)
        self._log.warning("float64 was asked about answers that broke parity", ruling=ruling, reason=reason)
        self._asked_first_until = ended + ASKED_FIRST_S if ruling is Ruling.RIGHT else 0.0
        self._ask_again_at = ended + (ended - started) / ASKING_SHARE
        return ruling

    def _judged(self, breaches: Sequence[Breach], time_limit_s: float) -> tuple[Ruling, str]:
        budgets = self._shadow.comparison.budgets
        original = self._original.files()[0] / ORIGINAL
        judge = Float64Judge(original, time_limit_s=time_limit_s, in_background=True)
        report = settle(
            reshaped_judge(judge, self._opening.settings, self._servable.output_names),
            [_dispute(breach) for breach in breaches],
            self._servable.output_names,
            lambda name, found: within(budgets[name], found),
        )
        errors = ", ".join(
            f"'{output.output}': the original's error is {output.original_error:.2g}, the "
            f"answer's {output.candidate_error:.2g}"
            for output in report.outputs
        )
        if not all(output.candidate_acceptable for output in report.outputs):
            return Ruling.WRONG, errors
        if report.failure or report.judged_probes < len(breaches):
            return Ruling.UNDECIDED, report.failure or "not all inputs could be judged"
        return Ruling.RIGHT, errors


def _dispute(breach: Breach) -> Dispute:
    """Measured by the usual sizes alone: a right answer must not be ruled wrong for being nearly 0."""
    least = {
        name: Size(size.norm * sqrt(breach.expected[name].size), size.largest)
        for name, size in breach.sizes.items()
        if name in breach.expected
    }
    return Dispute(breach.sample.inputs, breach.expected, breach.sample.outputs, breach.outputs, least)


def rungs(servable: Servable) -> tuple[Rung, ...]:
    """The ways to run the model that may take over, the fastest first: the baseline engine, as it was proven
    at load, where another answers; then the unfolded model.

    None has an optimisation that the proof at load did without, nor is it what answers already.
    """
    provenance = servable.provenance
    provider = ProviderChoice(servable.provider)
    found: list[Rung] = []
    if not is_baseline(provenance.engine):
        found.append(Rung(provenance.variant, provider, provenance.optimisation))
    optimisation: Optimisation | None = provenance.optimisation
    if provenance.variant is Variant.UNFOLDED:
        optimisation = LESS.get(provenance.optimisation)
    while optimisation is not None:
        found.append(Rung(Variant.UNFOLDED, provider, optimisation))
        optimisation = LESS.get(optimisation)
    if provider is not ProviderChoice.CPU:
        found.append(Rung(Variant.UNFOLDED, ProviderChoice.CPU, Optimisation.OFF))
    return tuple(found)
