"""Pools, means, resizes: every output is a combination of elements of one channel.

    AveragePool, GlobalAveragePool, ReduceMean    the weights sum to 1: everything passes
    AveragePool that counts its zero padding      a scale passes, a shift does not
    ReduceSum                                     a scale passes, a shift does not
    MaxPool, GlobalMaxPool, ReduceMax, ReduceMin  monotone: everything passes where no scale is negative
    Resize, Upsample                              the coefficients sum to 1: everything passes, unless it
                                                  extrapolates

The affine must not vary along an axis that is pooled, reduced or resized.
"""

import onnx_ir as ir

from foldserve.folding.affine import Affine
from foldserve.folding.report import Reason
from foldserve.folding.shapes import dims
from foldserve.folding.steps import Answer, Front, Refusal, Step, carry_down, carry_up

_MONOTONE = frozenset({"MaxPool", "GlobalMaxPool", "ReduceMax", "ReduceMin"})
_POOLS = ("AveragePool", "GlobalAveragePool", "MaxPool", "GlobalMaxPool")
_REDUCTIONS = ("ReduceMean", "ReduceSum", "ReduceMax", "ReduceMin")


@carry_up(*_POOLS)
def pool_up(front: Front) -> Answer:
    """Passes."""
    return _stopped(front) or _over(front, front.affine, _space(front)) or Step(inputs={0: front.affine})


@carry_down(*_POOLS)
def pool_down(front: Front) -> Answer:
    """Passes."""
    return _stopped(front) or _over(front, front.affine, _space(front)) or Step(outputs={0: front.affine})


@carry_up(*_REDUCTIONS)
def reduction_up(front: Front) -> Answer:
    """Passes; axes that were dropped come back with size 1."""
    sizes = dims(front.node.inputs[0])
    axes = None if sizes is None else _reduced(front, len(sizes))
    if sizes is None or axes is None:
        return front.refuse(Reason.UNKNOWN_SHAPE, "reduces axes that are not known")
    affine = front.affine
    if not front.node.attributes.get_int("keepdims", 1):
        kept = iter(affine.scale.shape)
        shape = tuple(1 if axis in axes else next(kept) for axis in range(len(sizes)))
        affine = affine.moved(lambda array: array.reshape(shape))
    return _stopped(front) or _over(front, affine, axes) or Step(inputs={0: affine})


@carry_down(*_REDUCTIONS)
def reduction_down(front: Front) -> Answer:
    """Passes; reduced axes go."""
    axes = _reduced(front, front.affine.rank)
    if axes is None:
        return front.refuse(Reason.UNKNOWN_SHAPE, "reduces axes that are not known")
    refusal = _stopped(front) or _over(front, front.affine, axes)
    if refusal is not None:
        return refusal
    if front.node.attributes.get_int("keepdims", 1):
        return Step(outputs={0: front.affine})
    return Step(outputs={0: front.affine.moved(lambda array: array.squeeze(tuple(axes)))})


@carry_up("Resize", "Upsample")
def resize_up(front: Front) -> Answer:
    """Passes."""
    return _resizes_channels(front) or Step(inputs={0: front.affine})


@carry_down("Resize", "Upsample")
def resize_down(front: Front) -> Answer:
    """Passes."""
    return _resizes_channels(front) or Step(outputs={0: front.affine})


def _stopped(front: Front) -> Refusal | None:
    """Why the combination does not pass this scale or shift."""
    node, scale = front.node, front.affine.scale
    if node.op_type in _MONOTONE:
        # Which of many equal elements is the largest changes when a scale of zero makes all of them equal.
        indices = len(node.outputs) > 1 and bool(node.outputs[1].name)
        if (scale < 0).any() or (indices and (scale == 0).any()):
            return front.refuse(Reason.SIGN, "carries positive scales only")
    elif front.affine.has_shift and (node.op_type == "ReduceSum" or _counts_padding(node)):
        return front.refuse(Reason.SHIFT, "carries a scale but not a shift")
    return None


def _counts_padding(node: ir.Node) -> bool:
    if node.op_type != "AveragePool" or not node.attributes.get_int("count_include_pad", 0):
        return False
    automatic = node.attributes.get_string("auto_pad", "NOTSET") in ("SAME_UPPER", "SAME_LOWER")
    ceils = bool(node.attributes.get_int("ceil_mode", 0))
    return automatic or ceils or any(node.attributes.get_ints("pads", ()))


def _space(front: Front) -> set[int]:
    return set(range(2, front.affine.rank))


def _reduced(front: Front, rank: int) -> set[int] | None:
    """The axes that are reduced; None if they are computed at run time."""
    axes = front.integers("axes", 1)
    if axes is None and front.has_input(1):
        return None
    if not axes:
        return set() if front.node.attributes.get_int("noop_with_empty_axes", 0) else set(range(rank))
    return {axis % rank for axis in axes}


def _over(front: Front, affine: Affine, axes: set[int]) -> Refusal | None:
    if axes & set(affine.varies_on):
        return front.refuse(Reason.CHANNELS, "combines elements along an axis along which the affine varies")
    return None


def _resizes_channels(front: Front) -> Refusal | None:
    before, after = dims(front.node.inputs[0]), dims(front.node.outputs[0])
    for axis in front.affine.varies_on:
        if before is None or after is None or before[axis] is None or before[axis] != after[axis]:
            return front.refuse(Reason.CHANNELS, "resizes an axis along which the affine varies")
    if front.node.attributes.get_string("coordinate_transformation_mode", "") == "tf_crop_and_resize":
        return front.refuse(Reason.PADDING, "fills in a value of its own where it extrapolates")
    return None
