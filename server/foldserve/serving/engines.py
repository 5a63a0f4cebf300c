"""Trying the engines on a model: opened, compared with the original, and timed in turn with the baseline."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from statistics import median
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from foldserve.errors import ExecutionFailed
from foldserve.observability.logging import get_logger
from foldserve.parity.evidence import Evidence
from foldserve.parity.gate import prove
from foldserve.parity.probes import Probe, ProbeSet
from foldserve.parity.report import ParityReport
from foldserve.runtime.engines import BY_NAME, Engine, baseline, rivals
from foldserve.runtime.memory import resident_bytes, return_freed_memory
from foldserve.runtime.session import Session
from foldserve.runtime.tuning import Layout, Measurement, Tuning, look_at
from foldserve.serving.artefacts import file_of
from foldserve.serving.batcher import rows_of
from foldserve.serving.conversion import convert
from foldserve.serving.engine_choice import EngineReport, EngineTrial, choose_engine
from foldserve.serving.ladder import Optimisation
from foldserve.serving.opening import Opening
from foldserve.serving.tune import LARGEST_TRIED, batches_of, measuring
from foldserve.settings import Objective, Precision

if TYPE_CHECKING:
    from foldserve.parity.reference import Reference

log = get_logger()

ROUNDS = 3
"""So often an engine is timed in turn with the baseline."""

HOPEFUL = 0.8
"""An engine of this speed at the baseline's best layout may overtake it at its own."""

LOOK_S = 0.05
"""For so long each time, in seconds, or for one run where that takes longer."""

OpenWith = Callable[[Layout], Session]
Tune = Callable[[Engine, OpenWith, Evidence, bool], tuple[Tuning, Session | None]]
"""The tuning of an engine, whose sessions it opens; told the inputs, and whether rows are independent."""

Speeds = tuple[Measurement, Measurement]
"""Of single rows, and of an engine's best batches."""

OpenSessions = Mapping[Layout, Session]
"""Sessions that are open already, by what they were opened for."""

NOT_OPEN: OpenSessions = MappingProxyType({})


@dataclass(frozen=True)
class Tuned:
    """A session, open for the layout that suits it best."""

    session: Session
    tuning: Tuning


@dataclass(frozen=True)
class Contest:
    """What engines are tried on, and how."""

    opening: Opening
    file: Path
    """The form of the model that was chosen; conversions are written beside it."""

    optimisation: Optimisation
    """What the runtime may do to it."""

    reference: "Reference"
    probes: ProbeSet
    parity: ParityReport
    """The proof of the baseline."""

    evidence: Evidence | None
    """The inputs that engines are timed with; None where there are none, so that nothing can be tried."""

    batches: bool
    """Whether requests may share a run."""

    tune: Tune | None
    """None where engines are not to be tried: the process ended when this model was opened before."""

    def held(self, proven: Session, layout: Layout) -> tuple[EngineReport, OpenSessions]:
        """All engines of the device tried; the report, and the baseline's session if that one serves.

        ``proven`` is the baseline's, open for ``layout``; what is returned may be another one that answers
        the same. Raises the exceptions under LoadFailed where it cannot be opened for another layout.
        """
        first = baseline(proven.provider)
        others = rivals(first.provider, self.opening.settings.precisions)
        if self.tune is None:
            ended = "not tried: the process ended when this model was opened before"
            return only(first, [_unavailable(engine, ended) for engine in others]), {layout: proven}
        missing = [_unavailable(engine, engine.missing() or self._forbidden(engine)) for engine in others]
        if self.evidence is None or all(trial.failure for trial in missing):
            return only(first, missing), {layout: proven}
        contenders = _Contenders(self, self.evidence, self.tune)
        tuned = contenders.tuned(first, {layout: proven})
        open_baseline = NOT_OPEN
        if tuned.session is proven or self.evidence.holds(tuned.session, self.parity.budget):
            open_baseline = {tuned.tuning.layout: tuned.session}
        try:
            trials = [contenders.baseline_trial(first, tuned)]
        except ExecutionFailed as error:  # such batches fail in service as well; a single row may not
            why = f"the baseline cannot be timed: {error}"
            _close_unless_in(open_baseline, tuned.session)
            return only(first, [_unavailable(engine, why) for engine in others]), open_baseline
        for engine, trial in zip(others, missing, strict=True):
            trials.append(trial if trial.failure else contenders.trial(engine, tuned))
            return_freed_memory()
        report = choose_engine(trials, self.parity.budget)
        contenders.forget_conversions(others, but=BY_NAME[report.engine])
        _tell(self.opening.name, report)
        if report.engine != first.name:
            open_baseline = NOT_OPEN
        _close_unless_in(open_baseline, tuned.session)
        return report, open_baseline

    def _forbidden(self, engine: Engine) -> str:
        """Why the budget is not for this engine's precision, whatever its size; empty if it is."""
        own, applied = self.opening.settings.parity, self.parity.budget
        is_widened = own.relative_l2 < applied.relative_l2 or own.scaled_max < applied.scaled_max
        if not is_widened or engine.precision is Precision.FLOAT32:
            return ""
        return "the budget is wider for the model's own half precision; set parity to allow another one"


