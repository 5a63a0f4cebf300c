"""Linear operators absorb an affine into their weight and bias. Meaning of every weight axis:

    Conv            W [M, C/group, k…]     M output channels; input channel c of group g stands at
                                           W[:, c − g·C/group]
    ConvTranspose   W [C, M/group, k…]     C input channels; W[c, j] makes the output channel
                                           g(c)·M/group + j, with g(c) = c // (C/group)
    Gemm            Y = α·A′·B′ + β·C      A′ [M, K], B′ [K, N] (stored [N, K] if transB), C up to [M, N]
    MatMul          Y = A·B                A […, M, K], B […, K, N]

Up, for an output y′ = s·y + t:    W′ = s·W along the output axis,    b′ = s·b + t.
Down, for an input x = s·x′ + t:   W′ = W·s along the input axis,     b′ = b + Σ W·t, over inputs and taps.

Down needs a shift of zero wherever the operator pads with zeros: the padding is 0 in the new
parametrisation too, where it should have been −t/s. ConvTranspose can take no shift at all: how many taps
reach a position varies.
"""

import numpy as np
import onnx_ir as ir

from foldserve.folding.affine import Affine, Array
from foldserve.folding.constants import Constant
from foldserve.folding.quantized import quantized_conv_up
from foldserve.folding.report import Reason
from foldserve.folding.steps import Answer, Front, Refusal, Step, carry_down, carry_up


@carry_up("Conv")
def conv_up(front: Front) -> Answer:
    """W′[m, …] = s_m·W[m, …], b′ = s·b + t."""
    weight = front.constant(1)
    if weight is None:
        return quantized_conv_up(front)
    if (vectors := front.affine.vectors(1, weight.shape[0])) is None:
        return front.not_per_channel()
    scale, shift = vectors
    return _absorbed(front, weight, along(scale, 0, weight), scale, shift)


