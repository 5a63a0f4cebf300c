"""Which form of a model serves: the first whose answers are proven near enough to the reference."""

import logging
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial

import onnx_ir as ir

from foldserve.folding import FoldReport
from foldserve.observability.logging import get_logger
from foldserve.parity.gate import prove
from foldserve.parity.judge import Judge
from foldserve.parity.precision import model_precision
from foldserve.parity.probes import ProbeSet
from foldserve.parity.proof import Fold, prove_fold, sites_beside
from foldserve.parity.reference import Reference
from foldserve.parity.remembered import RememberingSession
from foldserve.parity.report import ParityReport, Verdict
from foldserve.parity.sites import Pair
from foldserve.runtime.session import Session
from foldserve.serving.ladder import Attempt, Finding, Form, Optimisation, Variant, next_attempt
from foldserve.serving.opening import in_words
from foldserve.settings import ParityBudget

log = get_logger()


@dataclass(frozen=True)
class Candidate:
    """One form of the model that might serve."""

    form: Form
    model: ir.Model
    fold_report: FoldReport
    """What folding did; for the unfolded form, what it would have done."""

    @property
    def pairs(self) -> list[Pair]:
        """Values that it has in common with the original."""
        return [(pair.original, pair.folded) for site in self.fold_report.sites for pair in site.pairs]


@dataclass(frozen=True)
class Choice:
    """What serves, and its proof; the first fold's failed proof where no fold serves."""

    candidate: Candidate
    optimisation: Optimisation
    session: RememberingSession
    parity_report: ParityReport


@dataclass(frozen=True)
class Proof:
    """What candidates are measured by."""

    original: ir.Model
    asked: Future[tuple[Reference, ProbeSet]]
    """Being opened beside what there is to do with the candidates."""

    budget: ParityBudget
    judge: Judge

    def of(
        self, candidate: Candidate, open_candidate: Callable[[], Session]
    ) -> tuple[RememberingSession, ParityReport]:
        """Open a candidate and prove it; a folded one site by site, too. Raises what opening it raises."""
        if candidate.form.variant is Variant.UNFOLDED:
            session = RememberingSession(open_candidate())
            reference, probes = self.asked.result()
            precision = model_precision(self.original)
            return session, prove(reference, session, probes, self.budget, self.judge, precision=precision)
        fold = Fold(self.original, candidate.model, candidate.pairs)
        with sites_beside(fold, self.asked.result) as sites:
            session = RememberingSession(open_candidate())
            reference, probes = self.asked.result()
            return session, prove_fold(
                fold, reference, session, probes, sites, budget=self.budget, judge=self.judge
            )


def choose(
    name: str,
    preferred: Candidate,
    build: Callable[[Form], Candidate],
    proof: Proof,
    open_model: Callable[[ir.Model, Optimisation], Session],
) -> Choice:
    """Try ``preferred``, then what :func:`next_attempt` says; ``build`` makes other forms of the model.

    A candidate that fails its proof is logged with the evidence. Raises what ``build`` and creating a session
    raise.
    """
    findings: list[Finding] = []
    reports: list[ParityReport] = []
    candidate, attempt = preferred, Attempt(preferred.form)
    while True:
        session, report = proof.of(candidate, partial(open_model, candidate.model, attempt.optimisation))
        wrong = wrong_sites(report, candidate.fold_report)
        proven = report.verdict is not Verdict.UNPROVEN
        findings.append(Finding(attempt, report.passed, proven, frozenset(wrong)))
        reports.append(report)
        following = next_attempt(findings)
        if following is None:
            folded = candidate.form.variant is Variant.FOLDED
            return Choice(candidate, attempt.optimisation, session, report if folded else reports[0])
        session.close()
        log.log(
            logging.ERROR if proven else logging.WARNING,
            "parity breach at load: falling back" if proven else "nothing to prove the fold on: not folding",
            model=name,
            candidate=candidate.form.variant,
            optimisation=in_words(attempt.optimisation),
            evidence=report.explanation,
            wrong_sites=wrong,
        )
        if following.form != candidate.form:
            candidate = build(following.form)
        attempt = following


def wrong_sites(report: ParityReport, fold_report: FoldReport) -> list[str]:
    """Names of the folded sites around which a value is wrong, in the order of the graph."""
    wrong = {(site.original_value, site.candidate_value) for site in report.sites if not site.within_budget}
    return [
        site.name
        for site in fold_report.sites
        if any((pair.original, pair.folded) in wrong for pair in site.pairs)
    ]
