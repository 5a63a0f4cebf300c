"""From a model file to the form of it that serves, proven: read, fold, choose, prove."""

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import onnx_ir as ir

from foldserve.errors import ExecutionFailed, LoadFailed
from foldserve.folding import FoldResult, fold
from foldserve.observability.logging import get_logger
from foldserve.parity.evidence import Evidence
from foldserve.parity.judge import Float64Judge
from foldserve.parity.precision import model_precision, scaled_budget
from foldserve.parity.probes import Probe, ProbeSet, load_samples, synthetic_probes
from foldserve.parity.reference import Reference
from foldserve.runtime.cpus import half_of_the_cpus
from foldserve.runtime.engines import baseline
from foldserve.runtime.in_memory import in_memory
from foldserve.runtime.providers import resolve_provider
from foldserve.runtime.session import Provider, Session
from foldserve.serving.batchability import rows_are_independent
from foldserve.serving.batcher import rows_of
from foldserve.serving.choice import Candidate, Choice, Proof, choose
from foldserve.serving.engine_choice import EngineReport
from foldserve.serving.engines import NOT_OPEN, Contest, OpenSessions, Tune, only
from foldserve.serving.fold_tier import fastest, folded_forms, median_seconds
from foldserve.serving.ladder import ALWAYS, UNFOLDED, Form, Optimisation, Variant
from foldserve.serving.lifecycle import State
from foldserve.serving.model_file import make_initialisers_constant, map_external_data, read_model
from foldserve.serving.opening import Opening
from foldserve.serving.stages import Stages
from foldserve.serving.tune import widest
from foldserve.settings import ParityBudget, ProviderChoice

log = get_logger()


@dataclass(frozen=True)
class Prepared:
    """What serves, and what was found out about it on the way."""

    choice: Choice
    batches: bool
    """Whether requests may share a run: rows were found not to depend on each other."""

    engines: EngineReport
    """Which engines were tried, and which one is to serve."""

    proven: OpenSessions
    """The very session that was proven, or one that answered the same; none where another engine serves."""

    evidence: Evidence | None
    """None where no probe could be run, or its arrays cannot be kept."""

    reference_seconds: tuple[float, ...]
    """What the unoptimised original took for each probe."""

    provider_seconds: Mapping[Provider, float]
    """One run on each provider; empty where there was no choice between two."""


class Files(Protocol):
    """Where candidates are written to."""

    def write(self, model: ir.Model) -> None:
        """Begin to write ``model``, in another thread."""

    def file_of(self, model: ir.Model) -> Path:
        """The file of ``model``, once it is written."""


def prepare(
    file: Path,
    samples: Path | None,
    opening: Opening,
    stages: Stages,
    *,
    files: Files,
    tune: Tune | None,
) -> Prepared:
    """Prepare the ONNX model in ``file``; raises the exceptions under LoadFailed.

    ``samples`` is an ``.npz`` file with inputs to prove on, None for synthetic ones. What serves was proven
    as it lies in ``files``; ``tune`` measures how each engine runs it best; None has no
    engine tried but the baseline.
    """
    settings = opening.settings
    with stages.of(State.LOADING):
        original = read_model(file)
        make_initialisers_constant(original)
        map_external_data(original)
    with ThreadPoolExecutor(1, "reference") as beside:
        # Opened, and asked, while the original is folded and the candidate opened.
        asked = beside.submit(_reference, original, samples, opening)
        with stages.of(State.FOLDING):
            lowest = min(ALWAYS, settings.max_fold_tier)
            folded = [
                _candidate(form, max(lowest, _tier(form)))
                for form in folded_forms(original, settings.max_fold_tier)
            ]
        with stages.of(State.PROVING):
            proof = Proof(original, asked, settings.parity, Float64Judge(file))
            choice, provider_seconds = _proven(proof, folded, beside, opening, files)
    reference, probes = asked.result()
    with closing(reference):
        with stages.timed(State.PROVING.lower()):
            evidence, batches = _found_out(choice, probes, _noise(original))
        with stages.timed("tuning"):
            session = choice.session.release()
            if _is_opened_from_file(choice.optimisation):
                contest = Contest(
                    opening=opening,
                    file=files.file_of(choice.candidate.model),
                    optimisation=choice.optimisation,
                    reference=reference,
                    probes=probes,
                    parity=choice.parity_report,
                    evidence=evidence,
                    batches=batches,
                    tune=tune,
                )
                engines, proven = contest.held(session, widest(settings))
            else:
                session.close()
                engines, proven = only(baseline(session.provider)), NOT_OPEN
    return Prepared(
        choice,
        batches=batches,
        engines=engines,
        proven=proven,
        evidence=evidence,
        reference_seconds=tuple(reference.seconds()),
        provider_seconds=provider_seconds,
    )


