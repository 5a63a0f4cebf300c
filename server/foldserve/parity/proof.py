"""The whole proof of a fold: its answers against the original's, and each of its sites by itself."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

import onnx_ir as ir

from foldserve.errors import ExecutionFailed, LoadFailed
from foldserve.parity.gate import prove
from foldserve.parity.judge import Float64Judge, Judge
from foldserve.parity.precision import model_precision
from foldserve.parity.probes import Probe, ProbeSet, load_samples, synthetic_probes
from foldserve.parity.reference import Reference
from foldserve.parity.report import ParityReport, SiteParity, Verdict
from foldserve.parity.sections import unoptimised
from foldserve.parity.sites import Pair, compare_sites
from foldserve.runtime.onnxruntime_session import OnnxRuntimeSession
from foldserve.runtime.session import Provider, Session
from foldserve.settings import ParityBudget, ProviderChoice


@dataclass(frozen=True)
class Fold:
    """Two models, one the fold of the other, and the values that they have in common."""

    original: ir.Model
    folded: ir.Model
    pairs: Sequence[Pair]

    @property
    def inner(self) -> list[str]:
        """The values of the original that are compared."""
        return [pair[0] for pair in self.pairs]


def prove_models(
    original: Path,
    folded: Path,
    *,
    pairs: Sequence[Pair] = (),
    inputs: Path | None = None,
    budget: ParityBudget | None = None,
) -> ParityReport:
    """Prove that two ONNX files are the same function, both as they are written.

    ``pairs`` are the values to compare inside, ``inputs`` an ``.npz`` file of samples (None: synthetic ones).
    The runtime's optimiser folds by itself, so it stays off on both sides: the files are compared, not the
    runtime. Raises what sessions and :func:`~foldserve.parity.probes.load_samples` raise.
    """
    fold = Fold(ir.load(original), ir.load(folded), pairs)
    with closing(Reference(fold.original, fold.inner)) as reference:
        probes = load_samples(inputs, reference.inputs) if inputs is not None else synthetic_probes(reference)
        with (
            sites_beside(fold, lambda: (reference, probes)) as sites,
            closing(_as_written(folded)) as candidate,
        ):
            report = prove_fold(
                fold,
                reference,
                candidate,
                probes,
                sites,
                budget=budget or ParityBudget(),
                judge=Float64Judge(original),
            )
    return report.model_copy(update={"candidate": f"the other model, as it is written, on {Provider.CPU}"})


Sites = Future[tuple[SiteParity, ...]]


@contextmanager
def sites_beside(fold: Fold, ask: Callable[[], tuple[Reference, ProbeSet]]) -> Iterator[Sites]:
    """Compare the fold's sites on one probe in another thread, while the candidate is opened and answers.

    ``ask`` tells whom to compare with, and on what. When the block ends, so has the thread.
    """

    def compared() -> tuple[SiteParity, ...]:
        reference, probes = ask()
        for probe in probes.probes:
            try:
                return _sites(fold, reference, [probe])
            except ExecutionFailed:
                if reference.takes(probe):
                    raise
        return ()

    with ThreadPoolExecutor(1, "sites") as beside:
        yield beside.submit(compared)


def prove_fold(
    fold: Fold,
    reference: Reference,
    candidate: Session,
    probes: ProbeSet,
    sites_on_one: Sites,
    *,
    budget: ParityBudget,
    judge: Judge,
) -> ParityReport:
    """Prove ``candidate``, a session with the folded model, end to end, and the fold itself site by site.

    The sites are compared on one probe (``sites_on_one``), which costs little and shows what the outputs
    hide; on all of them where the outputs leave the budget. ``budget`` is for the outputs. Sites have the
    default one, which is that of noise: at a single site nothing else is allowed.
    """
    report = prove(reference, candidate, probes, budget, judge, precision=model_precision(fold.original))
    ran = [probe for probe in probes.probes if _shapes(probe) in report.probes.shapes]
    if not ran or not fold.pairs:
        return report
    try:
        sites = sites_on_one.result() if report.passed else _sites(fold, reference, ran)
        faithful = _is_undecided(report) and _runs_faithfully(fold, candidate, probes, budget)
    except (LoadFailed, ExecutionFailed) as error:
        # What cannot be cut open is judged by its answers alone.
        return report.model_copy(
            update={"explanation": f"{report.explanation}; sites could not be compared: {error}"}
        )
    verdict, explanation = decide_fold(report, sites, faithful=faithful)
    return report.model_copy(update={"sites": sites, "verdict": verdict, "explanation": explanation})


def decide_fold(report: ParityReport, sites: Sequence[SiteParity], *, faithful: bool) -> tuple[Verdict, str]:
    """What the sites add to the verdict on the answers: a pure function.

    A wrong site is a breach whatever the outputs show. Where float64 could not say who is right about the
    outputs, but every site is right by itself, and the runtime is ``faithful`` to the folded model, then
    the two models differ by rounding alone.
    """
    wrong = [site for site in sites if not site.within_budget]
    if wrong:
        first = wrong[0]
        return Verdict.BREACH, (
            f"{report.explanation}; site by site {len(wrong)} of {len(sites)} values are wrong, the first is "
            f"'{first.original_value}' (relative L2 {first.relative_l2:.2g})"
        )
    if sites and faithful and _is_undecided(report):
        return Verdict.ORIGINAL_INACCURATE, (
            f"{report.explanation}; but site by site all {len(sites)} values are right: what differs is "
            "rounding, which the model amplifies"
        )
    return report.verdict, report.explanation


def _sites(fold: Fold, reference: Reference, probes: Sequence[Probe]) -> tuple[SiteParity, ...]:
    """The sites on those probes; none where nothing was folded."""
    if not fold.pairs:
        return ()
    # With the outputs among them, the parts between the values are the whole model.
    outputs = [(spec.name, spec.name) for spec in reference.outputs]
    return compare_sites(reference, fold.folded, [*fold.pairs, *outputs], probes, ParityBudget())


def _is_undecided(report: ParityReport) -> bool:
    """Whether the outputs are a breach only because the judge could not say."""
    judged = report.judge
    return (
        report.verdict is Verdict.BREACH
        and judged is not None
        and bool(judged.failure)
        and all(output.candidate_acceptable for output in judged.outputs)
    )


def _runs_faithfully(fold: Fold, candidate: Session, probes: ProbeSet, budget: ParityBudget) -> bool:
    """Whether the candidate answers as the folded model does without the runtime's optimisation."""
    with unoptimised(fold.folded) as exact:
        return prove(exact, candidate, probes, budget, precision=model_precision(fold.original)).passed


def _as_written(file: Path) -> Session:
    return OnnxRuntimeSession(file, provider=ProviderChoice.CPU, optimise=False)


def _shapes(probe: Probe) -> dict[str, tuple[int, ...]]:
    return {name: array.shape for name, array in probe.items()}
