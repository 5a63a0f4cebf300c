"""From a version folder to a servable: read, fold, choose, prove, warm."""

import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

from foldserve.errors import ExecutionFailed
from foldserve.folding import FoldResult, fold
from foldserve.observability.logging import get_logger
from foldserve.parity.judge import Float64Judge
from foldserve.parity.probes import Probe, ProbeSet, load_samples, synthetic_probes
from foldserve.runtime.onnxruntime_session import OnnxRuntimeSession
from foldserve.runtime.session import Session
from foldserve.serving.batchability import rows_are_independent
from foldserve.serving.batcher import Batcher, rows_of
from foldserve.serving.choice import Candidate, Proof, choose
from foldserve.serving.fold_tier import ALWAYS, fastest, folded_forms, median_seconds
from foldserve.serving.ladder import UNFOLDED, Form
from foldserve.serving.lifecycle import Lifecycle, State
from foldserve.serving.model_file import make_initialisers_constant, onnx_file, read_model, written_model
from foldserve.serving.repository import ModelVersion
from foldserve.serving.servable import Provenance, Servable, Variant
from foldserve.settings import ModelSettings, ProviderChoice, ServerSettings

log = get_logger()


def load(
    source: ModelVersion, lifecycle: Lifecycle, settings: ModelSettings, server: ServerSettings
) -> Servable:
    """Load one model version; on return its lifecycle is in WARMING and it only needs publishing.

    Raises the exceptions under :class:`~foldserve.errors.LoadFailed`.
    """
    name = f"model '{source.name}' version {source.version}"
    stage_seconds: dict[str, float] = {}

    @contextmanager
    def stage(state: State) -> Iterator[None]:
        lifecycle.advance(state)
        started = time.perf_counter()
        yield
        stage_seconds[state.lower()] = time.perf_counter() - started

    with tempfile.TemporaryDirectory(prefix="foldserve-") as scratch:
        with stage(State.LOADING):
            file = onnx_file(source, Path(scratch), server)
            original = read_model(file)
            make_initialisers_constant(original)
            reference = _reference(file, name)
        with closing(reference):
            with stage(State.FOLDING):
                lowest = min(ALWAYS, settings.max_fold_tier)
                forms = folded_forms(original, settings.max_fold_tier)
                folded = [_folded(form, max(lowest, _tier(form)), scratch) for form in forms]
            with stage(State.PROVING):
                probes = _probes(source, reference)
                proof = Proof(original, reference, probes, settings.parity, Float64Judge(file))

                def build(form: Form) -> Candidate:
                    if form == UNFOLDED:
                        return Candidate(form, original, file, folded[0].fold_report)
                    result = fold(original, max_tier=form.tier, keep=form.kept)
                    return _folded(result, form.tier, scratch, form.kept)

                best = _fastest(folded, probes, settings.provider, name)
                choice = choose(name, best, build, proof, settings.provider)
            with stage(State.WARMING):
                taken = [probe for probe in probes.probes if _seconds(choice.session, probe) is not None]
                reference_seconds = [_seconds(reference, probe) for probe in taken]
                batches = bool(taken) and rows_are_independent(
                    choice.session, max(taken, key=rows_of), choice.parity_report.budget
                )
    provenance = Provenance(
        variant=choice.candidate.form.variant,
        optimisation=choice.optimisation,
        requested_provider=settings.provider,
        fold_report=choice.candidate.fold_report,
        parity_report=choice.parity_report,
        batches=batches,
        stage_seconds=stage_seconds,
        reference_seconds=[seconds for seconds in reference_seconds if seconds is not None],
    )
    batcher = Batcher(
        choice.session,
        most_rows=settings.max_batch_size if batches and settings.max_batch_size else None,
        instances=settings.instances or 1,
        capacity=settings.max_queue_size,
    )
    return Servable(source.name, source.version, choice.session, provenance, batcher)


def _folded(result: FoldResult, tier: int, scratch: str, kept: frozenset[str] = frozenset()) -> Candidate:
    folder = Path(tempfile.mkdtemp(dir=scratch))
    source = written_model(result.model, folder, result.report.initializer_bytes_after)
    return Candidate(Form(Variant.FOLDED, tier, kept), result.model, source, result.report)


def _tier(form: FoldResult) -> int:
    """The highest tier that folding used."""
    return max((site.tier or 0 for site in form.report.sites), default=0)


def _fastest(folded: Sequence[Candidate], probes: ProbeSet, provider: ProviderChoice, name: str) -> Candidate:
    """The candidate to prefer, measured on the last probe; mostly there is but one, nothing to measure."""
    if len(folded) == 1:
        return folded[0]
    with ExitStack() as sessions:
        loaded = [
            sessions.enter_context(closing(OnnxRuntimeSession(form.source, provider=provider, name=name)))
            for form in folded
        ]
        try:
            seconds = median_seconds(loaded, probes.probes[-1])
        except ExecutionFailed:
            return folded[0]
    best = folded[fastest(seconds)]
    log.info(
        "fold tiers measured",
        model=name,
        milliseconds={
            str(one.form.tier): round(spent * 1e3, 3) for one, spent in zip(folded, seconds, strict=True)
        },
        chosen=best.form.tier,
    )
    return best


def _reference(file: Path, name: str) -> Session:
    """The original as it is: the runtime's own optimisation would fold it too."""
    return OnnxRuntimeSession(file, provider=ProviderChoice.CPU, optimise=False, name=name)


def _probes(source: ModelVersion, reference: Session) -> ProbeSet:
    return load_samples(source.samples, reference.inputs) if source.samples else synthetic_probes(reference)


def _seconds(session: Session, probe: Probe) -> float | None:
    """What one run takes; None for a probe that the model refuses, as it may refuse synthetic sizes."""
    started = time.perf_counter()
    try:
        session.run(probe)
    except ExecutionFailed:
        return None
    return time.perf_counter() - started