def _proven(
    proof: Proof,
    folded: Sequence[Candidate],
    beside: ThreadPoolExecutor,
    opening: Opening,
    files: Files,
) -> tuple[Choice, dict[Provider, float]]:
    """The form that serves, and its proof; ``beside`` is the thread in which the reference is asked."""
    original, asked = proof.original, proof.asked
    threads = widest(opening.settings).threads

    def build(form: Form) -> Candidate:
        if form == UNFOLDED:
            return Candidate(form, original, folded[0].fold_report)
        return _candidate(fold(original, max_tier=form.tier, keep=form.kept), form.tier, form.kept)

    def open_model(model: ir.Model, optimisation: Optimisation) -> Session:
        source = files.file_of(model) if _is_opened_from_file(optimisation) else in_memory(model)
        try:
            return opening.open(source, provider, optimisation, threads)
        except LoadFailed:
            asked.result()  # what is wrong with the original comes first
            raise

    def probes() -> ProbeSet:
        return asked.result()[1]

    provider, provider_seconds = _fastest_provider(folded[0], probes, opening)
    best = _fastest(folded, probes, provider, opening)
    files.write(best.model)
    beside.submit(lambda: [asked.result()[0].takes(probe) for probe in probes().probes])
    return choose(opening.name, best, build, proof, open_model), provider_seconds


def _found_out(choice: Choice, probes: ProbeSet, noise: ParityBudget) -> tuple[Evidence | None, bool]:
    """What another session of what was proven must repeat, and whether requests may share a run."""
    given = [
        evidence for probe in probes.probes if (evidence := _evidence(choice.session, probe)) is not None
    ]
    largest = max((evidence.probe for evidence in given), key=rows_of, default=None)
    batches = largest is not None and rows_are_independent(choice.session, largest, noise, probes.probes)
    return next((one for one in given if one.storable()), None), batches


def _noise(model: ir.Model) -> ParityBudget:
    """How far two right evaluations of a model may be apart, whatever its owner allows."""
    return scaled_budget(ParityBudget(), model_precision(model))


def _is_opened_from_file(optimisation: Optimisation) -> bool:
    """Whether a candidate is proven as it lies in its file.

    The last resort, the original without optimisation, serves even if its proof fails. So it is asked in
    memory, and its file must repeat what it said: neither a damaged file nor a random model gets through.
    """
    return optimisation is not Optimisation.OFF


def _evidence(session: Session, probe: Probe) -> Evidence | None:
    """None for a probe that the model refuses, as it may refuse synthetic sizes."""
    try:
        return Evidence(probe, tuple(session.run(probe)))
    except ExecutionFailed:
        return None


def _candidate(result: FoldResult, tier: int, kept: frozenset[str] = frozenset()) -> Candidate:
    return Candidate(Form(Variant.FOLDED, tier, kept), result.model, result.report)


def _tier(form: FoldResult) -> int:
    """The highest tier that folding used."""
    return max((site.tier or 0 for site in form.report.sites), default=0)


def _reference(original: ir.Model, samples: Path | None, opening: Opening) -> tuple[Reference, ProbeSet]:
    """What folded forms will be compared with, and on what."""

    def open_model(model: ir.Model) -> Session:
        # The runtime's own optimisation would fold it, too.
        return opening.open(in_memory(model), ProviderChoice.CPU, Optimisation.OFF, half_of_the_cpus())

    # The values that folds keep are these, mostly; where there are others, they are asked for later.
    inner = [node.outputs[0].name or "" for node in original.graph if node.op_type == "BatchNormalization"]
    reference = Reference(original, inner, open_model)
    probes = synthetic_probes(reference) if samples is None else load_samples(samples, reference.inputs)
    reference.fetch_ahead(probes.probes[0])
    return reference, probes


def _fastest_provider(
    candidate: Candidate, probes: Callable[[], ProbeSet], opening: Opening
) -> tuple[ProviderChoice, dict[Provider, float]]:
    """CUDA where it was asked for, or where it works and the CPU is not faster: small models are, there."""
    requested = opening.settings.provider
    if requested is not ProviderChoice.AUTO or resolve_provider(requested) is Provider.CPU:
        return requested, {}
    choices = (ProviderChoice.CUDA, ProviderChoice.CPU)
    seconds = _seconds([candidate], choices, probes, opening)
    if not seconds:
        return ProviderChoice.CUDA, {}
    return choices[fastest(seconds)], {
        Provider(choice): spent for choice, spent in zip(choices, seconds, strict=True)
    }


def _fastest(
    folded: Sequence[Candidate],
    probes: Callable[[], ProbeSet],
    provider: ProviderChoice,
    opening: Opening,
) -> Candidate:
    """The candidate to prefer; mostly there is but one, nothing to measure."""
    if len(folded) == 1:
        return folded[0]
    seconds = _seconds(folded, [provider], probes, opening)
    if not seconds:
        return folded[0]
    best = folded[fastest(seconds)]
    log.info(
        "fold tiers measured",
        model=opening.name,
        milliseconds={
            str(one.form.tier): round(spent * 1e3, 3) for one, spent in zip(folded, seconds, strict=True)
        },
        chosen=best.form.tier,
    )
    return best


def _seconds(
    candidates: Sequence[Candidate],
    providers: Sequence[ProviderChoice],
    probes: Callable[[], ProbeSet],
    opening: Opening,
) -> list[float]:
    """What each candidate takes on each provider for the last probe; nothing if one of them refuses it."""
    with ExitStack() as sessions:
        loaded = [
            sessions.enter_context(closing(opening.open(in_memory(candidate.model), provider)))
            for candidate in candidates
            for provider in providers
        ]
        try:
            return median_seconds(loaded, probes().probes[-1])
        except ExecutionFailed:
            return []
