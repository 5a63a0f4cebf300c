"""Single answers in service against the reference's: what counts as a difference there.

The proof at load compares many rows of made-up inputs; service compares what comes, one row at a time, and
whoever sends it may mean ill. So it differs from the proof in three things:

- An answer that happens to be near zero, a single logit say, is measured by the size that this output usually
  has, the median of the last answers: noise is relative to the terms that cancelled, not to what is left.
- What is not finite in the *reference* proves nothing: the original overflowed. Where the answer is another
  one there, the check is inconclusive, if nothing else is wrong.
- Of an output without floats, of labels say, some elements may differ: at a tie any rounding decides.
"""

from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import sqrt
from statistics import median

import numpy as np

from foldserve.parity.gate import keeps
from foldserve.parity.measures import Distance, Size, distance, is_float, size_of
from foldserve.parity.report import ParityReport, Verdict
from foldserve.runtime.session import Array
from foldserve.settings import ParityBudget

REMEMBERED_SIZES = 64
"""Answers that tell the usual size of an output."""

DIFFERING_SHARE = 1e-3
"""Share of the elements of an output without floats that may differ."""

ALLOWANCE = 3.0
"""Times the distance at load that a model may have in service whose original was judged inaccurate there."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """One answer against the reference's, output by output."""

    distances: Mapping[str, Distance]
    breaching: frozenset[str]
    """Outputs that left their budget."""

    inconclusive: bool = False
    """Whether the reference has no number for something that was answered."""


class LiveComparison:
    """Compares answers of one model, whose outputs have ``budgets``; for one thread."""

    def __init__(self, budgets: Mapping[str, ParityBudget]) -> None:
        self.budgets = budgets
        self._sizes: dict[str, deque[Size]] = {name: deque(maxlen=REMEMBERED_SIZES) for name in budgets}

    def of(self, expected: Mapping[str, Array], answered: Mapping[str, Array]) -> Comparison:
        """How far ``answered`` is from what the reference answers, ``expected``."""
        distances: dict[str, Distance] = {}
        inconclusive = False
        for name, reference in expected.items():
            candidate = answered[name]
            if is_float(reference.dtype) and reference.shape == candidate.shape:
                known, answer, unknown = _known(reference, candidate)
                inconclusive |= unknown
                distances[name] = distance(known, answer, self._usual_size(name, known))
            else:
                distances[name] = distance(reference, candidate)
        breaching = frozenset(name for name in distances if not self.keeps(name, distances[name]))
        return Comparison(distances, breaching, inconclusive and not breaching)

    def keeps(self, name: str, found: Distance) -> bool:
        """Whether the distance of an output is within its budget."""
        share_of_mismatches = found.mismatches and found.relative_l2 <= DIFFERING_SHARE
        return bool(share_of_mismatches) or keeps(self.budgets[name], found)

    def evidence(self, comparison: Comparison) -> str:
        """Which outputs left their budget, and how far."""
        texts = []
        for name in sorted(comparison.breaching):
            found, budget = comparison.distances[name], self.budgets[name]
            mismatches = f", {found.mismatches} elements that are no match" if found.mismatches else ""
            texts.append(
                f"'{name}': relative L2 {found.relative_l2:.2g} (budget {budget.relative_l2:.2g}), "
                f"scaled max {found.scaled_max:.2g} (budget {budget.scaled_max:.2g}){mismatches}"
            )
        return ", ".join(texts)

    def _usual_size(self, name: str, reference: Array) -> Size:
        """The size of an output of as many elements as ``reference``, which is remembered."""
        elements = max(reference.size, 1)
        own, sizes = size_of(reference), self._sizes[name]
        sizes.append(Size(own.norm / sqrt(elements), own.largest))
        root_mean_square = median(size.norm for size in sizes)
        return Size(root_mean_square * sqrt(elements), median(size.largest for size in sizes))


def budgets_in_service(report: ParityReport, outputs: Iterable[str]) -> dict[str, ParityBudget]:
    """How far each of ``outputs`` may be from the reference in service, by the proof at load.

    As far as at load; further where float64 found there that it is the original that is inaccurate: the
    distance between the two is then its error, and stays.
    """
    budgets = dict.fromkeys(outputs, report.budget)
    if report.verdict is Verdict.ORIGINAL_INACCURATE:
        for found in report.outputs:
            budgets[found.output] = ParityBudget(
                relative_l2=_allowed(report.budget.relative_l2, found.relative_l2),
                scaled_max=_allowed(report.budget.scaled_max, found.scaled_max),
            )
    return budgets


def _allowed(budget: float, at_load: float) -> float:
    # An infinite distance comes from elements that are not finite, which do not count in service.
    return max(budget, ALLOWANCE * at_load) if np.isfinite(at_load) else budget


def _known(reference: Array, candidate: Array) -> tuple[Array, Array, bool]:
    """Both without the elements for which the reference has no number, and whether they differ in these.

    Where all of the reference is finite, they are as they were.
    """
    finite = np.isfinite(reference)
    if finite.all():
        return reference, candidate, False
    expected, answered = reference[~finite], candidate[~finite]
    same = (expected == answered) | (np.isnan(expected) & np.isnan(answered))
    return reference[finite], candidate[finite], not bool(same.all())
