"""Distances between tensors."""

from math import fsum, inf, nan, sqrt

import ml_dtypes
import numpy as np
import pytest
from foldserve.parity.measures import Distance, distance, worst
from foldserve.runtime.session import Array
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays_of

SHAPES = arrays_of.array_shapes(max_dims=3, max_side=5)
FLOAT32 = arrays_of.arrays(np.float32, SHAPES, elements=st.floats(width=32))
PAIRS = SHAPES.flatmap(
    lambda shape: st.tuples(
        *[arrays_of.arrays(np.float32, shape, elements=st.floats(-1e6, 1e6, width=32)) for _ in range(2)]
    )
)


def floats(*values: float) -> Array:
    return np.array(values, np.float32)


@settings(deadline=None)
@given(FLOAT32)
def test_everything_is_at_distance_zero_from_itself(array: Array) -> None:
    measured = distance(array, array.copy())
    assert (measured.relative_l2, measured.scaled_max, measured.mismatches) == (0, 0, 0)
    assert measured.top1_agreement in {None, 1}


@settings(deadline=None)
@given(PAIRS)
def test_the_definitions(pair: tuple[Array, Array]) -> None:
    reference, candidate = (array.astype(np.float64).ravel().tolist() for array in pair)
    errors = [b - a for a, b in zip(reference, candidate, strict=True)]
    measured = distance(*pair)
    size = sqrt(fsum(a * a for a in reference))
    largest = max(map(abs, reference))
    error = sqrt(fsum(e * e for e in errors))
    if largest == 0:
        assert measured.relative_l2 == measured.scaled_max == (inf if any(errors) else 0)
        return
    assert measured.relative_l2 == pytest.approx(error / size, rel=1e-12)
    assert measured.scaled_max == pytest.approx(max(map(abs, errors)) / largest, rel=1e-12)


def test_float32_results_are_accumulated_in_float64() -> None:
    """In float32 the square of 1e-4 vanishes beside that of 1, and 1e30 overflows."""
    reference = np.ones(1_000_000, np.float32)
    assert distance(reference, reference + np.float32(1e-6)).relative_l2 == pytest.approx(9.54e-7, rel=1e-3)
    assert distance(floats(1e30), floats(1.5e30)).relative_l2 == pytest.approx(0.5, rel=1e-6)


def test_one_bad_channel_shows_in_the_scaled_max() -> None:
    reference = np.ones((1, 1000), np.float32)
    candidate = reference.copy()
    candidate[0, 7] = 1.01
    measured = distance(reference, candidate)
    assert measured.relative_l2 == pytest.approx(0.01 / sqrt(1000), rel=1e-4)
    assert measured.scaled_max == pytest.approx(0.01, rel=1e-4)


@pytest.mark.parametrize(
    ("reference", "candidate", "mismatches"),
    [
        (floats(1, nan), floats(1, 2), 1),
        (floats(1, 2), floats(1, nan), 1),
        (floats(inf, inf), floats(inf, -inf), 1),
        (floats(1, inf), floats(1, nan), 1),
        (floats(1, inf), floats(1, 3e38), 1),
        (floats(1, 1, 1), floats(nan, nan, 1), 2),
    ],
    ids=str,
)
def test_non_finite_on_one_side_is_infinitely_far(
    reference: Array, candidate: Array, mismatches: int
) -> None:
    measured = distance(reference, candidate)
    assert (measured.relative_l2, measured.scaled_max, measured.mismatches) == (inf, inf, mismatches)


def test_non_finite_on_both_sides_is_agreement_and_the_rest_still_counts() -> None:
    measured = distance(floats(nan, inf, -inf, 4), floats(nan, inf, -inf, 5))
    assert (measured.relative_l2, measured.scaled_max, measured.mismatches) == (0.25, 0.25, 0)


def test_a_reference_of_zeros() -> None:
    zeros = np.zeros(3, np.float32)
    assert distance(zeros, zeros).relative_l2 == 0
    assert distance(zeros, floats(0, 1e-30, 0)).relative_l2 == inf
    assert distance(np.empty((0, 4), np.float32), np.empty((0, 4), np.float32)) == Distance()


@pytest.mark.parametrize(
    ("reference", "candidate"),
    [
        (np.array([1, 2, 3, 4]), np.array([1, 2, 3, 5])),
        (np.array([True, False, True, True]), np.array([True, True, True, True])),
        (np.array([b"a", b"b", b"c", b"d"], np.object_), np.array([b"a", b"b", b"c", b"e"], np.object_)),
    ],
    ids=["int", "bool", "string"],
)
def test_what_is_no_float_must_be_equal(reference: Array, candidate: Array) -> None:
    assert distance(reference, reference.copy()) == Distance()
    measured = distance(reference, candidate)
    assert (measured.relative_l2, measured.scaled_max, measured.mismatches) == (0.25, 0.25, 1)


@pytest.mark.parametrize(
    ("reference", "candidate"),
    [
        (np.zeros((2, 3), np.float32), np.zeros((3, 2), np.float32)),
        (np.zeros((2, 1), np.float32), np.zeros((2, 3), np.float32)),
        (np.zeros(3, np.float32), np.zeros(3, np.int64)),
    ],
    ids=["shape", "broadcast", "kind"],
)
def test_what_cannot_be_compared_is_infinitely_far(reference: Array, candidate: Array) -> None:
    assert distance(reference, candidate).relative_l2 == inf
    assert distance(reference, candidate).mismatches > 0


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, np.float64])
def test_every_float_type_is_measured(dtype: type[np.generic]) -> None:
    reference, candidate = np.array([4, 2]).astype(dtype), np.array([4, 1]).astype(dtype)
    assert distance(reference, candidate).scaled_max == 0.25


def test_top1_counts_rows_of_class_scores() -> None:
    reference = np.array([[0, 1, 0], [1, 0, 0], [0, 0, 1], [0, 1, 0]], np.float32)
    candidate = reference[[0, 1, 2, 0]] * np.float32(0.5)
    candidate[3] = [0.5, 0.4, 0]
    assert distance(reference, candidate).top1_agreement == 0.75
    assert distance(reference[:, :1], candidate[:, :1]).top1_agreement is None
    assert distance(reference[None], candidate[None]).top1_agreement is None


def test_the_worst_keeps_maxima_and_adds_counts() -> None:
    combined = worst([Distance(0.1, 0.4, 1, 10, 9), Distance(0.3, 0.2, 2, 30, 30)])
    assert combined == Distance(0.3, 0.4, 3, 40, 39)
    assert combined.top1_agreement == 39 / 40
    assert worst([]) == Distance()