@carry_up("ConvTranspose")
def conv_transpose_up(front: Front) -> Answer:
    """W′[c, j, …] = s_m·W[c, j, …] with m = g(c)·M/group + j, b′ = s·b + t."""
    weight = front.constant(1)
    if weight is None:
        return front.runtime_weight()
    group = front.node.attributes.get_int("group", 1)
    inputs, per_group = weight.shape[:2]
    if (vectors := front.affine.vectors(1, group * per_group)) is None:
        return front.not_per_channel()
    scale, shift = vectors
    factor = _by_group(scale, group, inputs // group)
    return _absorbed(front, weight, _leading(factor, weight), scale, shift)


@carry_down("Conv")
def conv_down(front: Front) -> Answer:
    """W′[:, c, …] = s_c·W[:, c, …], b′ = b + Σ W[:, c, k]·t_c; with padding only where t = 0."""
    weight = front.constant(1)
    if weight is None or front.index != 0:
        return front.runtime_weight()
    group = front.node.attributes.get_int("group", 1)
    outputs, per_group = weight.shape[:2]
    if (vectors := front.affine.vectors(1, group * per_group)) is None:
        return front.not_per_channel()
    if front.affine.has_shift and pads(front.node, weight):
        return front.refuse(Reason.PADDING, "pads with zeros, which the shift does not reach")
    scale, shift = (_by_group(vector, group, outputs // group) for vector in vectors)
    bias_shift = np.zeros(outputs)
    if front.affine.has_shift:
        taps = weight.exact().reshape(outputs, per_group, -1).sum(axis=2)
        bias_shift = (taps * shift).sum(axis=1)
    return _absorbed(front, weight, _leading(scale, weight), np.ones(outputs), bias_shift)


@carry_down("ConvTranspose")
def conv_transpose_down(front: Front) -> Answer:
    """W′[c, …] = s_c·W[c, …]; only where t = 0."""
    weight = front.constant(1)
    if weight is None or front.index != 0:
        return front.runtime_weight()
    if (vectors := front.affine.vectors(1, weight.shape[0])) is None:
        return front.not_per_channel()
    if front.affine.has_shift:
        return front.refuse(Reason.SHIFT, "spreads a shift unevenly over its output")
    return Step(constants={1: weight.scaled(along(vectors[0], 0, weight))})


@carry_up("Gemm")
def gemm_up(front: Front) -> Answer:
    """B′ = s·B along N, C′ = s·C + t/β; without C (or with β = 0) C′ = t and β = 1."""
    weight = front.constant(1)
    if weight is None:
        return front.runtime_weight()
    axis = 0 if front.node.attributes.get_int("transB", 0) else 1
    if (vectors := front.affine.vectors(1, weight.shape[axis])) is None:
        return front.not_per_channel()
    scale, shift = vectors
    return _absorbed_by_gemm(front, weight, along(scale, axis, weight), scale, shift)


@carry_down("Gemm")
def gemm_down(front: Front) -> Answer:
    """B′ = s·B along K, C′ = C + (α/β)·tᵀB."""
    weight = front.constant(1)
    if weight is None or front.index != 0:
        return front.runtime_weight()
    axis = 1 if front.node.attributes.get_int("transB", 0) else 0
    features = 0 if front.node.attributes.get_int("transA", 0) else 1
    if (vectors := front.affine.vectors(features, weight.shape[axis])) is None:
        return front.not_per_channel()
    scale, shift = vectors
    added = np.zeros(weight.shape[1 - axis])
    if front.affine.has_shift:
        alpha = front.number("alpha", 1.0)
        added = alpha * np.tensordot(shift, weight.exact(), axes=(0, axis))
    return _absorbed_by_gemm(front, weight, along(scale, axis, weight), np.ones_like(added), added)


@carry_up("MatMul")
def matmul_up(front: Front) -> Answer:
    """A constant right operand is scaled along N, a left one along M; a shift needs an Add behind."""
    for operand, axis in ((1, -1), (0, -2)):
        weight = front.constant(operand)
        if weight is None:
            continue
        if len(weight.shape) < 2 or (vectors := front.affine.vectors(axis, weight.shape[axis])) is None:
            return front.not_per_channel()
        return Step(
            constants={operand: weight.scaled(along(vectors[0], axis, weight))},
            appended_shift=front.affine.shift if front.affine.has_shift else None,
        )
    return front.runtime_weight()


@carry_down("MatMul")
def matmul_down(front: Front) -> Answer:
    """The other, constant operand is scaled along K; what the shift becomes, tᵀB or A·t, travels on."""
    other = 1 - front.index
    weight = front.constant(other)
    if weight is None:
        return front.runtime_weight()
    axis, summed = (-1, -2) if front.index == 0 else (-2, -1)
    if len(weight.shape) < 2 or front.affine.rank < 2:
        return front.not_per_channel()
    if (vectors := front.affine.vectors(axis, weight.shape[summed])) is None:
        return front.not_per_channel()
    scale, shift = vectors
    constants = {other: weight.scaled(along(scale, summed, weight))}
    if not front.affine.has_shift:
        return Step(constants=constants)
    rank = max(front.affine.rank, len(weight.shape))
    added = np.sum(weight.exact() * along(shift, summed, weight), axis=summed, keepdims=True)
    added = added.reshape((1,) * (rank - added.ndim) + added.shape)
    return Step(constants=constants, outputs={0: Affine.of(np.ones((1,) * rank), added)})


def along(vector: Array, axis: int, weight: Constant) -> Array:
    """``vector`` laid along one axis of ``weight``."""
    shape = [1] * len(weight.shape)
    shape[axis] = -1
    return vector.reshape(shape)


def pads(node: ir.Node, weight: Constant) -> bool:
    """Whether a Conv reads any padding."""
    if node.attributes.get_string("auto_pad", "NOTSET") in ("SAME_UPPER", "SAME_LOWER"):
        return any(size > 1 for size in weight.shape[2:])
    return any(node.attributes.get_ints("pads", ()))


def _by_group(channels: Array, group: int, rows: int) -> Array:
    """One number per channel as [rows of all groups, channels of a group]; one row if there is one group."""
    by_group = channels.reshape(group, -1)
    return by_group if group == 1 else np.repeat(by_group, rows, axis=0)


def _leading(factor: Array, weight: Constant) -> Array:
    """``factor`` over the first two axes of ``weight``."""
    return factor.reshape(factor.shape + (1,) * (len(weight.shape) - 2))


def _absorbed(front: Front, weight: Constant, factor: Array, scale: Array, shift: Array) -> Step | Refusal:
    """The step of a convolution: its weight times ``factor``, its bias b′ = scale·b + shift."""
    old = front.constant(2)
    bias = np.zeros(1) if old is None else old.exact().ravel()
    if front.is_computed(2) or (bias.size not in (1, scale.size) and bias.any()):
        return front.runtime_weight()
    # Raw exports give a Conv3d that has no bias one of zeros, of a wrong shape.
    bias = scale * (bias if bias.any() else 0.0) + shift
    return Step(
        constants={1: weight.scaled(factor), 2: Constant.of(bias, weight.dtype) if bias.any() else None}
    )


def _absorbed_by_gemm(
    front: Front, weight: Constant, factor: Array, scale: Array, shift: Array
) -> Step | Refusal:
    """The step of a Gemm: B times ``factor``, and β′·C′ = scale·β·C + shift."""
    scaled = weight.scaled(factor)
    beta = front.number("beta", 1.0)
    if front.has_input(2) and beta != 0:
        if (old := front.constant(2)) is None:
            return front.runtime_weight()
        return Step(constants={1: scaled, 2: Constant.of(scale * old.exact() + shift / beta, weight.dtype)})
    if not shift.any():
        return Step(constants={1: scaled})
    return Step(constants={1: scaled, 2: Constant.of(shift, weight.dtype)}, attributes={"beta": 1.0})