@dataclass(frozen=True)
class _Contenders:
    """The sessions of a contest, and what is found out about them."""

    contest: Contest
    evidence: Evidence
    tune: Tune

    def trial(self, engine: Engine, first: Tuned) -> EngineTrial:
        """One engine beside ``first``, the baseline; one that is far slower is not tuned."""
        contest, before = self.contest, resident_bytes()
        with ExitStack() as sessions:
            try:
                self._convert(engine)
                rival = Tuned(self._opened(engine, first.tuning.layout), first.tuning)
                sessions.callback(rival.session.close)
                report = prove(contest.reference, rival.session, contest.probes, contest.parity.budget)
                wanted = sum(contest.reference.takes(probe) for probe in contest.probes.probes)
                if len(report.probes.shapes) < wanted:
                    return _unavailable(engine, report.explanation)
                timed = self._timed(rival, first, rounds=1)
                if timed["speedup"] >= HOPEFUL:
                    rival = self.tuned(engine, {first.tuning.layout: rival.session})
                    sessions.callback(rival.session.close)
                    timed = self._timed(rival, first, rounds=ROUNDS)
            except Exception as error:  # no rival may cost the model
                return _unavailable(engine, str(error) or type(error).__name__)
            return EngineTrial(
                engine=engine.name,
                precision=engine.precision,
                execution=rival.session.execution,
                memory_bytes=max(0, resident_bytes() - before),
                **_answered(report),
                **timed,
            )

    def baseline_trial(self, engine: Engine, tuned: Tuned) -> EngineTrial:
        with measuring:
            single, batch = self._speeds(tuned)
        return EngineTrial(
            engine=engine.name,
            precision=engine.precision,
            execution=tuned.session.execution,
            speedup=1.0,
            rows_per_s=batch.rows_per_s,
            row_seconds=single.seconds,
            **(_answered(self.contest.parity) if self.contest.parity.passed else {}),
        )

    def _timed(self, tuned: Tuned, first: Tuned, rounds: int) -> dict[str, Any]:
        """How fast a session is, and how many times as fast as the baseline: measured in turn."""
        self._run(tuned)(self._rows(tuned))  # the first run of so many rows prepares for the next ones
        with measuring:
            pairs = [(self._speeds(first), self._speeds(tuned)) for _ in range(rounds)]
        measure = single_row if self.contest.opening.settings.objective is Objective.LATENCY else throughput
        return {
            "speedup": median(measure(own) / measure(other) for other, own in pairs),
            "rows_per_s": median(batch.rows_per_s for _, (_, batch) in pairs),
            "row_seconds": median(single.seconds for _, (single, _) in pairs),
        }

    def _speeds(self, tuned: Tuned) -> Speeds:
        """One look at single rows, and one at the best batches."""
        layout, run = tuned.tuning.layout, self._run(tuned)
        single = look_at(Layout(instances=1, threads=layout.threads), 1, run, fewest=1, longest_s=LOOK_S)
        return single, look_at(layout, self._rows(tuned), run, fewest=1, longest_s=LOOK_S)

    def _run(self, tuned: Tuned) -> Callable[[int], object]:
        probe = self.evidence.probe
        if not self.contest.batches:
            return lambda _: tuned.session.run(probe)
        return lambda rows: tuned.session.run(self._batch_of(rows))

    @cached_property
    def _batch_of(self) -> Callable[[int], Probe]:
        return batches_of(self.evidence.probe)

    def _rows(self, tuned: Tuned) -> int:
        """Rows of its best batch."""
        if not self.contest.batches:
            return rows_of(self.evidence.probe)
        return min(tuned.tuning.most_rows, LARGEST_TRIED)

    def tuned(self, engine: Engine, at_hand: OpenSessions = NOT_OPEN) -> Tuned:
        """An engine at its best; raises what opening it raises."""
        contest = self.contest
        unused = dict(at_hand)

        def open_with(layout: Layout) -> Session:
            return unused.pop(layout, None) or self._opened(engine, layout)

        tuning, session = self.tune(engine, open_with, self.evidence, contest.batches)
        session = session or open_with(tuning.layout)
        for other in unused.values():
            other.close()
        return Tuned(session, tuning)

    def _opened(self, engine: Engine, layout: Layout) -> Session:
        contest = self.contest
        file = self.converted(engine) if engine.runs_conversion else contest.file
        return contest.opening.open_engine(engine, file, layout, contest.optimisation)

    def converted(self, engine: Engine) -> Path:
        """The file of the conversion that an engine runs."""
        return self.contest.file.with_name(file_of(engine))

    def forget_conversions(self, engines: Sequence[Engine], but: Engine) -> None:
        """Remove the files that were written in vain."""
        kept = self.converted(but)
        for engine in engines:
            if engine.runs_conversion and self.converted(engine) != kept:
                self.converted(engine).unlink(missing_ok=True)

    def _convert(self, engine: Engine) -> None:
        """Write what the engine runs, if that is a conversion and not there yet."""
        file = self.converted(engine)
        if engine.runs_conversion and not file.exists():
            convert(self.contest.file, engine.precision, self.contest.probes, file)


