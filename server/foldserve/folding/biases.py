"""Biases: stripping those that do nothing, and counting what became of each.

absorbed    it lay ahead of an affine that was folded: E[w·x + b] cancels b, and one bias is left for both
zero        every element is exactly zero
dead        the operators behind it cannot see a shift per channel: InstanceNormalization, a
            BatchNormalization on batch statistics, a subtraction of the mean
"""

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from foldserve.folding.affine import Affine
from foldserve.folding.apply import Editor
from foldserve.folding.constants import Constant
from foldserve.folding.evaluate import Constants
from foldserve.folding.plan import Plan
from foldserve.folding.planner import Planner
from foldserve.folding.report import BATCH_NORMALIZATION, BiasFate, CreatedBias, StrippedBias
from foldserve.folding.shapes import rank
from foldserve.folding.sites import uses_batch_statistics
from foldserve.folding.steps import Refusal, name_of

_BIASED = frozenset({"Conv", "ConvTranspose", "Gemm"})
_BIAS = 2
"""Index of the bias among the inputs of each of them."""


class Biases:
    """The biases of one model, before and after folding."""

    def __init__(self, nodes: Sequence[ir.Node], constants: Constants) -> None:
        self._constants = constants
        self._before = {
            node: constants.operand(node, _BIAS)
            for node in nodes
            if node.domain == "" and node.op_type in _BIASED
        }
        self._fates: dict[ir.Node, BiasFate] = {}
        self._appended: list[CreatedBias] = []
        self._some_may_be_dead = any(_subtracts_mean(node, constants.opset) for node in nodes)

    def absorbed(self, node: ir.Node) -> None:
        """Note that an affine from behind ``node`` went into it."""
        if self._before.get(node) is not None:
            self._fates[node] = BiasFate.ABSORBED

    def appended(self, node: ir.Node, shift: Constant) -> None:
        """Note that an Add of ``shift`` now follows ``node``."""
        self._appended.append(CreatedBias(node=name_of(node), parameters=shift.size, bytes=shift.nbytes))

    def strip(self, editor: Editor, planner: Planner) -> None:
        """Remove every bias that is zero or dead."""
        for node in self._before:
            bias = self._constants.operand(node, _BIAS)
            if bias is None or not bias.is_float or not _may_lack_bias(node, self._constants.opset):
                continue
            if not bias.exact().any():
                self._fates.setdefault(node, BiasFate.ZERO)
            elif self._some_may_be_dead and (plan := _without(node, bias, planner)) is not None:
                self._fates.setdefault(node, BiasFate.DEAD)
                editor.rename(plan)
            else:
                continue
            editor.set_operand(node, _BIAS, None)

    def stripped(self) -> tuple[StrippedBias, ...]:
        """The biases of the original that are gone or merged."""
        return tuple(
            StrippedBias(node=name_of(node), parameters=bias.size, bytes=bias.nbytes, fate=fate)
            for node, fate in self._fates.items()
            if (bias := self._before[node]) is not None
        )

    def created(self) -> tuple[CreatedBias, ...]:
        """The biases that the original had not."""
        inside = [
            CreatedBias(node=name_of(node), parameters=bias.size, bytes=bias.nbytes)
            for node, before in self._before.items()
            if before is None and node.graph and (bias := self._constants.operand(node, _BIAS)) is not None
        ]
        return (*inside, *self._appended)


def _may_lack_bias(node: ir.Node, opset: int) -> bool:
    """Gemm needs its C before operator set 11."""
    return node.op_type != "Gemm" or opset >= 11


def _subtracts_mean(node: ir.Node, opset: int) -> bool:
    """Whether the node may hide a shift per channel from what lies behind it."""
    if node.op_type == BATCH_NORMALIZATION:
        return uses_batch_statistics(node, opset)
    return node.op_type in ("InstanceNormalization", "Sub")


def _without(node: ir.Node, bias: Constant, planner: Planner) -> Plan | None:
    """How the values behind ``node`` change without its bias, if no constant has to make up for it."""
    output_rank = rank(node.outputs[0])
    if output_rank is None or len(bias.shape) != 1:
        return None
    lost = Affine.along(np.ones(bias.size), -_beta(node) * bias.exact(), axis=1, rank=output_rank)
    plan = planner.plan_shift(node, lost)
    if isinstance(plan, Refusal) or plan.operands or plan.operators or plan.attributes:
        return None
    return plan


def _beta(node: ir.Node) -> float:
    return node.attributes.get_float("beta", 1.0) if node.op_type == "Gemm" else 1.0
