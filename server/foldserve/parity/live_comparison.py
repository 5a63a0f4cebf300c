"""Single answers in service against the reference's: what counts as a difference there.

The proof at load compares many rows of made-up inputs; service compares what comes, one row at a time, and
whoever sends it may mean ill. So it differs from the proof in three things:

- An answer that happens to be near zero, a single logit say, is measured by the size that this output usually
  has, the median of the last answers: noise is relative to the terms that cancelled, not to what is left. It
  counts for at most :data:`MOST_TIMES` its own size, so that huge answers to one caller hide little of what
  is wrong with the answers to others.
- What is not finite in the *reference* proves nothing: the original overflowed. Where the answer is another
  one there, the check is inconclusive, if nothing else is wrong.
- Of an output without floats, of labels say, some elements may differ: at a tie any rounding decides. It is
  their share of the last answers that counts, and one answer alone is none.
- So it is with the arg-max, where the owner has set how many rows must agree: an answer that does not is a
  breach only while too few of the last ones do.
"""

from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from math import sqrt
from statistics import median

import numpy as np

from foldserve.parity.gate import agrees, keeps
from foldserve.parity.measures import Distance, Size, distance, is_float, size_of, worst
from foldserve.parity.report import ParityReport, Verdict
from foldserve.runtime.session import Array
from foldserve.settings import ParityBudget

REMEMBERED = 64
"""Answers that tell the usual size of an output, and how many of its labels differ."""

MOST_TIMES = 1000.0
"""A wrong answer of a hundredth of its own size stays a breach under the default budget of 1e-5."""

DIFFERING_SHARE = 1e-3
"""Share of the elements of an output without floats that may differ."""

ALLOWANCE = 3.0
"""Times the distance at load that a model may have in service whose original was judged inaccurate there."""

MOST_ALLOWED = 0.5
"""Never more, however inaccurate the original: an answer of zeros is at 1."""

Sizes = Mapping[str, Size]
"""By output; the norm is a root mean square: that of an output with one element."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """One answer against the reference's, output by output."""

    distances: Mapping[str, Distance]
    breaching: frozenset[str]
    """Outputs that left their budget."""

    inconclusive: bool = False
    """Whether the reference has no number for something that was answered."""

    sizes: Sizes = field(default_factory=dict)
    """The usual sizes by which it was measured."""


