"""Which form of a model serves: the first whose answers are proven near enough to the reference."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from foldserve.folding import FoldReport
from foldserve.observability.logging import get_logger
from foldserve.parity.gate import prove
from foldserve.parity.judge import Judge
from foldserve.parity.probes import ProbeSet
from foldserve.parity.report import ParityReport
from foldserve.runtime.onnxruntime_session import OnnxRuntimeSession
from foldserve.runtime.session import Session
from foldserve.serving.servable import Variant
from foldserve.settings import ParityBudget, ProviderChoice

log = get_logger()


@dataclass(frozen=True)
class Candidate:
    """One form of the model that might serve."""

    variant: Variant
    source: Path | bytes
    fold_report: FoldReport
    """What folding did; for the unfolded form, what it would have done."""

    optimise: bool = True
    disabled_optimisers: tuple[str, ...] = ()
    """Optimisations of the runtime that are left out, because they may change answers."""

    @property
    def tier(self) -> int:
        """The highest tier that folding used."""
        return max((site.tier or 0 for site in self.fold_report.sites), default=0)

    @property
    def optimisation(self) -> str:
        """What the runtime may do to the graph, in a word or two."""
        if not self.optimise:
            return "off"
        return f"without {', '.join(self.disabled_optimisers)}" if self.disabled_optimisers else "all"


@dataclass(frozen=True)
class Choice:
    """The form that serves, its session and its proof; the fold's failed proof where it does not serve."""

    candidate: Candidate
    session: Session
    parity_report: ParityReport


@dataclass(frozen=True)
class Proof:
    """What candidates are measured by."""

    reference: Session
    probes: ProbeSet
    budget: ParityBudget
    judge: Judge
    precision: np.dtype[np.generic]


def choose(name: str, candidates: Sequence[Candidate], proof: Proof, provider: ProviderChoice) -> Choice:
    """Try the candidates in order of preference; the last serves whatever its parity, for it is the original.

    A candidate that fails its proof is logged with the evidence. Raises what creating a session raises.
    """
    first_report: ParityReport | None = None
    for candidate in candidates:
        session = OnnxRuntimeSession(
            candidate.source,
            provider=provider,
            optimise=candidate.optimise,
            disabled_optimisers=candidate.disabled_optimisers,
            name=name,
        )
        report = prove(
            proof.reference, session, proof.probes, proof.budget, proof.judge, precision=proof.precision
        )
        first_report = first_report or report
        if report.passed or candidate is candidates[-1]:
            folded = candidate.variant is Variant.FOLDED
            return Choice(candidate, session, report if folded else first_report)
        session.close()
        log.error(
            "parity breach at load: falling back",
            model=name,
            candidate=candidate.variant,
            optimisation=candidate.optimisation,
            evidence=report.explanation,
        )
    raise AssertionError("there is always a candidate")
