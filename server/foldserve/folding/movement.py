"""Operators that only move or repeat elements: scale and shift move along (or back, going up).

Identity, Dropout, Cast                      every element stays where it is
Reshape, Flatten, Squeeze, Unsqueeze         same elements in row-major order, see shapes.reshaped
Transpose                                    axes change places
DepthToSpace, SpaceToDepth                   a channel c of the C shallow ones is b² of the deep ones: i·C + c
                                             in mode DCR, c·b² + i in mode CRD, for every i of b² places
Expand, Tile                                 elements are repeated
Pad                                          edges, reflections and wraps are copies; a constant v becomes
                                             s·v + t going up and (v − t)/s coming down
Shape, Size                                  do not look at the elements at all
"""

import numpy as np
import onnx_ir as ir

from foldserve.folding.affine import Affine
from foldserve.folding.constants import Constant
from foldserve.folding.report import Reason
from foldserve.folding.shapes import dims, lifted, lowered, reshaped
from foldserve.folding.steps import Answer, Front, Refusal, Step, carry_down, carry_up

_PRECISION = {ir.DataType.BFLOAT16: 8, ir.DataType.FLOAT16: 11, ir.DataType.FLOAT: 24, ir.DataType.DOUBLE: 53}
"""Significant bits of the floating-point types."""


@carry_up("Identity", "Dropout", "Cast")
def same_up(front: Front) -> Answer:
    """Passes."""
    return _changes_values(front) or Step(inputs={0: front.affine})


@carry_down("Identity", "Dropout", "Cast")
def same_down(front: Front) -> Answer:
    """Passes."""
    return _changes_values(front) or Step(outputs={0: front.affine})


@carry_up("Reshape", "Flatten", "Squeeze", "Unsqueeze")
def reshape_up(front: Front) -> Answer:
    """Scale and shift are reshaped back."""
    moved = _reshaped(front, front.node.outputs[0], front.node.inputs[0])
    return _lost(front) if moved is None else Step(inputs={0: moved})


@carry_down("Reshape", "Flatten", "Squeeze", "Unsqueeze")
def reshape_down(front: Front) -> Answer:
    """Scale and shift are reshaped."""
    moved = _reshaped(front, front.node.inputs[0], front.node.outputs[0])
    return _lost(front) if moved is None else Step(outputs={0: moved})


@carry_up("Transpose")
def transpose_up(front: Front) -> Answer:
    """Scale and shift are transposed back."""
    back = tuple(int(axis) for axis in np.argsort(_permutation(front)))
    return Step(inputs={0: front.affine.moved(lambda array: array.transpose(back))})


@carry_down("Transpose")
def transpose_down(front: Front) -> Answer:
    """Scale and shift are transposed."""
    permutation = _permutation(front)
    return Step(outputs={0: front.affine.moved(lambda array: array.transpose(permutation))})


@carry_up("DepthToSpace", "SpaceToDepth")
def blocks_up(front: Front) -> Answer:
    """Channels are repeated towards the deep side; towards the shallow side those of one block must agree."""
    moved = _to_deep(front) if front.node.op_type == "DepthToSpace" else _to_shallow(front)
    return _lost(front) if moved is None else Step(inputs={0: moved})


@carry_down("DepthToSpace", "SpaceToDepth")
def blocks_down(front: Front) -> Answer:
    """Channels are repeated towards the deep side; towards the shallow side those of one block must agree."""
    moved = _to_shallow(front) if front.node.op_type == "DepthToSpace" else _to_deep(front)
    return _lost(front) if moved is None else Step(outputs={0: moved})


@carry_up("Expand")
def expand_up(front: Front) -> Answer:
    """Passes where it does not vary along an expanded axis."""
    x = front.node.inputs[0]
    moved = None if x is None else lowered(front.affine, x)
    return _lost(front) if moved is None else Step(inputs={0: moved})


@carry_down("Expand")
def expand_down(front: Front) -> Answer:
    """Passes."""
    sizes = dims(front.node.outputs[0])
    return _lost(front) if sizes is None else Step(outputs={0: lifted(front.affine, len(sizes))})


@carry_up("Tile")
def tile_up(front: Front) -> Answer:
    """Passes where it does not vary along a repeated axis."""
    repeats = front.integers("repeats", 1)
    if repeats is None or any(repeats[axis] != 1 for axis in front.affine.varies_on):
        return _lost(front)
    return Step(inputs={0: front.affine})


@carry_down("Tile")
def tile_down(front: Front) -> Answer:
    """Scale and shift are repeated along with the elements."""
    repeats = front.integers("repeats", 1)
    if repeats is None:
        return _lost(front)
    shape = front.affine.scale.shape
    own = [count if size > 1 else 1 for count, size in zip(repeats, shape, strict=True)]
    return Step(outputs={0: front.affine.moved(lambda array: np.tile(array, own))})


