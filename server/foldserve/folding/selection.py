"""Operators that join values or pick parts of them: scale and shift are joined and cut along with them.

Concat            up: cut by input; down: joined, with the identity for the other inputs
Split, Slice,     up: the part that was picked gets the affine, the rest of the input the identity, so that
Gather            readers of other parts need not change; down: cut
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from foldserve.folding.affine import Affine
from foldserve.folding.report import Reason
from foldserve.folding.shapes import dims
from foldserve.folding.steps import Answer, Front, Refusal, Step, carry_down, carry_up


@carry_up("Concat")
def concat_up(front: Front) -> Answer:
    """Every input gets its part."""
    axis = _axis(front, 1)
    parts = dict.fromkeys(range(len(front.node.inputs)), front.affine)
    if axis in front.affine.varies_on:
        if (cuts := _cuts(front.node.inputs, axis)) is None:
            return _unknown(front)
        parts = {index: _cut(front.affine, axis, cut) for index, cut in enumerate(cuts)}
    if any(front.constant(index) is not None and not part.is_identity for index, part in parts.items()):
        return front.refuse(Reason.OPERATOR, "joins a constant to it")
    return Step(inputs=parts)


@carry_down("Concat")
def concat_down(front: Front) -> Answer:
    """The other inputs keep the identity."""
    axis = _axis(front, 1)
    if (cuts := _cuts(front.node.inputs, axis)) is None:
        return _unknown(front)
    return Step(outputs={0: _placed(front.affine, axis, np.array(cuts[front.index]), cuts[-1].stop)})


@carry_up("Split")
def split_up(front: Front) -> Answer:
    """The slice gets the affine, the others the identity."""
    axis = _axis(front, 0)
    if (cuts := _cuts(front.node.outputs, axis)) is None:
        return _unknown(front)
    return Step(inputs={0: _placed(front.affine, axis, np.array(cuts[front.index]), cuts[-1].stop)})


@carry_down("Split")
def split_down(front: Front) -> Answer:
    """Every output gets its slice."""
    axis = _axis(front, 0)
    if axis not in front.affine.varies_on:
        return Step(outputs=dict.fromkeys(range(len(front.node.outputs)), front.affine))
    if front.index != 0 or (cuts := _cuts(front.node.outputs, axis)) is None:
        return _unknown(front)
    return Step(outputs={index: _cut(front.affine, axis, cut) for index, cut in enumerate(cuts)})


@carry_up("Slice")
def slice_up(front: Front) -> Answer:
    """The part that is picked gets the affine and the rest the identity; or all, where it does not vary."""
    sizes, slices = dims(front.node.inputs[0]), _slices(front)
    if sizes is None or slices is None:
        return _unknown(front)
    everything = () if set(slices) & set(front.affine.varies_on) else (Step(inputs={0: front.affine}),)
    placed = front.affine
    for axis, part in slices.items():
        if not isinstance(size := sizes[axis], int):
            return everything or _unknown(front)
        placed = _placed(placed, axis, np.arange(size)[part], size)
    return (Step(inputs={0: placed}), *everything)


@carry_down("Slice")
def slice_down(front: Front) -> Answer:
    """Scale and shift are sliced."""
    slices = _slices(front)
    if slices is None or front.index != 0:
        return _unknown(front)
    whole = slice(None)
    shape = front.affine.scale.shape
    cuts = tuple(slices.get(axis, whole) if size > 1 else whole for axis, size in enumerate(shape))
    return _passed_down(front.affine.moved(lambda array: array[cuts]))


@carry_up("Gather")
def gather_up(front: Front) -> Answer:
    """The elements picked get the affine and the rest the identity; or all, where it does not vary."""
    sizes, indices = dims(front.node.inputs[0]), front.constant(1)
    if sizes is None or indices is None:
        return _unknown(front)
    axis = front.node.attributes.get_int("axis", 0) % len(sizes)
    axes = range(axis, axis + len(indices.shape))
    steps: list[Step] = []
    size, picked = sizes[axis], indices.raw().ravel().astype(np.int64)
    if isinstance(size, int) and len(set(picked % size)) == picked.size:
        spread = front.affine
        for own, length in zip(axes, indices.shape, strict=True):
            spread = spread.spread(own, length)
        part = _joined(spread, axes, picked.size)
        steps.append(Step(inputs={0: _placed(part, axis, picked % size, size)}))
    if not set(axes) & set(front.affine.varies_on):
        steps.append(Step(inputs={0: _joined(front.affine, axes, 1)}))
    return tuple(steps) or _unknown(front)


@carry_down("Gather")
def gather_down(front: Front) -> Answer:
    """Scale and shift are picked."""
    indices = front.constant(1)
    if front.index != 0 or indices is None:
        return _unknown(front)
    axis = _axis(front, 0)
    picked = indices.raw().astype(np.int64)
    if axis not in front.affine.varies_on:
        picked = np.zeros_like(picked)
    return _passed_down(front.affine.moved(lambda array: np.take(array, picked, axis)))


def _axis(front: Front, default: int) -> int:
    return front.node.attributes.get_int("axis", default) % front.affine.rank


def _passed_down(affine: Affine) -> Step:
    """What comes out of a cut; where the part that was cut out did not change, nothing needs to be done."""
    return Step() if affine.is_identity else Step(outputs={0: affine})


def _placed(part: Affine, axis: int, positions: npt.NDArray[np.int64], size: int) -> Affine:
    """The affine on ``size`` elements along ``axis``: ``part`` at ``positions``, the identity elsewhere."""
    part = part.spread(axis, positions.size)
    shape = list(part.scale.shape)
    shape[axis] = size
    scale, shift = np.ones(shape), np.zeros(shape)
    where = (slice(None),) * axis + (positions,)
    scale[where], shift[where] = part.scale, part.shift
    return Affine.of(scale, shift)


def _joined(affine: Affine, axes: range, size: int) -> Affine:
    """The affine with its ``axes`` made one of ``size``."""
    shape = affine.scale.shape
    whole = (*shape[: axes.start], size, *shape[axes.stop :])
    return Affine(affine.scale.reshape(whole), affine.shift.reshape(whole))


def _cut(affine: Affine, axis: int, part: range) -> Affine:
    return affine.moved(lambda array: array.take(part, axis))


def _cuts(values: Sequence[ir.Value | None], axis: int) -> list[range] | None:
    """Where each value lies along ``axis`` when all are joined; None if a size is not static."""
    cuts: list[range] = []
    start = 0
    for value in values:
        sizes = dims(value)
        if sizes is None or not isinstance(size := sizes[axis], int):
            return None
        cuts.append(range(start, start + size))
        start += size
    return cuts


def _slices(front: Front) -> dict[int, slice] | None:
    """What a Slice picks along each axis that it cuts; None if that is computed at run time."""
    starts, ends = front.integers("starts", 1), front.integers("ends", 2)
    if starts is None or ends is None or front.is_computed(3) or front.is_computed(4):
        return None
    axes = front.integers("axes", 3) or tuple(range(len(starts)))
    steps = front.integers("steps", 4) or (1,) * len(starts)
    slices: dict[int, slice] = {}
    for axis, start, end, step in zip(axes, starts, ends, steps, strict=True):
        # Going backwards, ONNX includes element 0 where the end lies far below 0; Python where there is none.
        to_the_first = step < 0 and end < -(1 << 31)
        slices[axis % front.affine.rank] = slice(start, None if to_the_first else end, step)
    return slices


def _unknown(front: Front) -> Refusal:
    return front.refuse(Reason.CHANNELS, "cuts or joins along an axis whose size or part is not known")
