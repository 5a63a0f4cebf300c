"""From a version folder to a servable: read, fold, choose, prove, warm."""

import tempfile
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from foldserve.folding import fold
from foldserve.parity.judge import Float64Judge
from foldserve.parity.precision import model_precision
from foldserve.parity.probes import Probe, ProbeSet, load_samples, synthetic_probes
from foldserve.runtime.onnxruntime_session import UNSOUND_OPTIMISERS, OnnxRuntimeSession
from foldserve.runtime.session import Session
from foldserve.serving.choice import Candidate, Proof, choose
from foldserve.serving.lifecycle import Lifecycle, State
from foldserve.serving.model_file import onnx_file, read_model, written_model
from foldserve.serving.queue import ExecutionQueue
from foldserve.serving.repository import ModelVersion
from foldserve.serving.servable import Provenance, Servable, Variant
from foldserve.settings import ProviderChoice, ServerSettings

QUEUE_CAPACITY = 1024


def load(source: ModelVersion, lifecycle: Lifecycle, settings: ServerSettings) -> Servable:
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
            file = onnx_file(source, Path(scratch), settings.import_timeout_s)
            original = read_model(file)
            reference = _reference(file, name)
        with closing(reference):
            with stage(State.FOLDING):
                result = fold(original)
                written = written_model(result.model, Path(scratch), result.report.initializer_bytes_after)
            with stage(State.PROVING):
                probes = _probes(source, reference)
                proof = Proof(
                    reference, probes, settings.parity, Float64Judge(file), model_precision(original)
                )
                candidates = (
                    Candidate(Variant.FOLDED, written),
                    Candidate(Variant.FOLDED, written, disabled_optimisers=UNSOUND_OPTIMISERS),
                    Candidate(Variant.UNFOLDED, file),
                    Candidate(Variant.UNFOLDED, file, optimise=False),
                )
                choice = choose(name, candidates, proof, settings.provider)
            with stage(State.WARMING):
                for probe in probes.probes:
                    choice.session.run(probe)
                reference_seconds = [_seconds(reference, probe) for probe in probes.probes]
    provenance = Provenance(
        variant=choice.candidate.variant,
        optimisation=choice.candidate.optimisation,
        requested_provider=settings.provider,
        fold_report=result.report,
        parity_report=choice.parity_report,
        stage_seconds=stage_seconds,
        reference_seconds=reference_seconds,
    )
    return Servable(source.name, source.version, choice.session, provenance, ExecutionQueue(QUEUE_CAPACITY))


def _reference(file: Path, name: str) -> Session:
    """The original as it is: the runtime's own optimisation would fold it too."""
    return OnnxRuntimeSession(file, provider=ProviderChoice.CPU, optimise=False, name=name)


def _probes(source: ModelVersion, reference: Session) -> ProbeSet:
    return load_samples(source.samples, reference.inputs) if source.samples else synthetic_probes(reference)


def _seconds(session: Session, probe: Probe) -> float:
    started = time.perf_counter()
    session.run(probe)
    return time.perf_counter() - started
