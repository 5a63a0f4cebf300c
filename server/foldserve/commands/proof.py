"""One model file proved against another, both exactly as written: without any graph optimisation."""

from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import onnx_ir as ir

from foldserve.commands.progress import doing
from foldserve.parity.gate import prove
from foldserve.parity.judge import Float64Judge
from foldserve.parity.precision import model_precision
from foldserve.parity.probes import Probe, ProbeSet, load_samples, synthetic_probes
from foldserve.parity.report import ParityReport
from foldserve.parity.sites import Pair, compare_sites
from foldserve.runtime.onnxruntime_session import OnnxRuntimeSession
from foldserve.runtime.session import Session
from foldserve.settings import ParityBudget, ProviderChoice


def prove_files(
    original: Path, candidate: Path, model: ir.Model, inputs: Path | None
) -> tuple[ParityReport, ProbeSet]:
    """Compare the answers of two ONNX files, and the probes on which they were compared.

    ``model`` is the original, ``inputs`` an ``.npz`` file of samples (None: synthetic ones). The runtime's
    optimiser folds by itself, so it stays off on both sides: the files are compared, not the runtime.
    Raises what sessions and :func:`~foldserve.parity.probes.load_samples` raise.
    """
    with doing("proving"), closing(_session(original)) as reference, closing(_session(candidate)) as session:
        probes = load_samples(inputs, reference.inputs) if inputs is not None else synthetic_probes(reference)
        judge = Float64Judge(original)
        report = prove(reference, session, probes, ParityBudget(), judge, precision=model_precision(model))
    sides = {"reference": "the original", "candidate": "the other model"}
    return report.model_copy(
        update={side: f"{name}, all graph optimisation off, on the CPU" for side, name in sides.items()}
    ), probes


def with_sites(
    report: ParityReport, probes: ProbeSet, original: ir.Model, candidate: ir.Model, pairs: Sequence[Pair]
) -> ParityReport:
    """``report`` with the values of each pair compared: on one probe, or on all of them after a breach."""
    ran = [probe for probe in probes.probes if _shapes(probe) in report.probes.shapes]
    if not report.outputs or not pairs or not ran:
        return report
    with doing(f"comparing {len(pairs)} values inside"):
        chosen = ran[:1] if report.passed else ran
        sites = compare_sites(original, candidate, pairs, chosen, ParityBudget())
    return report.model_copy(update={"sites": sites})


def _session(file: Path) -> Session:
    return OnnxRuntimeSession(file, provider=ProviderChoice.CPU, optimise=False)


def _shapes(probe: Probe) -> dict[str, tuple[int, ...]]:
    return {name: array.shape for name, array in probe.items()}
