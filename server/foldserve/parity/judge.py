"""The judge: which of two models that disagree is nearer the truth?

Where a channel hardly varied in training and its mean sits in the bias (b ≈ μ, σ² tiny), the *unfolded*
float32 model cancels catastrophically and the folded one, whose b − μ was taken in float64, is right. A
comparison of the two alone would blame the fold. So the original model is evaluated in float64, and both
are measured against that.
"""

import math
import pickle
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from foldserve.parity.measures import Distance, distance, worst
from foldserve.parity.probes import Probe
from foldserve.parity.report import JudgedOutput, JudgeReport
from foldserve.runtime.session import Array

ACCEPTABLE_RATIO = 2.5
"""A candidate whose error is at most so many times the original's own is as good as the original: noise."""


class JudgeFailed(Exception):
    """The truth could not be found; the text says why."""


class Judge(Protocol):
    """Knows the truth about one model, given time."""

    def truth(self, probe: Probe) -> list[Array]:
        """The model's outputs in float64; raises :class:`JudgeFailed`."""


@dataclass(frozen=True)
class Dispute:
    """A probe on which two models disagree by more than the budget, in the outputs named."""

    probe: Probe
    reference: Mapping[str, Array]
    candidate: Mapping[str, Array]
    outputs: frozenset[str]


class Float64Judge:
    """Evaluates the original model in float64, in a child process that is given up when the time is over."""

    def __init__(self, source: Path | bytes, *, time_limit_s: float = 60.0) -> None:
        """``source`` is the original model's file or bytes; ``time_limit_s`` is for all probes together."""
        self._source = source
        self._left_s = time_limit_s

    def truth(self, probe: Probe) -> list[Array]:
        """The model's outputs in float64; raises :class:`JudgeFailed` when it cannot, or the time is over."""
        command = [sys.executable, "-P", "-m", "foldserve.parity.float64_reference"]
        started = time.monotonic()
        try:
            child = subprocess.run(
                command,
                input=pickle.dumps((self._source, dict(probe))),
                capture_output=True,
                timeout=max(self._left_s, 0),
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise JudgeFailed("the float64 evaluation did not finish in its time") from None
        finally:
            self._left_s -= time.monotonic() - started
        if child.returncode != 0:
            last_line = child.stderr.decode(errors="replace").strip().rpartition("\n")[2]
            raise JudgeFailed(
                f"the float64 evaluation failed: {last_line or f'exit status {child.returncode}'}"
            )
        outputs: list[Array] = pickle.loads(child.stdout)
        return outputs


def settle(judge: Judge, disputes: Sequence[Dispute], names: Sequence[str]) -> JudgeReport:
    """Measure both models against the truth, the smallest probe first.

    Ends with the first probe on which the candidate is wrong, or when the judge's time is over. ``names`` are
    all outputs of the model, in its order.
    """
    errors: dict[str, list[tuple[Distance, Distance]]] = {}
    judged_probes = 0
    failure = ""
    for dispute in sorted(disputes, key=lambda one: sum(array.size for array in one.probe.values())):
        try:
            truth = dict(zip(names, judge.truth(dispute.probe), strict=True))
        except JudgeFailed as error:
            failure = str(error)
            break
        judged_probes += 1
        for name in dispute.outputs:
            original = distance(truth[name], dispute.reference[name])
            candidate = distance(truth[name], dispute.candidate[name])
            errors.setdefault(name, []).append((original, candidate))
        if not all(acceptable(*errors[name][-1]) for name in dispute.outputs):
            break
    return JudgeReport(
        breaching_probes=len(disputes),
        judged_probes=judged_probes,
        outputs=tuple(_judged(name, errors[name]) for name in names if name in errors),
        failure=failure,
    )


def _judged(output: str, errors: Sequence[tuple[Distance, Distance]]) -> JudgedOutput:
    original = worst(error for error, _ in errors)
    candidate = worst(error for _, error in errors)
    return JudgedOutput(
        output=output,
        original_error=original.relative_l2,
        candidate_error=candidate.relative_l2,
        candidate_acceptable=all(acceptable(*pair) for pair in errors),
    )


def acceptable(original: Distance, candidate: Distance) -> bool:
    """Whether a candidate's distance from the truth is of the order of the original's own, or less."""
    return (
        math.isfinite(candidate.relative_l2)
        and candidate.relative_l2 <= ACCEPTABLE_RATIO * original.relative_l2
        and candidate.scaled_max <= ACCEPTABLE_RATIO * original.scaled_max
    )
