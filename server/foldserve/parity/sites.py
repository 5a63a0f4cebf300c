"""Fold by fold: which values of the folded model are not what they should be, whatever came before them?

The end-to-end gate says that a fold is wrong; this says where, and it sees what the outputs hide: a fault in
a channel that a Relu silences moves no answer of the probes. The folded model is cut open at the values that
it has in common with the original, and each part is given the original's own values to work on. So each site
answers for itself: errors do not add up on the way, and a wrong fold spoils no site but its own. Where a site
leaves the budget, the same part of the original, in float64, says which of the two is nearer the truth.

Both models run without graph optimisation, so that no value disappears.
"""

import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

import onnx_ir as ir

from foldserve.parity.gate import keeps
from foldserve.parity.judge import Float64Judge, JudgeFailed, acceptable
from foldserve.parity.measures import Distance, distance, worst
from foldserve.parity.precision import model_precision, scaled_budget
from foldserve.parity.probes import Probe
from foldserve.parity.reference import LARGEST_FETCH_BYTES, Reference, value_bytes
from foldserve.parity.report import SiteParity
from foldserve.parity.sections import computed_values, given_name, saved, section, unoptimised
from foldserve.runtime.session import Array
from foldserve.runtime.tensors import TensorSpec
from foldserve.settings import ParityBudget

JUDGING_S = 60.0
"""Time for float64, all sites together."""

Pair = tuple[str, str]
"""Name of a value in the original, and of the value in the folded model that equals it."""


def compare_sites(
    reference: Reference,
    folded: ir.Model,
    pairs: Sequence[Pair],
    probes: Sequence[Probe],
    budget: ParityBudget,
    *,
    judging_s: float = JUDGING_S,
) -> tuple[SiteParity, ...]:
    """Compare the values of each pair; the worst of ``probes``, in the order of the original's graph.

    ``reference`` has the original. The models are not changed. Pairs with a value inside a subgraph (the body
    of an If or a Loop) are left out: it cannot be an output. Limits of ``budget`` left at their defaults are
    scaled to the coarsest float type among the original's weights. Raises what sessions raise.
    """
    original = reference.model
    order = {name: index for index, name in enumerate(computed_values(original))}
    known = computed_values(folded)
    chosen = sorted(
        (pair for pair in dict.fromkeys(pairs) if pair[0] in order and pair[1] in known),
        key=lambda pair: order[pair[0]],
    )
    if not chosen:
        return ()
    specs = reference.expose([pair[0] for pair in chosen])
    comparison = _Comparison(
        reference,
        folded,
        given_in_original={pair[0]: specs[pair[0]] for pair in chosen},
        given_in_folded={pair[1]: specs[pair[0]] for pair in chosen},
        budget=scaled_budget(budget, model_precision(original)),
        deadline=time.monotonic() + judging_s,
    )
    return tuple(site for group in _groups(chosen, specs, probes) for site in comparison.of(group, probes))


@dataclass(frozen=True)
class _Comparison:
    """Two models that are cut open at the same values."""

    reference: Reference
    folded: ir.Model
    given_in_original: Mapping[str, TensorSpec]
    """By the name of a value: what stands for it in a section."""

    given_in_folded: Mapping[str, TensorSpec]
    budget: ParityBudget
    deadline: float
    """When the time for float64 is over, as time.monotonic() has it."""

    def of(self, pairs: Sequence[Pair], probes: Sequence[Probe]) -> Iterator[SiteParity]:
        """Some of the pairs, on all of the probes."""
        distances: dict[Pair, list[Distance]] = {pair: [] for pair in pairs}
        wrong: set[Pair] = set()
        names = list(dict.fromkeys(pair[1] for pair in pairs))
        part = section(self.folded, names, self.given_in_folded)
        originals = self._given_in([pair[0] for pair in pairs], part)
        with unoptimised(part) as candidate:
            for probe in probes:
                expected = dict(zip(originals, self.reference.values(probe, originals), strict=True))
                actual = dict(zip(names, candidate.run(_feed(part, probe, expected), names), strict=True))
                for pair in pairs:
                    distances[pair].append(distance(expected[pair[0]], actual[pair[1]]))
                disputed = [pair for pair in pairs if not keeps(self.budget, distances[pair][-1])]
                if disputed:
                    wrong |= self._wrong(disputed, probe, expected, actual)
        for pair, found in distances.items():
            yield _site(pair, worst(found), right=pair not in wrong)

    def _given_in(self, names: Collection[str], part: ir.Model) -> list[str]:
        """The original's values ``names``, and those that ``part`` reads."""
        read = {value.name for value in part.graph.inputs}
        return [name for name in self.given_in_original if name in names or given_name(name) in read]

    def _wrong(
        self,
        disputed: Collection[Pair],
        probe: Probe,
        expected: Mapping[str, Array],
        actual: Mapping[str, Array],
    ) -> set[Pair]:
        """The pairs for which float64 does not say that the folded model's value is as good as the other."""
        names = list(dict.fromkeys(pair[0] for pair in disputed))
        part = section(self.reference.model, names, self.given_in_original)
        read = self._given_in((), part)
        given = dict(zip(read, self.reference.values(probe, read), strict=True)) if read else {}
        with saved(part) as file:
            judge = Float64Judge(file, time_limit_s=self.deadline - time.monotonic())
            try:
                truth = dict(zip(names, judge.truth(_feed(part, probe, given)), strict=True))
            except JudgeFailed:
                return set(disputed)
        return {
            pair
            for pair in disputed
            if not acceptable(
                distance(truth[pair[0]], expected[pair[0]]), distance(truth[pair[0]], actual[pair[1]])
            )
        }


def _feed(part: ir.Model, probe: Probe, given: Mapping[str, Array]) -> Probe:
    """What a section reads: inputs of the model, and values of the original."""
    known = {**probe, **{given_name(name): array for name, array in given.items()}}
    read = {value.name for value in part.graph.inputs}
    return {name: array for name, array in known.items() if name in read}


def _site(pair: Pair, measured: Distance, *, right: bool) -> SiteParity:
    return SiteParity(
        original_value=pair[0],
        candidate_value=pair[1],
        relative_l2=measured.relative_l2,
        scaled_max=measured.scaled_max,
        within_budget=right,
    )


def _groups(
    pairs: Sequence[Pair], specs: Mapping[str, TensorSpec], probes: Sequence[Probe]
) -> Iterator[list[Pair]]:
    """Neighbouring pairs whose values can be fetched together."""
    group: list[Pair] = []
    taken = 0
    for pair in pairs:
        size = max((value_bytes(specs[pair[0]], probe) for probe in probes), default=0)
        if group and taken + size > LARGEST_FETCH_BYTES:
            yield group
            group, taken = [], 0
        group.append(pair)
        taken += size
    if group:
        yield group
