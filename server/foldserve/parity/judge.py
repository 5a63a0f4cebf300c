"""The judge: which of two models that disagree is nearer the truth?

Where a channel hardly varied in training and its mean sits in the bias (b ≈ μ, σ² tiny), the *unfolded*
float32 model cancels catastrophically and the folded one, whose b − μ was taken in float64, is right. A
comparison of the two alone would blame the fold. So the original model is evaluated in float64, and both
are measured against that.
"""

import math
import os
import pickle
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np

from foldserve.lifeline import lifeline
from foldserve.parity.measures import Distance, Size, distance, is_float, worst
from foldserve.parity.probes import Probe
from foldserve.parity.report import JudgedOutput, JudgeReport
from foldserve.runtime.session import Array

ACCEPTABLE_RATIO = 2.5
"""A candidate whose error is at most so many times the original's own is as good as the original: noise."""

ONE_CORE = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}

Keeps = Callable[[str, Distance], bool]
"""Whether an output's distance is within its budget."""


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
    least: Mapping[str, Size] = field(default_factory=dict)
    """Distances of an output that is smaller are measured as if it were of this size."""


class Float64Judge:
    """Evaluates the original model in float64, in a child process that is given up when the time is over."""

    def __init__(
        self, source: Path | bytes, *, time_limit_s: float = 60.0, in_background: bool = False
    ) -> None:
        """``source`` is the original model's file or bytes; ``time_limit_s`` is for all probes together.

        ``in_background``: at the lowest priority, on one core, with half of the memory that is left.
        """
        self._source = source
        self._left_s = time_limit_s
        self._arguments = ["background"] if in_background else []
        self._environment = ONE_CORE if in_background else {}

    def truth(self, probe: Probe) -> list[Array]:
        """The model's outputs in float64; raises :class:`JudgeFailed` when it cannot, or the time is over."""
        command = [sys.executable, "-P", "-m", "foldserve.parity.float64_reference", *self._arguments]
        started = time.monotonic()
        try:
            with lifeline() as line:
                child = subprocess.run(
                    command,
                    env=os.environ | self._environment | line.environment,
                    pass_fds=line.pass_fds,
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


def settle(judge: Judge, disputes: Sequence[Dispute], names: Sequence[str], keeps: Keeps) -> JudgeReport:
    """Measure both models against the truth, the smallest probe first.

    The candidate is right where it ``keeps`` its budget of the truth, or errs no more than the original.
    Ends with the first probe on which it is wrong, or when the judge's time is over. ``names`` are all
    outputs of the model, in its order.
    """

    def is_right(name: str, original: Distance, candidate: Distance) -> bool:
        return keeps(name, candidate) or acceptable(original, candidate)

    errors: dict[str, list[tuple[Distance, Distance]]] = {}
    judged_probes = 0
    failure = ""
    for dispute in sorted(disputes, key=lambda one: sum(array.size for array in one.probe.values())):
        try:
            truth = dict(zip(names, judge.truth(dispute.probe), strict=True))
        except JudgeFailed as error:
            failure = str(error)
            break
        if strange := [name for name in dispute.outputs if not _is_comparable(truth[name], name, dispute)]:
            failure = f"what float64 gives for {', '.join(strange)} has another shape, or is text"
            break
        judged_probes += 1
        for name in dispute.outputs:
            errors.setdefault(name, []).append(_errors(truth[name], name, dispute))
        if not all(is_right(name, *errors[name][-1]) for name in dispute.outputs):
            break
    return JudgeReport(
        breaching_probes=len(disputes),
        judged_probes=judged_probes,
        outputs=tuple(
            JudgedOutput(
                output=name,
                original_error=worst(original for original, _ in errors[name]).relative_l2,
                candidate_error=worst(candidate for _, candidate in errors[name]).relative_l2,
                candidate_acceptable=all(is_right(name, *pair) for pair in errors[name]),
            )
            for name in names
            if name in errors
        ),
        failure=failure,
    )


def _is_comparable(truth: Array, name: str, dispute: Dispute) -> bool:
    shapes = {dispute.reference[name].shape, dispute.candidate[name].shape}
    return truth.shape in shapes and truth.dtype.kind not in "OSU"


def _errors(truth: Array, name: str, dispute: Dispute) -> tuple[Distance, Distance]:
    """Of the original and of the candidate; where the original has no number, neither is measured.

    Only a candidate that has none either, where there is one, errs beyond measure.
    """
    reference, candidate = dispute.reference[name], dispute.candidate[name]
    least = dispute.least.get(name, Size())
    if is_float(reference.dtype) and truth.shape == reference.shape == candidate.shape:
        known = np.isfinite(reference)
        lost = ~known & np.isfinite(truth) & ~np.isfinite(candidate)
        truth, reference, candidate = truth[known], reference[known], candidate[known]
        if lost.any():
            return distance(truth, reference, least), Distance(math.inf, math.inf, int(lost.sum()))
    return distance(truth, reference, least), distance(truth, candidate, least)


def acceptable(original: Distance, candidate: Distance) -> bool:
    """Whether a candidate's distance from the truth is of the order of the original's own, or less."""
    return (
        math.isfinite(candidate.relative_l2)
        and candidate.relative_l2 <= ACCEPTABLE_RATIO * original.relative_l2
        and candidate.scaled_max <= ACCEPTABLE_RATIO * original.scaled_max
    )