class LiveComparison:
    """Compares answers of one model, whose outputs have ``budgets``; for one thread."""

    def __init__(self, budgets: Mapping[str, ParityBudget]) -> None:
        self.budgets = budgets
        self._sizes: dict[str, deque[Size]] = {name: deque(maxlen=REMEMBERED) for name in budgets}
        self._mismatches: dict[str, deque[tuple[int, int]]] = {
            name: deque(maxlen=REMEMBERED) for name in budgets
        }
        self._top1: dict[str, deque[Distance]] = {name: deque(maxlen=REMEMBERED) for name in budgets}

    def of(self, expected: Mapping[str, Array], answered: Mapping[str, Array]) -> Comparison:
        """How far ``answered`` is from what the reference answers, ``expected``; both are remembered."""
        for name, reference in expected.items():
            if is_float(reference.dtype) and (size := _size_of_an_element(reference)) is not None:
                self._sizes[name].append(size)
        found = compare(expected, answered, self.budgets, self._usual_sizes())
        lone = {
            name
            for name, reference in expected.items()
            if not is_float(reference.dtype) and self._is_lone(name, found.distances[name], reference.size)
        }
        disagreeing = {name for name, one in found.distances.items() if self._disagrees(name, one)}
        breaching = (found.breaching - lone) | disagreeing
        return Comparison(found.distances, breaching, found.inconclusive and not disagreeing, found.sizes)

    def forget_mismatches(self) -> None:
        """Another session answers from now on. Any thread may call this."""
        for differing in self._mismatches.values():
            differing.clear()
        for agreeing in self._top1.values():
            agreeing.clear()

    def evidence(self, comparison: Comparison) -> str:
        """Which outputs left their budget, and how far."""
        texts = []
        for name in sorted(comparison.breaching):
            found, budget = comparison.distances[name], self.budgets[name]
            mismatches = f", {found.mismatches} elements that are no match" if found.mismatches else ""
            agreement = worst(list(self._top1[name]))
            top1 = (
                ""
                if agrees(budget, agreement)
                else (
                    f", top-1 {agreement.top1_agreement:.2g} of the last {agreement.rows} rows "
                    f"(budget {budget.top1_agreement:.2g})"
                )
            )
            texts.append(
                f"'{name}': relative L2 {found.relative_l2:.2g} (budget {budget.relative_l2:.2g}), "
                f"scaled max {found.scaled_max:.2g} (budget {budget.scaled_max:.2g}){mismatches}{top1}"
            )
        return ", ".join(texts)

    def _disagrees(self, name: str, found: Distance) -> bool:
        """Whether an answer's arg-max is another one, and that of too many of the last ones."""
        self._top1[name].append(Distance(rows=found.rows, agreeing_rows=found.agreeing_rows))
        last = list(self._top1[name])
        if found.agreeing_rows == found.rows or agrees(self.budgets[name], worst(last)):
            return False
        is_lone = sum(one.agreeing_rows < one.rows for one in last) == 1
        return not is_lone

    def _usual_sizes(self) -> Sizes:
        return {
            name: Size(median(size.norm for size in sizes), median(size.largest for size in sizes))
            for name, sizes in self._sizes.items()
            if sizes
        }

    def _is_lone(self, name: str, found: Distance, elements: int) -> bool:
        """Whether the mismatches of an output are few among its last answers, or all in one of them."""
        self._mismatches[name].append((found.mismatches, elements))
        answers = list(self._mismatches[name])
        differing = [mismatches for mismatches, _ in answers if mismatches]
        all_elements = sum(elements for _, elements in answers)
        # An output of another shape is no tie, however often it comes.
        is_a_tie = np.isfinite(found.relative_l2)
        return bool(is_a_tie) and (len(differing) <= 1 or sum(differing) <= DIFFERING_SHARE * all_elements)


def compare(
    expected: Mapping[str, Array],
    answered: Mapping[str, Array],
    budgets: Mapping[str, ParityBudget],
    sizes: Sizes,
) -> Comparison:
    """How far ``answered`` is from ``expected``, measured by the usual ``sizes`` of the outputs."""
    distances: dict[str, Distance] = {}
    inconclusive = False
    for name, reference in expected.items():
        candidate = answered[name]
        if is_float(reference.dtype) and reference.shape == candidate.shape:
            known, answer, unknown = _known(reference, candidate)
            inconclusive |= unknown
            distances[name] = distance(known, answer, least_size(known, sizes.get(name)))
        else:
            distances[name] = distance(reference, candidate)
    breaching = frozenset(name for name in distances if not within(budgets[name], distances[name]))
    return Comparison(distances, breaching, inconclusive and not breaching, sizes)


def within(budget: ParityBudget, found: Distance) -> bool:
    """Whether the distance of an output is within its budget in service."""
    is_a_share = found.mismatches and found.relative_l2 <= DIFFERING_SHARE
    return bool(is_a_share) or keeps(budget, found)


def least_size(reference: Array, usual: Size | None) -> Size:
    """The size by which an answer is measured that is smaller than this, from the ``usual`` one."""
    if usual is None:
        return Size()
    own, elements = size_of(reference), reference.size
    norm, largest = usual.norm * sqrt(elements), usual.largest
    # Nothing but zeros says nothing of the size of the terms that cancelled.
    return Size(
        min(norm, MOST_TIMES * own.norm) if own.norm else norm,
        min(largest, MOST_TIMES * own.largest) if own.largest else largest,
    )


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
                top1_agreement=report.budget.top1_agreement,
            )
    return budgets


def _allowed(budget: float, at_load: float) -> float:
    # An infinite distance comes from elements that are not finite, which do not count in service.
    return max(budget, min(ALLOWANCE * at_load, MOST_ALLOWED)) if np.isfinite(at_load) else budget


def _size_of_an_element(reference: Array) -> Size | None:
    """The size of an output if it had one element; None where nothing in it is finite, or all of it is 0."""
    known = reference[np.isfinite(reference)]
    size = size_of(known)
    return Size(size.norm / sqrt(known.size), size.largest) if size.largest else None


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
