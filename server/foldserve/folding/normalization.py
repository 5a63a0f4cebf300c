"""Normalisations.

BatchNormalization in inference mode    is an affine itself, so another one joins it. Going up γ′ = s·γ,
                                        β′ = s·β + t; coming down γ′ = s·γ, β′ = γ·(t − μ)/√(σ² + ε) + β,
                                        μ′ = 0
BatchNormalization on batch statistics,
InstanceNormalization                   subtract the channel's own mean, so a shift coming down disappears.
                                        They divide by its own deviation √(v + ε) too, but s·x has the
                                        variance s²·v, and there is one ε for all channels: only one |s|
                                        for all of them passes InstanceNormalization, with ε′ = ε/s²
Instance-, Layer-, GroupNormalization   end in a scale and a bias, which an affine going up joins
"""

import numpy as np

from foldserve.folding.affine import Affine, Array
from foldserve.folding.constants import Constant
from foldserve.folding.report import Reason
from foldserve.folding.sites import EPSILON, uses_batch_statistics
from foldserve.folding.steps import Answer, Front, Step, carry_down, carry_up


@carry_up("BatchNormalization", "InstanceNormalization", "LayerNormalization", "GroupNormalization")
def normalized_up(front: Front) -> Answer:
    """γ′ = s·γ, β′ = s·β + t, along the axes that γ has."""
    if front.node.op_type == "BatchNormalization" and uses_batch_statistics(front.node, front.opset):
        return front.refuse(Reason.TRAINING_MODE, "normalises by the statistics of the batch")
    scale, bias = front.constant(1), front.constant(2)
    if scale is None or front.is_computed(2) or front.index != 0:
        return front.runtime_weight()
    if (own := _along_scale(front, scale)) is None:
        return front.not_per_channel()
    s, t = own
    if bias is None and not t.any():
        return Step(constants={1: scale.scaled(s)})
    added = np.broadcast_to(s * (bias.exact() if bias is not None else 0.0) + t, scale.shape)
    return Step(constants={1: scale.scaled(s), 2: Constant.of(added, scale.dtype)})


@carry_down("BatchNormalization")
def batch_norm_down(front: Front) -> Answer:
    """γ′ = s·γ, β′ = γ·(t − μ)/√(σ² + ε) + β, μ′ = 0; a shift before batch statistics disappears."""
    if uses_batch_statistics(front.node, front.opset):
        alone = not any(output.uses() or output.is_graph_output() for output in front.node.outputs[1:])
        if front.index == 0 and alone and not front.affine.has_scale and set(front.affine.varies_on) <= {1}:
            return Step()
        return front.refuse(Reason.TRAINING_MODE, "normalises by the statistics of the batch")
    scale, bias, mean, variance = (front.constant(index) for index in (1, 2, 3, 4))
    if scale is None or bias is None or mean is None or variance is None or front.index != 0:
        return front.runtime_weight()
    if (own := _along_scale(front, scale)) is None:
        return front.not_per_channel()
    s, t = own
    deviation = np.sqrt(variance.exact() + front.number("epsilon", EPSILON))
    shifted = scale.exact() * (t - mean.exact()) / deviation + bias.exact()
    return Step(
        constants={
            1: scale.scaled(s),
            2: Constant.of(shifted, bias.dtype),
            3: Constant.of(np.zeros(scale.shape), mean.dtype),
        }
    )


@carry_down("InstanceNormalization")
def instance_norm_down(front: Front) -> Answer:
    """The shift disappears; a scale of one size everywhere becomes ε′ = ε/s² and its sign joins γ."""
    scale = front.constant(1)
    if scale is None or front.index != 0:
        return front.runtime_weight()
    if (vectors := front.affine.vectors(1, scale.size)) is None:
        return front.not_per_channel()
    if not front.affine.has_scale:
        return Step()
    magnitude = np.unique(np.abs(vectors[0]))
    if magnitude.size > 1 or magnitude[0] == 0:
        return front.refuse(
            Reason.CHANNELS, "has one epsilon for all channels, and so takes one scale for all"
        )
    epsilon = front.number("epsilon", EPSILON) / float(magnitude[0]) ** 2
    return Step(constants={1: scale.scaled(np.sign(vectors[0]))}, attributes={"epsilon": epsilon})


def _along_scale(front: Front, scale: Constant) -> tuple[Array, Array] | None:
    """Scale and shift of the affine in the shape of γ; None where they vary along other axes."""
    affine = front.affine
    if front.node.op_type == "LayerNormalization":
        first = affine.rank - len(scale.shape)
        return _trailing(affine, first, scale)
    if len(scale.shape) != 1 or (front.node.op_type == "GroupNormalization" and front.opset < 21):
        # One γ per element (BatchNormalization with spatial=0), or one per group.
        return None
    return affine.vectors(min(1, affine.rank - 1), scale.size)


def _trailing(affine: Affine, first: int, scale: Constant) -> tuple[Array, Array] | None:
    shape = affine.scale.shape
    if any(axis < first or shape[axis] != scale.shape[axis - first] for axis in affine.varies_on):
        return None
    return affine.scale.reshape(shape[first:]), affine.shift.reshape(shape[first:])
