"""Quantised weights: DequantizeLinear y = d·(q − z), with one d for the tensor or one per index of an axis.

A positive scale going up joins d exactly, d′ = s·d; a scale per tensor becomes one per channel where it
must. The integers q stay as they are. A convolution with such a weight asks DequantizeLinear for s·W, and
takes the shift into a bias in floating point: s·b + t is seldom a multiple of the step that an integer
bias has.
"""

import numpy as np

from foldserve.folding.affine import Affine, Array
from foldserve.folding.constants import Constant
from foldserve.folding.report import Reason
from foldserve.folding.shapes import rank
from foldserve.folding.steps import Answer, Front, Refusal, Step, carry_up

_PER_AXIS = 13
"""Operator set from which DequantizeLinear knows one scale per index of an axis."""


@carry_up("DequantizeLinear")
def dequantize_up(front: Front) -> Answer:
    """d′ = s·d; only for positive scales along one axis."""
    affine, scale, zero = front.affine, front.constant(1), front.constant(2)
    if scale is None or front.is_computed(2):
        return front.runtime_weight()
    if affine.has_shift or not affine.is_positive or len(affine.varies_on) > 1:
        return front.refuse(Reason.QUANTIZED, "takes positive scales along one axis only")
    if affine.is_uniform:
        return Step(constants={1: scale.scaled(affine.scale.reshape((1,) * len(scale.shape)))})
    axis = affine.varies_on[0]
    own = front.node.attributes.get_int("axis", 1) % affine.rank
    blocked = front.node.attributes.get_int("block_size", 0) != 0
    if front.opset < _PER_AXIS or blocked or (len(scale.shape) == 1 and scale.size > 1 and own != axis):
        return front.refuse(Reason.QUANTIZED, "has its scales along another axis")
    factor: Array = affine.scale.ravel()
    constants: dict[int, Constant | None] = {1: Constant.of(scale.exact().ravel() * factor, scale.dtype)}
    if zero is not None:
        constants[2] = Constant.of(np.broadcast_to(zero.exact().ravel(), factor.shape), zero.dtype)
    return Step(constants=constants, attributes={"axis": axis})


def quantized_conv_up(front: Front) -> Step | Refusal:
    """A convolution whose weight comes from DequantizeLinear: s·W by request, b′ = s·b + t at once."""
    weight = front.node.inputs[1]
    producer = None if weight is None else weight.producer()
    weight_rank = rank(weight)
    if weight is None or producer is None or producer.op_type != "DequantizeLinear" or weight_rank is None:
        return front.runtime_weight()
    bias = dequantized(front, 2)
    if bias is None or weight.dtype is None:
        return front.runtime_weight()
    channels = front.affine.scale.shape[1]
    if (vectors := front.affine.vectors(1, channels)) is None:
        return front.not_per_channel()
    scale, shift = vectors
    wished = Affine.along(scale, np.zeros_like(scale), axis=0, rank=weight_rank)
    added = Constant.of(scale * bias + shift, weight.dtype)
    unbiased = not added.exact().any()
    return Step(inputs={1: wished}, constants={2: None if unbiased else added}, tier=0)


def dequantized(front: Front, index: int) -> Array | None:
    """The operand ``index``, dequantised if need be; 0 where it is missing, None where it is computed."""
    if not front.has_input(index):
        return np.zeros(1)
    if (constant := front.constant(index)) is not None:
        return constant.exact().ravel()
    value = front.node.inputs[index]
    producer = None if value is None else value.producer()
    if producer is None or producer.op_type != "DequantizeLinear":
        return None
    stored, scale = (front.view.constant(producer, slot) for slot in (0, 1))
    zero = front.view.constant(producer, 2)
    if stored is None or scale is None:
        return None
    result: Array = (stored.exact() - (zero.exact() if zero is not None else 0.0)) * scale.exact()
    return result.ravel()
