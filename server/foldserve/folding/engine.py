"""fold: the whole engine in one call.

The model is copied (weights are shared, not copied), its sites are listed, each is planned and applied,
then useless biases go, and what is left is written out. Sites are tried in the order of the graph, tier
by tier, so that a site is never folded in a more intrusive way than it needs.
"""

from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass

import onnx_ir as ir

from foldserve.errors import UnsupportedModel
from foldserve.folding.apply import Editor
from foldserve.folding.biases import Biases
from foldserve.folding.constants import Constant
from foldserve.folding.evaluate import Constants
from foldserve.folding.merge import find_merge
from foldserve.folding.planner import Planner
from foldserve.folding.prepare import prepared
from foldserve.folding.report import (
    BATCH_NORMALIZATION,
    Direction,
    FoldReport,
    FoldSite,
    Outcome,
    Reason,
    ValuePair,
)
from foldserve.folding.sites import Site, find_site
from foldserve.folding.steps import Refusal, name_of

OLDEST_OPSET = 7
"""Older operator sets broadcast by attributes that the rules do not read."""


@dataclass(frozen=True)
class FoldResult:
    """A folded model and what was done to it."""

    model: ir.Model
    """A new model; it shares the tensors of unchanged weights with the original."""

    report: FoldReport


def fold(model: ir.Model, *, max_tier: int = 1, keep: Collection[str] = ()) -> FoldResult:
    """Fold every affine that can be folded exactly.

    Args:
        model: Any ONNX model of operator set 7 or newer. It is not modified.
        max_tier: The most intrusive tier to use: 0 adjacent, 1 carried, 2 compensated, 3 Relu as maximum.
        keep: Names of sites (see :class:`~foldserve.folding.report.FoldSite`) to leave as they are.

    Returns:
        The folded model, with the same inputs and outputs, and the report.

    Raises:
        UnsupportedModel: The operator set is older than 7. InvalidModel: A BatchNormalization has NaN or
        infinite parameters, or a variance + epsilon that is not positive.
    """
    opset = model.graph.opset_imports.get("", 0)
    if 0 < opset < OLDEST_OPSET:
        raise UnsupportedModel(
            f"the model uses operator set {opset}, and folding needs {OLDEST_OPSET} or newer: convert it "
            "with onnx.version_converter.convert_version"
        )
    return _Folding(model, opset, frozenset(keep)).run(max_tier)