def single_row(speeds: Speeds) -> float:
    """Answers per second of a caller who waits for each."""
    return 1 / speeds[0].seconds


def throughput(speeds: Speeds) -> float:
    """Rows per second, in batches."""
    return speeds[1].rows_per_s


def only(engine: Engine, missing: Sequence[EngineTrial] = ()) -> EngineReport:
    """The report where no engines were tried: the one that serves, and those that are missing here."""
    trial = EngineTrial(engine=engine.name, precision=engine.precision)
    return EngineReport(
        engine=engine.name,
        trials=(trial, *missing),
        why_not={other.engine: other.failure or "there is no input to try it on" for other in missing},
    )


def _close_unless_in(kept: OpenSessions, session: Session) -> None:
    if session not in kept.values():
        session.close()


def _unavailable(engine: Engine, why: str) -> EngineTrial:
    return EngineTrial(engine=engine.name, precision=engine.precision, failure=why)


def _answered(report: ParityReport) -> dict[str, Any]:
    """How near an engine's answers are: the worst of all outputs."""
    agreements = [one.top1_agreement for one in report.outputs if one.top1_agreement is not None]
    return {
        "relative_l2": max(one.relative_l2 for one in report.outputs),
        "scaled_max": max(one.scaled_max for one in report.outputs),
        "top1_agreement": min(agreements, default=None),
        "mismatches": sum(one.mismatches for one in report.outputs),
        "rows": sum(
            shape[0] if (shape := next(iter(shapes.values()), ())) else 1 for shapes in report.probes.shapes
        ),
    }


def _tell(model: str, report: EngineReport) -> None:
    tried = {trial.engine: trial for trial in report.trials if trial.speedup is not None}
    if len(tried) > 1:
        log.info(
            "engines tried",
            model=model,
            serving=report.engine,
            speedups={name: round(trial.speedup or 0.0, 2) for name, trial in tried.items()},
            why_not={name: reason for name, reason in report.why_not.items() if name in tried},
        )
    if report.advice:
        log.info("a faster engine is outside the parity budget", model=model, advice=report.advice)
