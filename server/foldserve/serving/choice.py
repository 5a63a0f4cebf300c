"""Which form of a model serves: the first whose answers are proven near enough to the reference."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

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
    optimise: bool


@dataclass(frozen=True)
class Choice:
    """The form that serves, its session, and the proof of the form that was wanted most."""

    variant: Variant
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
            candidate.source, provider=provider, optimise=candidate.optimise, name=name
        )
        report = prove(
            proof.reference, session, proof.probes, proof.budget, proof.judge, precision=proof.precision
        )
        first_report = first_report or report
        if report.passed or candidate is candidates[-1]:
            return Choice(candidate.variant, session, first_report)
        session.close()
        log.error(
            "parity breach at load: falling back",
            model=name,
            candidate=candidate.variant,
            optimised=candidate.optimise,
            evidence=report.explanation,
        )
    raise AssertionError("there is always a candidate")