class _Folding:
    """The state of one call of fold."""

    def __init__(self, original: ir.Model, opset: int, keep: Collection[str]) -> None:
        self._original = original
        self._keep = keep
        self._model = prepared(original)
        self._opset = opset
        self._constants = Constants(opset)
        self._planner = Planner(self._constants)
        self._editor = Editor(self._model, self._constants)
        nodes = list(self._model.graph.all_nodes())
        self._biases = Biases(nodes, self._constants)
        self._names_before = _value_names(self._model.graph)
        self._near: dict[ir.Node, list[str]] = {}
        """Names, as the original has them, of the values around each folded site."""
        self._records = {node: record for node in nodes if (record := self._listed(node)) is not None}

    def run(self, max_tier: int) -> FoldResult:
        for tier in range(min(1, max_tier), max_tier + 1):
            self._sweep(tier)
            while tier > 0 and self._merge():
                self._sweep(tier)
        self._biases.strip(self._editor, self._planner)
        self._editor.finish()
        return FoldResult(self._model, self._report())

    def _sweep(self, tier: int) -> None:
        """Try every site that is still there, in the order of the graph."""
        for node, record in self._records.items():
            if record.outcome is Outcome.STAYED and record.name not in self._keep:
                self._records[node] = self._attempted(node, record, tier)

    def _merge(self) -> bool:
        """Merge parallel branches; whether there were any."""
        found = False
        for node in list(self._model.graph.all_nodes()):
            merge = find_merge(node, self._constants)
            if merge is None or name_of(merge.small) in self._keep:
                continue
            found = True
            if merge.small in self._records:
                self._near[merge.small] = [merge.total.outputs[0].name or ""]
                self._records[merge.small] = _changed(
                    self._records[merge.small],
                    outcome=Outcome.FOLDED,
                    tier=1,
                    direction=Direction.MERGED,
                    reason=None,
                    detail=f"merged with {name_of(merge.large)}, which runs beside it",
                    absorbed_by=(name_of(merge.large),),
                )
            self._editor.merge(merge)
        return found

    def _listed(self, node: ir.Node) -> FoldSite | None:
        """The record of ``node``, as staying for now; None if it is no affine."""
        site = find_site(node, self._constants, self._opset)
        if site is None:
            return None
        record = FoldSite(
            name=name_of(node),
            operator=node.op_type,
            outcome=Outcome.STAYED,
            reason=Reason.EXCLUDED,
            detail="left as the caller asked",
            output=node.outputs[0].name or "",
        )
        if isinstance(site, Refusal):
            return _changed(record, reason=site.reason, detail=site.detail)
        return _changed(
            record,
            channels=site.channels,
            scale_min=float(site.affine.scale.min()),
            scale_max=float(site.affine.scale.max()),
            warnings=site.warnings,
        )

    def _attempted(self, node: ir.Node, record: FoldSite, tier: int) -> FoldSite:
        """Fold the affine of ``node`` if a plan of at most ``tier`` stands, and its new record."""
        if (constant := self._constants.of(node.outputs[0])) is not None:
            return self._evaluated(node, constant, record)
        # Found anew: what it reads, and its own constants, may have changed with the sites before it.
        site = find_site(node, self._constants, self._opset)
        if not isinstance(site, Site):
            return record
        plan = self._planner.plan(site, tier)
        if isinstance(plan, Refusal):
            return _changed(record, reason=plan.reason, detail=plan.detail)
        self._near[node] = [output.name or "" for absorber in plan.absorbed_by for output in absorber.outputs]
        for absorber in plan.made_by:
            self._biases.absorbed(absorber)
        for follower, shift in plan.appended.items():
            self._biases.appended(follower, shift)
        self._editor.apply(site, plan)
        absorbers = tuple(name_of(absorber) for absorber in plan.absorbed_by)
        return _changed(
            record,
            outcome=Outcome.FOLDED,
            tier=plan.tier,
            direction=plan.direction,
            reason=None,
            detail=f"absorbed {_WAY[plan.direction]} by {', '.join(absorbers) or 'nothing: nobody sees it'}",
            absorbed_by=absorbers,
        )

    def _evaluated(self, node: ir.Node, result: Constant, record: FoldSite) -> FoldSite:
        """A BatchNormalization of a weight is a constant."""
        if node.outputs[0].is_graph_output():
            return _changed(
                record, reason=Reason.GRAPH_OUTPUT, detail="a constant that is an output of the graph"
            )
        self._editor.write(node.outputs[0], result)
        return _changed(
            record,
            outcome=Outcome.FOLDED,
            tier=0,
            reason=None,
            detail="reads constants, so its result is one too",
        )

    def _report(self) -> FoldReport:
        names = _value_names(self._model.graph) & self._names_before
        sites = []
        for node, record in self._records.items():
            near = dict.fromkeys([record.output, *self._near.get(node, ())])
            pairs = tuple(ValuePair(original=name, folded=name) for name in near if name in names)
            if (
                record.operator == BATCH_NORMALIZATION
                or record.outcome is Outcome.FOLDED
                or _is_per_channel(record)
            ):
                sites.append(_changed(record, pairs=pairs if record.outcome is Outcome.FOLDED else ()))
        return FoldReport(
            sites=tuple(sites),
            stripped_biases=self._biases.stripped(),
            created_biases=self._biases.created(),
            operators_before=_operators_of(self._original),
            operators_after=_operators_of(self._model),
            initializer_bytes_before=_initializer_bytes(self._original),
            initializer_bytes_after=_initializer_bytes(self._model),
        )


_WAY = {
    Direction.UP: "upwards",
    Direction.DOWN: "downwards",
    Direction.BOTH: "upwards (shift) and downwards (scale)",
    Direction.MERGED: "sideways",
}


def _changed(record: FoldSite, **changes: object) -> FoldSite:
    return record.model_copy(update=changes)


def _is_per_channel(record: FoldSite) -> bool:
    """Whether arithmetic that stays looks like half a BatchNorm, rather than one number for everything."""
    return record.channels is not None and record.channels > 1


def _value_names(graph: ir.Graph) -> set[str]:
    return {output.name for node in graph for output in node.outputs if output.name}


def _operators_of(model: ir.Model) -> dict[str, int]:
    counts = Counter(node.op_type for node in model.graph.all_nodes())
    return dict(sorted(counts.items()))


def _initializer_bytes(model: ir.Model) -> int:
    tensors = [value.const_value for graph in model.graphs() for value in graph.initializers.values()]
    return sum(int(tensor.nbytes) for tensor in tensors if tensor is not None)
