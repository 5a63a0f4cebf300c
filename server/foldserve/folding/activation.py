"""Activations that an affine can cross.

    Relu, LeakyRelu, PRelu, Abs    f(s·x) = s·f(x) for s ≥ 0: a scale passes, a shift does not
    Clip                           s·clip(x; a, b) + t = clip(s·x + t; s·a + t, s·b + t) for s > 0, as long as
                                   the new bounds are the same number for every channel
    Neg                            s·(−x) + t = −(s·x − t)

Relu as a maximum (tier 3). For s > 0

    relu(s·x + t) = s·max(x, −t/s) + t

so Relu becomes Max with a constant per channel and the affine comes out unchanged on the other side; for
s < 0 it becomes Min. Where s = 0 the result is relu(t), whatever the constant.
"""

import numpy as np

from foldserve.folding.affine import Affine, Array
from foldserve.folding.constants import Constant
from foldserve.folding.report import Reason
from foldserve.folding.steps import Answer, Front, Refusal, Step, carry_down, carry_up

_MAX_BROADCASTS = 8
"""Operator set from which Max and Min broadcast their operands."""


@carry_up("LeakyRelu", "PRelu", "Abs")
def homogeneous_up(front: Front) -> Answer:
    """A scale that is nowhere negative passes."""
    return _not_homogeneous(front) or Step(inputs={0: front.affine})


@carry_down("LeakyRelu", "PRelu", "Abs")
def homogeneous_down(front: Front) -> Answer:
    """A scale that is nowhere negative passes."""
    if front.index != 0:
        return front.refuse(Reason.OPERATOR, "takes the value as its slope")
    return _not_homogeneous(front) or Step(outputs={0: front.affine})


@carry_up("Relu")
def relu_up(front: Front) -> Answer:
    """s·relu(x) + t = max(s·x + t, t) for s ≥ 0, min for s ≤ 0; without a shift and with s ≥ 0 Relu stays."""
    step = Step(inputs={0: front.affine})
    if _not_homogeneous(front) is None:
        return step
    return _relu_as_extremum(front, front.affine.shift, step)


@carry_down("Relu")
def relu_down(front: Front) -> Answer:
    """relu(s·x′ + t) = s·max(x′, −t/s) + t for s > 0, min for s < 0, relu(t) for s = 0."""
    if _not_homogeneous(front) is None:
        return Step(outputs={0: front.affine})
    scale, shift = front.affine.scale, front.affine.shift
    dead = scale == 0
    bound = -shift / np.where(dead, 1.0, scale)
    result = Affine.of(scale, np.where(dead, np.maximum(shift, 0.0), shift))
    return _relu_as_extremum(front, bound, Step(outputs={0: result}))


@carry_up("Clip")
def clip_up(front: Front) -> Answer:
    """The bounds become s·a + t and s·b + t."""
    return _clipped(front, front.affine, Step(inputs={0: front.affine}))


@carry_down("Clip")
def clip_down(front: Front) -> Answer:
    """The bounds become (a − t)/s and (b − t)/s."""
    if front.index != 0:
        return front.refuse(Reason.OPERATOR, "takes the value as a bound")
    return _clipped(front, front.affine.inverse(), Step(outputs={0: front.affine}))


@carry_up("Neg")
def neg_up(front: Front) -> Answer:
    """The shift changes its sign."""
    return Step(inputs={0: Affine.of(front.affine.scale, -front.affine.shift)})


@carry_down("Neg")
def neg_down(front: Front) -> Answer:
    """The shift changes its sign."""
    return Step(outputs={0: Affine.of(front.affine.scale, -front.affine.shift)})


def _not_homogeneous(front: Front) -> Refusal | None:
    """Why the affine does not pass a positively homogeneous function; None where it does."""
    if front.affine.has_shift:
        return front.refuse(Reason.SHIFT, "carries a scale but not a shift")
    if np.any(front.affine.scale < 0):
        return front.refuse(Reason.SIGN, "carries positive scales only")
    return None


def _relu_as_extremum(front: Front, bound: Array, step: Step) -> Answer:
    """``step`` with Relu turned into Max (or Min) with ``bound``."""
    x = front.node.inputs[0]
    if front.opset < _MAX_BROADCASTS or x is None or x.dtype is None:
        return front.refuse(Reason.SHIFT, "carries a scale but not a shift")
    if np.all(front.affine.scale >= 0):
        operator = "Max"
    elif np.all(front.affine.scale <= 0):
        operator = "Min"
    else:
        return front.refuse(Reason.SIGN, "carries a shift only where all scales have one sign")
    return Step(step.inputs, step.outputs, {1: Constant.of(bound, x.dtype)}, operator=operator, tier=3)


def _clipped(front: Front, bounds: Affine | None, step: Step) -> Answer:
    """``step`` with both bounds mapped by ``bounds``, as far as each stays one number."""
    if bounds is None or not front.affine.is_positive:
        return front.refuse(Reason.SIGN, "carries positive scales only")
    constants: dict[int, Constant | None] = {}
    attributes: dict[str, float] = {}
    for index, name in ((1, "min"), (2, "max")):
        if front.is_computed(index):
            return front.runtime_weight()
        constant = front.constant(index)
        if constant is None and name not in front.node.attributes:
            continue
        old = float(constant.exact()) if constant is not None else front.number(name, 0.0)
        new = np.unique(bounds.scale * old + bounds.shift)
        if new.size > 1:
            return front.refuse(Reason.CHANNELS, "has one bound for all channels")
        if constant is None:
            attributes[name] = float(new[0])
        else:
            constants[index] = Constant.of(new[0], constant.dtype)
    return Step(step.inputs, step.outputs, constants, attributes=attributes)
