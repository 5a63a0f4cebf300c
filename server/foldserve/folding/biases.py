"""Biases: stripping those that do nothing, and counting what became of each.

absorbed    it lay ahead of an affine that was folded: E[w·x + b] cancels b, and one bias is left for both
zero        every element is exactly zero
dead        the operators behind it cannot see a shift per channel: InstanceNormalization, a
            BatchNormalization on batch statistics, a subtraction of the mean
"""

from collections.abc import Iterable

import numpy as np
import onnx_ir as ir

from foldserve.folding.affine import Affine
from foldserve.folding.apply import Editor
from foldserve.folding.constants import Constant
from foldserve.folding.evaluate import Constants
from foldserve.folding.plan import Plan
from foldserve.folding.planner import Planner
from foldserve.folding.report import BiasFate, CreatedBias, StrippedBias
from foldserve.folding.shapes import rank
from foldserve.folding.steps import name_of

_BIASED = frozenset({"Conv", "ConvTranspose", "Gemm"})
_BIAS = 2
"""Index of the bias among the inputs of each of them."""


class Biases:
    """The biases of one model, before and after folding."""

    def __init__(self, nodes: Iterable[ir.Node], constants: Constants) -> None:
        self._constants = constants
        self._before = {
            node: constants.operand(node, _BIAS)
            for node in nodes
            if node.domain == "" and node.op_type in _BIASED
        }
        self._fates: dict[ir.Node, BiasFate] = {}

    def absorbed(self, node: ir.Node) -> None:
        """Note that an affine from behind ``node`` went into it."""
        if self._before.get(node) is not None:
            self._fates[node] = BiasFate.ABSORBED

    def strip(self, editor: Editor, planner: Planner) -> None:
        """Remove every bias that is zero or dead."""
        for node in self._before:
            bias = self._constants.operand(node, _BIAS)
            if bias is None or not bias.is_float or not _may_lack_bias(node, self._constants.opset):
                continue
            if not bias.exact().any():
                self._fates.setdefault(node, BiasFate.ZERO)
            elif _is_dead(node, bias, planner):
                self._fates.setdefault(node, BiasFate.DEAD)
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
        return tuple(
            CreatedBias(node=name_of(node), parameters=bias.size, bytes=bias.nbytes)
            for node, before in self._before.items()
            if before is None and (bias := self._constants.operand(node, _BIAS)) is not None
        )


def _may_lack_bias(node: ir.Node, opset: int) -> bool:
    """Gemm needs its C before operator set 11."""
    return node.op_type != "Gemm" or opset >= 11


def _is_dead(node: ir.Node, bias: Constant, planner: Planner) -> bool:
    """Whether the output may lose the bias without any constant having to make up for it."""
    output_rank = rank(node.outputs[0])
    if output_rank is None or len(bias.shape) != 1:
        return False
    lost = Affine.along(np.ones(bias.size), -_beta(node) * bias.exact(), axis=1, rank=output_rank)
    plan = planner.plan_shift(node, lost)
    return isinstance(plan, Plan) and not plan.operands and not plan.operators and not plan.attributes


def _beta(node: ir.Node) -> float:
    return node.attributes.get_float("beta", 1.0) if node.op_type == "Gemm" else 1.0
