"""The gate at load: is the candidate near enough to the reference to answer in its place?"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from foldserve.errors import ExecutionFailed
from foldserve.parity.judge import Dispute, Judge, settle
from foldserve.parity.measures import Distance, distance, worst
from foldserve.parity.precision import coarsest_float, scaled_budget
from foldserve.parity.probes import Probe, ProbeSet
from foldserve.parity.report import JudgeReport, OutputParity, ParityReport, ProbesReport, Verdict
from foldserve.runtime.session import Array, Session
from foldserve.settings import ParityBudget


def prove(
    reference: Session,
    candidate: Session,
    probes: ProbeSet,
    budget: ParityBudget,
    judge: Judge | None = None,
    *,
    precision: np.dtype[np.generic] | None = None,
) -> ParityReport:
    """Compare ``candidate`` with ``reference`` on ``probes``.

    ``reference`` is the original model with all graph optimisation off: with it on, the runtime folds too,
    and a fold would be compared with a fold. Limits of ``budget`` that are left at their defaults are
    scaled to ``precision``, the coarsest float type that the model computes in (None: that of its inputs
    and outputs). Where the two disagree by more than that, ``judge`` says which is nearer the truth;
    without one it is a breach.
    """
    specs = (*reference.inputs, *reference.outputs)
    applied = scaled_budget(budget, precision or coarsest_float(spec.dtype for spec in specs))
    names = [spec.name for spec in reference.outputs]
    findings = _run(reference, candidate, probes, applied)
    outputs = tuple(
        _parity(name, worst(found), applied) for name, found in findings.distances.items() if found
    )
    settlement = None
    if judge is not None and findings.disputes and not findings.failure:
        settlement = settle(judge, findings.disputes, names, lambda _, found: keeps(applied, found))
    verdict, explanation = decide(outputs, settlement, findings.failure, findings.refused)
    return ParityReport(
        verdict=verdict,
        explanation=explanation,
        reference=f"the original model, all graph optimisation off, on {reference.provider}",
        candidate=f"the model to serve, on {candidate.provider}",
        budget=applied,
        outputs=outputs,
        probes=ProbesReport(
            source=probes.source,
            seed=probes.seed,
            shapes=tuple({name: array.shape for name, array in probe.items()} for probe in findings.ran),
            refused=tuple(findings.refused),
        ),
        judge=settlement,
    )


def decide(
    outputs: Sequence[OutputParity], judge: JudgeReport | None, failure: str = "", refused: Sequence[str] = ()
) -> tuple[Verdict, str]:
    """The verdict and its explanation: a pure function of what was found."""
    if failure:
        return Verdict.BREACH, failure
    if not outputs:
        why = refused[0] if refused else "there are none"
        return Verdict.UNPROVEN, f"no probe could be run ({why}); give the model samples of its own"
    breaching = [output for output in outputs if not output.within_budget]
    if not breaching:
        return Verdict.WITHIN_BUDGET, "every output is within the budget"
    return _decide_dispute(breaching, judge)


def _decide_dispute(breaching: Sequence[OutputParity], judge: JudgeReport | None) -> tuple[Verdict, str]:
    listed = ", ".join(_left_the_budget(output) for output in breaching)
    dispute = f"the models disagree by more than the budget in {listed}"
    if judge is None:
        return Verdict.BREACH, f"{dispute}; no judge was asked"
    errors = ", ".join(
        f"'{output.output}' (original {output.original_error:.2g}, candidate {output.candidate_error:.2g})"
        for output in judge.outputs
    )
    if not all(output.candidate_acceptable for output in judge.outputs):
        return Verdict.BREACH, f"{dispute}; against float64 the candidate is wrong: {errors}"
    if {output.output for output in breaching} != {output.output for output in judge.outputs}:
        return Verdict.BREACH, f"{dispute}; the judge could not decide: {judge.failure}"
    return Verdict.ORIGINAL_INACCURATE, f"{dispute}; against float64 the original is inaccurate: {errors}"


def _left_the_budget(output: OutputParity) -> str:
    top1 = "" if output.top1_agreement is None else f", top-1 {output.top1_agreement:.4g}"
    return f"'{output.output}' (relative L2 {output.relative_l2:.2g}{top1})"


def agrees(budget: ParityBudget, measured: Distance) -> bool:
    """Whether enough rows have the same arg-max: of many rows, for one alone says nothing."""
    return measured.top1_agreement is None or measured.top1_agreement >= budget.top1_agreement


def keeps(budget: ParityBudget, measured: Distance) -> bool:
    """Whether the distances are within the budget; any mismatch is outside."""
    return (
        measured.mismatches == 0
        and measured.relative_l2 <= budget.relative_l2
        and measured.scaled_max <= budget.scaled_max
    )


@dataclass
class _Findings:
    """What running both models on every probe gave."""

    distances: dict[str, list[Distance]]
    disputes: list[Dispute] = field(default_factory=list)
    ran: list[Probe] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)
    failure: str = ""
    """Why the candidate cannot stand in for the reference at all."""


def _run(reference: Session, candidate: Session, probes: ProbeSet, budget: ParityBudget) -> _Findings:
    names = [spec.name for spec in reference.outputs]
    findings = _Findings({name: [] for name in names}, failure=_interface_difference(reference, candidate))
    if findings.failure:
        return findings
    for probe in probes.probes:
        # The candidate first: another thread may be at the reference's answer meanwhile.
        answered, failure = _answer(candidate, probe)
        wanted, refusal = _answer(reference, probe)
        if refusal:
            findings.refused.append(refusal)
            continue
        if failure:
            findings.failure = f"the candidate fails where the reference answers: {failure}"
            return findings
        findings.ran.append(probe)
        expected, actual = (dict(zip(names, outputs, strict=True)) for outputs in (wanted, answered))
        measured = {name: distance(expected[name], actual[name]) for name in names}
        for name in names:
            findings.distances[name].append(measured[name])
        breaching = frozenset(name for name in names if not keeps(budget, measured[name]))
        if breaching:
            findings.disputes.append(Dispute(probe, expected, actual, breaching))
    return findings


def _answer(session: Session, probe: Probe) -> tuple[list[Array], str]:
    """A session's outputs, or none and why."""
    try:
        return session.run(probe), ""
    except ExecutionFailed as error:
        return [], str(error)


def _interface_difference(reference: Session, candidate: Session) -> str:
    """Why the candidate does not take and give the same tensors; empty if it does."""
    for kind, expected, actual in (
        ("inputs", reference.inputs, candidate.inputs),
        ("outputs", reference.outputs, candidate.outputs),
    ):
        wanted = [f"{spec.name}: {spec.dtype}" for spec in expected]
        given = [f"{spec.name}: {spec.dtype}" for spec in actual]
        if wanted != given:
            return f"the candidate's {kind} are ({', '.join(given)}), the reference's ({', '.join(wanted)})"
    return ""


def _parity(output: str, measured: Distance, budget: ParityBudget) -> OutputParity:
    return OutputParity(
        output=output,
        relative_l2=measured.relative_l2,
        scaled_max=measured.scaled_max,
        top1_agreement=measured.top1_agreement,
        mismatches=measured.mismatches,
        within_budget=keeps(budget, measured) and agrees(budget, measured),
    )
