"""Shapes of values, and where the elements of an affine go when a value is reshaped.

A dimension is an int where it is static, a name where it is symbolic (equal names are equal sizes) and
None where nothing is known.
"""

import numpy as np
import onnx_ir as ir

from foldserve.folding.affine import Affine

Dimensions = tuple[int | str | None, ...]


def dims(value: ir.Value | None) -> Dimensions | None:
    """The dimensions of a value; None where not even the rank is known."""
    if value is None or value.shape is None:
        return None
    return tuple(size if isinstance(size, int) else size.value for size in value.shape)


def reshaped(affine: Affine, source: Dimensions, target: Dimensions) -> Affine | None:
    """The affine on a value of shape ``target`` that is ``affine`` on the same elements in shape ``source``.

    Both shapes hold the same elements in row-major order, as for Reshape, Flatten, Squeeze and Unsqueeze.
    The axes fall into groups of equal size, found from the right and then from the left; axes that no
    group can be found for (their sizes are not static) may be regrouped in any way, so the affine must
    not vary on them.

    Returns None where it varies on an axis that cannot be followed.
    """
    before: list[int] = []
    after: list[int] = []
    for source_group, target_group in _groups(source, target):
        sizes = affine.scale.shape[source_group.start : source_group.stop]
        if all(size == 1 for size in sizes):
            before += [1] * len(source_group)
            after += [1] * len(target_group)
            continue
        old, new = (
            source[source_group.start : source_group.stop],
            target[target_group.start : target_group.stop],
        )
        static = (sizes, sizes) if len(old) == len(new) == 1 else _static(old, new)
        if static is None:
            return None
        before += static[0]
        after += static[1]
    return affine.moved(lambda array: np.broadcast_to(array, before).reshape(after))


def _static(source: Dimensions, target: Dimensions) -> tuple[tuple[int, ...], tuple[int, ...]] | None:
    """Both shapes as numbers, given that they hold equally many elements; None where that cannot be told."""
    known_source = [size for size in source if isinstance(size, int)]
    known_target = [size for size in target if isinstance(size, int)]
    if len(known_source) < len(source) and len(known_target) == len(target):
        solved = _static(target, source)
        return None if solved is None else (solved[1], solved[0])
    if len(known_source) < len(source) or len(target) - len(known_target) > 1:
        return None
    missing, remainder = divmod(int(np.prod(known_source)), max(1, int(np.prod(known_target))))
    if remainder:
        return None
    return tuple(known_source), tuple(size if isinstance(size, int) else missing for size in target)


def _groups(source: Dimensions, target: Dimensions) -> list[tuple[range, range]]:
    """Pairs of axis ranges of equal size, in order; one pair of the leftovers stands in the middle."""
    right = _aligned(source[::-1], target[::-1])
    rest_source = len(source) - sum(size for size, _ in right)
    rest_target = len(target) - sum(size for _, size in right)
    left = _aligned(source[:rest_source], target[:rest_target])
    taken_source = sum(size for size, _ in left)
    taken_target = sum(size for _, size in left)
    middle = (rest_source - taken_source, rest_target - taken_target)
    pairs: list[tuple[range, range]] = []
    i = j = 0
    for step_source, step_target in [*left, middle, *reversed(right)]:
        if step_source or step_target:
            pairs.append((range(i, i + step_source), range(j, j + step_target)))
        i, j = i + step_source, j + step_target
    return pairs


def _aligned(source: Dimensions, target: Dimensions) -> list[tuple[int, int]]:
    """How many axes of each form the first, second, … group of equal size, as far as can be told."""
    groups: list[tuple[int, int]] = []
    i = j = 0
    while i < len(source) and j < len(target):
        a, b = source[i], target[j]
        if a is not None and a == b:
            groups.append((1, 1))
            i, j = i + 1, j + 1
            continue
        end_i, end_j = i + 1, j + 1
        while a != b:
            if not isinstance(a, int) or not isinstance(b, int):
                return groups
            longer, position, shape = (a, end_j, target) if a > b else (b, end_i, source)
            if position == len(shape) or not isinstance(size := shape[position], int):
                return groups
            if longer == a:
                b, end_j = b * size, end_j + 1
            else:
                a, end_i = a * size, end_i + 1
        if a is None:
            return groups
        groups.append((end_i - i, end_j - j))
        i, j = end_i, end_j
    return groups


def rank(value: ir.Value | None) -> int | None:
    """The rank of a value, from its shape or else from the weight of the convolution that makes it."""
    sizes = dims(value)
    if sizes is not None or value is None:
        return None if sizes is None else len(sizes)
    producer = value.producer()
    if producer is not None and producer.op_type in ("Conv", "ConvTranspose"):
        weight = producer.inputs[1]
        return rank(weight) if weight is None or weight.const_value is None else len(weight.const_value.shape)
    return 2 if producer is not None and producer.op_type == "Gemm" else None


def lifted(affine: Affine, value_rank: int) -> Affine:
    """The affine on a value of higher rank, into which its own value broadcasts (axes align at the right)."""
    return affine.moved(lambda array: array.reshape((1,) * (value_rank - array.ndim) + array.shape))


def lowered(affine: Affine, value: ir.Value) -> Affine | None:
    """The affine on ``value``, which broadcasts to the value that ``affine`` is on.

    None where the affine varies along an axis along which ``value`` does not, or may not.
    """
    sizes = dims(value)
    if sizes is None:
        return affine if not affine.varies_on and rank(value) == affine.rank else None
    missing = affine.rank - len(sizes)
    if missing < 0 or any(
        axis < missing or sizes[axis - missing] != affine.scale.shape[axis] for axis in affine.varies_on
    ):
        return None
    return affine.moved(lambda array: array.reshape(array.shape[missing:]))
