"""How far one tensor is from another.

| measure | definition |
|---|---|
| relative L2 | ‖candidate − reference‖₂ / ‖reference‖₂ |
| scaled max | max|candidate − reference| / max|reference| |
| top-1 agreement | share of rows with the same arg-max, for outputs of rank 2 with more than one column |

Floats are compared in float64. A NaN or infinity on one side only makes both distances infinite; the same one
on both sides is agreement. Against a reference that is zero everywhere any difference is infinitely large.
Integers, booleans and strings must be equal: both distances are then the share of elements that differ.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from math import inf

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from foldserve.runtime.session import Array

PART = 1 << 16
"""Elements that are compared at once: so few stay in the cache, and their float64 copies reuse its memory."""


@dataclass(frozen=True, slots=True)
class Distance:
    """The measures of one tensor, or the worst of several."""

    relative_l2: float = 0.0
    scaled_max: float = 0.0
    mismatches: int = 0
    rows: int = 0
    agreeing_rows: int = 0

    @property
    def top1_agreement(self) -> float | None:
        """Share of rows whose arg-max is the same; None for what does not look like class scores."""
        return self.agreeing_rows / self.rows if self.rows else None


@dataclass(frozen=True, slots=True)
class Size:
    """How large the values of a tensor are."""

    norm: float = 0.0
    """‖x‖₂."""

    largest: float = 0.0
    """max|x|."""


def distance(reference: Array, candidate: Array, least: Size = Size()) -> Distance:
    """How far ``candidate`` is from ``reference``; infinitely far where shapes or kinds of element differ.

    A reference smaller than ``least`` counts as if it were of that size.
    """
    if reference.shape != candidate.shape or is_float(reference.dtype) != is_float(candidate.dtype):
        return Distance(inf, inf, mismatches=max(reference.size, candidate.size))
    if is_float(reference.dtype):
        return _float_distance(reference, candidate, least)
    mismatches = int(np.count_nonzero(reference != candidate))
    share = mismatches / max(reference.size, 1)
    return Distance(share, share, mismatches)


def worst(distances: Iterable[Distance]) -> Distance:
    """The largest distances; mismatches and rows added up."""
    result = Distance()
    for one in distances:
        result = Distance(
            max(result.relative_l2, one.relative_l2),
            max(result.scaled_max, one.scaled_max),
            result.mismatches + one.mismatches,
            result.rows + one.rows,
            result.agreeing_rows + one.agreeing_rows,
        )
    return result


def is_float(dtype: np.dtype[np.generic]) -> bool:
    """Whether a dtype is compared by distance rather than by equality; bfloat16 is no ``np.floating``."""
    return np.issubdtype(dtype, np.floating) or dtype == ml_dtypes.bfloat16


def size_of(array: Array) -> Size:
    """The size of a tensor of floats."""
    return _sizes(array.ravel(), array.ravel())[1]


def _float_distance(reference: Array, candidate: Array, least: Size) -> Distance:
    rows = agreeing = 0
    if reference.ndim == 2 and reference.shape[1] > 1:
        rows = len(reference)
        classes = (array.astype(np.float64).argmax(axis=1) for array in (reference, candidate))
        agreeing = int(np.count_nonzero(np.equal(*classes)))
    reference, candidate = reference.ravel(), candidate.ravel()
    error, size = _sizes(reference, candidate)
    if not math.isfinite(error.norm + size.norm):
        reference, candidate = reference.astype(np.float64), candidate.astype(np.float64)
        finite = np.isfinite(reference) & np.isfinite(candidate)
        same = (reference == candidate) | (np.isnan(reference) & np.isnan(candidate))
        mismatches = int(np.count_nonzero(~finite & ~same))
        if mismatches:
            return Distance(inf, inf, mismatches, rows, agreeing)
        error, size = _sizes(reference[finite], candidate[finite])
    return Distance(
        _ratio(error.norm, max(size.norm, least.norm)),
        _ratio(error.largest, max(size.largest, least.largest)),
        rows=rows,
        agreeing_rows=agreeing,
    )


def _sizes(reference: Array, candidate: Array) -> tuple[Size, Size]:
    """Of the difference between two flat arrays, and of the first: computed part by part in float64."""
    parts = []
    with np.errstate(invalid="ignore", over="ignore"):
        for start in range(0, reference.size, PART):
            expected = reference[start : start + PART].astype(np.float64)
            difference = candidate[start : start + PART].astype(np.float64) - expected
            parts.append([*_squares_and_largest(difference), *_squares_and_largest(expected)])
        if not parts:
            return Size(), Size()
        found = np.array(parts)
        squares, largest = np.sqrt(found.sum(axis=0)), found.max(axis=0)
    return Size(float(squares[0]), float(largest[1])), Size(float(squares[2]), float(largest[3]))


def _squares_and_largest(values: NDArray[np.float64]) -> tuple[float, float]:
    # Not numpy.linalg.norm: it calls BLAS, whose threads fight with the runtime's.
    return float(np.square(values).sum()), max(float(values.max()), -float(values.min()))


def _ratio(error: float, size: float) -> float:
    if error == 0:
        return 0.0
    return error / size if size else inf
