"""Applying: change the graph as a complete plan says.

Names keep their meaning: a value that holds something else than before gets a new name, so that a name
that both models know is the same value in both. The tensor that stands for both ends of the affine is
named after the end that it equals. Weights are only rounded and written at the very end
(:meth:`Editor.finish`), however many plans touched them.
"""

import hashlib
from collections.abc import Collection

import numpy as np
import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass

from foldserve.folding.constants import Constant
from foldserve.folding.evaluate import Constants
from foldserve.folding.merge import Merge
from foldserve.folding.plan import Plan
from foldserve.folding.sites import Site
from foldserve.folding.steps import name_of


class Editor:
    """Changes one model, of which it must be the only owner."""

    def __init__(self, model: ir.Model, constants: Constants) -> None:
        self._model = model
        self._constants = constants
        self._names = _all_names(model)
        self._written: dict[ir.Value, ir.Value | None] = {}
        """New constant operands, and the one that each took the place of."""

    def apply(self, site: Site, plan: Plan) -> None:
        """Make the affine vanish as ``plan`` says."""
        for (node, index), constant in plan.operands.items():
            self.set_operand(node, index, constant)
        for node, operator in plan.operators.items():
            node.op_type = operator
        for (node, name), number in plan.attributes.items():
            if isinstance(number, int):
                node.attributes[name] = ir.AttrInt64(name, number)
            else:
                node.attributes[name] = ir.AttrFloat32(name, number)
        self.rename(plan, besides=(site.x, site.y))
        self._bypass(site, plan)
        for node, shift in plan.appended.items():
            self._append_add(node, shift)

    def rename(self, plan: Plan, besides: Collection[ir.Value] = ()) -> None:
        """Give every value that ``plan`` changes a new name."""
        for value, change in plan.values.items():
            if value not in besides and not change.is_identity:
                value.name = self.fresh(value.name or "value")

    def write(self, value: ir.Value, constant: Constant) -> None:
        """Let every reader of ``value`` read ``constant`` instead."""
        for node, index in value.uses():
            self.set_operand(node, index, constant)

    def merge(self, merge: Merge) -> None:
        """Let one convolution do the work of two branches and their sum."""
        self.set_operand(merge.large, 1, merge.weight)
        self.set_operand(merge.large, 2, merge.bias)
        kept, total = merge.large.outputs[0], merge.total.outputs[0]
        name, total.name = total.name, self.fresh(total.name or "value")
        kept.name = name
        self._replace(total, kept)
        for node in (merge.total, merge.small):
            _remove(node)

    def set_operand(self, node: ir.Node, index: int, constant: Constant | None) -> None:
        """Give ``node`` a constant operand of its own, or take it away."""
        if constant is None:
            if index < len(node.inputs):
                node.replace_input_with(index, None)
            return
        if index >= len(node.inputs):
            node.resize_inputs(index + 1)
        old = node.inputs[index]
        value = ir.Value(
            name=self.fresh(old.name if old is not None and old.name else f"{name_of(node)}.{index}"),
            shape=ir.Shape(constant.shape),
            type=ir.TensorType(constant.dtype),
        )
        node.replace_input_with(index, value)
        self._constants.add(value, constant)
        self._written[value] = self._written.get(old, old) if old is not None else None

    def fresh(self, name: str) -> str:
        """A name like ``name`` that nothing in the model has."""
        candidate, number = f"{name}_folded", 1
        while candidate in self._names:
            number += 1
            candidate = f"{name}_folded_{number}"
        self._names.add(candidate)
        return candidate

    def finish(self) -> None:
        """Drop what nobody reads any more, then round and write the new constants, one at a time.

        Equal constants that come from the same tensor become one initializer.
        """
        RemoveUnusedNodesPass()(self._model)
        written: dict[bytes, ir.Value] = {}
        for value, old in self._written.items():
            constant = self._constants.of(value)
            if not value.uses() or constant is None:
                continue
            twin = written.setdefault(_fingerprint(constant), value)
            if twin is not value:
                value.replace_all_uses_with(twin)
                continue
            if old is not None and old.graph is None and old.name not in self._model.graph.initializers:
                value.name = old.name
            value.const_value = constant.rounded()
            value.const_value.name = value.name
            self._model.graph.register_initializer(value)

    def _bypass(self, site: Site, plan: Plan) -> None:
        """Let x take the place of y, under the name of the one that it now equals."""
        if plan.values[site.y].is_identity:
            name, site.y.name = site.y.name, self.fresh(site.y.name or "value")
            site.x.name = name
        elif not plan.values[site.x].is_identity:
            site.x.name = self.fresh(site.x.name or "value")
        self._replace(site.y, site.x)
        _remove(site.node)

    def _replace(self, old: ir.Value, new: ir.Value) -> None:
        """Let everybody read ``new`` instead of ``old``."""
        if old.is_graph_output() or new.shape is None:
            new.shape, new.type = old.shape, old.type
        old.replace_all_uses_with(new, replace_graph_outputs=True)

    def _append_add(self, node: ir.Node, shift: Constant) -> None:
        """Put an Add of ``shift`` behind ``node``."""
        raw = node.outputs[0]
        add = ir.node("Add", [None, None], name=self.fresh(f"{name_of(node)}.shift"), version=node.version)
        total = add.outputs[0]
        total.shape, total.type = raw.shape, raw.type
        total.name, raw.name = raw.name, self.fresh(raw.name or "value")
        raw.replace_all_uses_with(total, replace_graph_outputs=True)
        add.replace_input_with(0, raw)
        self.set_operand(add, 1, shift)
        node.append(add)


def _remove(node: ir.Node) -> None:
    if node.graph is not None:
        node.graph.remove(node, safe=True)


def _all_names(model: ir.Model) -> set[str]:
    names: set[str] = set()
    for graph in model.graphs():
        names.update(value.name for value in (*graph.inputs, *graph.initializers.values()) if value.name)
        for node in graph:
            names.update(value.name for value in node.outputs if value.name)
            if node.name:
                names.add(node.name)
    return names


def _fingerprint(constant: Constant) -> bytes:
    """Equal for constants that are the same numbers for certain."""
    digest = hashlib.blake2b(f"{constant.dtype} {constant.shape}".encode())
    if isinstance(constant.base, np.ndarray):
        digest.update(np.ascontiguousarray(constant.base).tobytes())
    else:
        digest.update(id(constant.base).to_bytes(8, "little"))
    for factor in constant.factors:
        digest.update(str(factor.shape).encode() + np.ascontiguousarray(factor).tobytes())
    return digest.digest()