@carry_up("Pad")
def pad_up(front: Front) -> Answer:
    """A constant v becomes s·v + t, which must be one number."""
    return _padded(front, front.affine, Step(inputs={0: front.affine}))


@carry_down("Pad")
def pad_down(front: Front) -> Answer:
    """A constant v becomes (v − t)/s, which must be one number."""
    return _padded(front, front.affine.inverse(), Step(outputs={0: front.affine}))


@carry_down("Shape", "Size")
def shape_down(front: Front) -> Answer:  # noqa: ARG001  (a rule takes a front, though this one has no question)
    """Nothing to do."""
    return Step()


def _changes_values(front: Front) -> Refusal | None:
    """Why a node that usually keeps every value may change some."""
    if front.node.op_type == "Dropout":
        training = front.constant(2)
        if front.is_computed(2) or (training is not None and bool(training.raw())):
            return front.refuse(Reason.TRAINING_MODE, "drops values at random")
    if front.node.op_type == "Cast":
        x = front.node.inputs[0]
        source = x.dtype if x is not None else None
        target = ir.DataType(front.node.attributes.get_int("to", 0))
        if source not in _PRECISION or _PRECISION.get(target, 0) < _PRECISION[source]:
            return front.refuse(Reason.OPERATOR, f"rounds to {target.name}")
    return None


def _reshaped(front: Front, source: ir.Value | None, target: ir.Value | None) -> Affine | None:
    before, after = dims(source), dims(target)
    return None if before is None or after is None else reshaped(front.affine, before, after)


def _permutation(front: Front) -> tuple[int, ...]:
    return tuple(front.node.attributes.get_ints("perm", tuple(reversed(range(front.affine.rank)))))


def _to_deep(front: Front) -> Affine | None:
    """From few channels and large images to b² times the channels."""
    blocks = front.node.attributes.get_int("blocksize") ** 2
    if not set(front.affine.varies_on) <= {1}:
        return None
    if not front.affine.varies_on:
        return front.affine
    if _place_is_slower(front):
        return front.affine.moved(lambda array: np.tile(array, (1, blocks, 1, 1)))
    return front.affine.moved(lambda array: np.repeat(array, blocks, axis=1))


def _to_shallow(front: Front) -> Affine | None:
    """The way back; None where the channels of one block disagree."""
    blocks = front.node.attributes.get_int("blocksize") ** 2
    if not set(front.affine.varies_on) <= {1}:
        return None
    if not front.affine.varies_on:
        return front.affine
    shape, axis = ((1, blocks, -1, 1, 1), 1) if _place_is_slower(front) else ((1, -1, blocks, 1, 1), 2)
    grouped = front.affine.moved(lambda array: array.reshape(shape))
    return None if axis in grouped.varies_on else grouped.moved(lambda array: array.squeeze(axis))


def _place_is_slower(front: Front) -> bool:
    """Mode DCR; SpaceToDepth knows no other."""
    return front.node.op_type == "SpaceToDepth" or front.node.attributes.get_string("mode", "DCR") == "DCR"


def _padded(front: Front, filled: Affine | None, step: Step) -> Answer:
    """``step`` with the constant that a Pad fills in mapped by ``filled``."""
    padded, x = _padded_axes(front), front.node.inputs[0]
    if (
        padded is None
        or padded & set(front.affine.varies_on)
        or filled is None
        or x is None
        or x.dtype is None
    ):
        return _lost(front)
    if not padded or front.node.attributes.get_string("mode", "constant") != "constant":
        return step
    if front.is_computed(2):
        return front.runtime_weight()
    stored = front.constant(2)
    old = float(stored.exact()) if stored is not None else front.number("value", 0.0)
    new = np.unique(filled.scale * old + filled.shift)
    if new.size > 1:
        return front.refuse(Reason.PADDING, "pads with one number, and every channel would need its own")
    if front.opset < 11:
        return Step(step.inputs, step.outputs, attributes={"value": float(new[0])})
    return Step(step.inputs, step.outputs, constants={2: Constant.of(new[0], x.dtype)})


def _padded_axes(front: Front) -> set[int] | None:
    """The axes that a Pad makes longer; None where that is computed at run time."""
    pads = front.integers("pads", 1)
    if pads is None or front.is_computed(3):
        return None
    width = len(pads) // 2
    axes = front.integers("axes", 3) or tuple(range(width))
    sides = zip(axes, pads[:width], pads[width:], strict=True)
    return {axis % front.affine.rank for axis, low, high in sides if low or high}


def _lost(front: Front) -> Refusal:
    return front.refuse(
        Reason.CHANNELS, "mixes the axis along which the affine varies, or hides where it goes"
    )
