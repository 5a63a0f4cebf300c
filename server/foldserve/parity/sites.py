"""Fold by fold: which values of the folded model have left those of the original?

The end-to-end gate says that a fold is wrong; this says where. Both models are given the values to compare as
additional outputs and run without graph optimisation, so that no value disappears.
"""

import tempfile
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import onnx_ir as ir

from foldserve.parity.gate import keeps
from foldserve.parity.measures import Distance, distance, worst
from foldserve.parity.precision import model_precision, scaled_budget
from foldserve.parity.probes import Probe
from foldserve.parity.report import SiteParity
from foldserve.runtime.onnxruntime_session import OnnxRuntimeSession
from foldserve.runtime.session import Session
from foldserve.settings import ParityBudget, ProviderChoice

VALUES_PER_RUN = 16
"""Values fetched at once: all activations of a deep network together need not fit into memory."""

Pair = tuple[str, str]
"""Name of a value in the original, and of the value in the folded model that equals it."""


def compare_sites(
    original: ir.Model, folded: ir.Model, pairs: Sequence[Pair], probes: Sequence[Probe], budget: ParityBudget
) -> tuple[SiteParity, ...]:
    """Compare the values of each pair; the worst of ``probes``, in the order of the original's graph.

    The models are not changed. Pairs with a value inside a subgraph (the body of an If or a Loop) are left
    out: it cannot be an output. Limits of ``budget`` left at their defaults are scaled to the coarsest
    float type among the original's weights. Raises what :class:`OnnxRuntimeSession` raises.
    """
    order = {value: index for index, value in enumerate(_values(original))}
    known = set(_values(folded))
    chosen = sorted(
        (pair for pair in pairs if pair[0] in order and pair[1] in known), key=lambda pair: order[pair[0]]
    )
    applied = scaled_budget(budget, model_precision(original))
    with (
        tempfile.TemporaryDirectory(prefix="foldserve-sites-") as folder,
        closing(_session(original, [pair[0] for pair in chosen], Path(folder, "original"))) as reference,
        closing(_session(folded, [pair[1] for pair in chosen], Path(folder, "folded"))) as candidate,
    ):
        groups = [chosen[start : start + VALUES_PER_RUN] for start in range(0, len(chosen), VALUES_PER_RUN)]
        return tuple(
            site for group in groups for site in _compare(reference, candidate, group, probes, applied)
        )


def _compare(
    reference: Session,
    candidate: Session,
    pairs: Sequence[Pair],
    probes: Sequence[Probe],
    budget: ParityBudget,
) -> list[SiteParity]:
    distances: list[list[Distance]] = [[] for _ in pairs]
    for probe in probes:
        expected = reference.run(probe, [pair[0] for pair in pairs])
        actual = candidate.run(probe, [pair[1] for pair in pairs])
        for found, *arrays in zip(distances, expected, actual, strict=True):
            found.append(distance(*arrays))
    return [_site(pair, worst(found), budget) for pair, found in zip(pairs, distances, strict=True)]


def _site(pair: Pair, measured: Distance, budget: ParityBudget) -> SiteParity:
    return SiteParity(
        original_value=pair[0],
        candidate_value=pair[1],
        relative_l2=measured.relative_l2,
        scaled_max=measured.scaled_max,
        within_budget=keeps(budget, measured),
    )


def _session(model: ir.Model, names: Sequence[str], folder: Path) -> Session:
    """The model, unoptimised, with the named values as additional outputs."""
    exposed = model.clone()
    outputs = {value.name for value in exposed.graph.outputs}
    values = _values(exposed)
    exposed.graph.outputs.extend(values[name] for name in dict.fromkeys(names) if name not in outputs)
    folder.mkdir()
    ir.save(exposed, folder / "model.onnx", external_data="weights")
    return OnnxRuntimeSession(folder / "model.onnx", provider=ProviderChoice.CPU, optimise=False)


def _values(model: ir.Model) -> dict[str, ir.Value]:
    """Everything that a node of the main graph computes, by name, in the graph's order."""
    return {value.name: value for node in model.graph for value in node.outputs if value.name}
