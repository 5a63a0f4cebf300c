"""Affines, the shapes they follow, and constants that are rounded once."""

import inspect
from math import prod

import numpy as np
import onnx_ir as ir
import pytest
from foldserve.folding.affine import Affine, Reparametrisation
from foldserve.folding.constants import Constant
from foldserve.folding.operators import DOWN, UP
from foldserve.folding.shapes import reshaped
from foldserve.folding.steps import carry_up
from hypothesis import given
from hypothesis import strategies as st
from unit.folding import test_carry, test_disguises, test_fold, test_linear, test_quantized, test_tiers

numbers = st.floats(-8, 8).filter(lambda number: number == 0 or abs(number) > 1e-3)
affines = st.builds(
    lambda pairs: Affine.along(*np.array(pairs).T, axis=1, rank=4),
    st.lists(st.tuples(numbers, numbers), min_size=3, max_size=3),
)


@given(affines, affines)
def test_then_composes(first: Affine, second: Affine) -> None:
    value = np.linspace(-2, 2, 3 * 4).reshape(1, 3, 2, 2)
    both = first.then(second)
    stepwise = second.scale * (first.scale * value + first.shift) + second.shift
    assert np.allclose(both.scale * value + both.shift, stepwise, rtol=1e-12, atol=1e-12)


@given(affines)
def test_inverse_undoes(affine: Affine) -> None:
    inverse = affine.inverse()
    assert (inverse is None) == bool((affine.scale == 0).any())
    if inverse is not None:
        identity = affine.then(inverse)
        assert np.allclose(identity.scale, 1)
        assert np.allclose(identity.shift, 0, atol=1e-11)
        assert Reparametrisation.by_make(affine).equals(Reparametrisation.by_read(inverse))


def test_axes_without_variation_shrink() -> None:
    affine = Affine.of(np.full((1, 3, 4, 1), 2.0), np.arange(3.0).reshape(1, 3, 1, 1))
    assert affine.scale.shape == affine.shift.shape == (1, 3, 1, 1)
    assert affine.varies_on == (1,)
    assert Affine.along(2.0, np.zeros(5), axis=1, rank=3).is_uniform


def test_vectors_only_along_one_axis() -> None:
    affine = Affine.along([1.0, 2.0], [3.0, 4.0], axis=1, rank=3)
    vectors = affine.vectors(1, 2)
    assert vectors is not None
    assert vectors[1].tolist() == [3.0, 4.0]
    assert affine.vectors(2, 2) is None
    assert affine.vectors(1, 5) is None


@pytest.mark.parametrize(
    ("source", "target"),
    [
        (("N", 6, 4, 5), ("N", 6, 20)),
        (("N", 6, 4, 5), ("N", 120)),
        (("N", 6, 4, 5), ("N", 2, 3, 4, 5)),
        (("N", 6, 4, 5), (None, 120)),
        (("N", 6, "H", "W"), ("N", 6, None)),
        (("N", 6, 4, 5), ("N", 6, None)),
        (("N", 6, 4, 5), ("N", 1, 6, 4, 5)),
        (("N", 6, 1, 1), ("N", 6)),
        (("M", "N", 6, 4), (None, 6, 4)),
        ((2, 6, 4, 5), (12, 4, 5)),
    ],
    ids=str,
)
def test_reshaping_moves_scale_and_shift_with_the_elements(
    source: tuple[int | str | None, ...], target: tuple[int | str | None, ...]
) -> None:
    sizes = {"N": 3, "M": 2, "H": 4, "W": 5}
    static = tuple(sizes[size] if isinstance(size, str) else int(size or 0) for size in source)
    channels = 6 if 6 in source else 12
    axis = source.index(channels)
    affine = Affine.along(np.arange(1.0, channels + 1), np.arange(channels), axis=axis, rank=len(source))
    moved = reshaped(affine, source, target)
    assert moved is not None
    known = [sizes[size] if isinstance(size, str) else size for size in target]
    missing = prod(static) // prod(size for size in known if size is not None)
    final = [missing if size is None else size for size in known]
    value = np.arange(float(prod(static))).reshape(static)
    expected = (affine.scale * value + affine.shift).reshape(final)
    assert np.array_equal(moved.scale * value.reshape(final) + moved.shift, expected)
    back = reshaped(moved, target, source)
    assert back is not None
    assert back.equals(affine)


@pytest.mark.parametrize(
    ("source", "target"),
    [(("N", 6, "H", 5), ("N", None)), (("N", 6, None, None), ("N", None, 3)), (("N", 6, "H"), ("N", "H", 6))],
    ids=str,
)
def test_reshapes_that_mix_what_is_not_static_are_refused(
    source: tuple[int | str | None, ...], target: tuple[int | str | None, ...]
) -> None:
    affine = Affine.along(np.arange(6.0), np.arange(6.0), axis=1, rank=len(source))
    assert reshaped(affine, source, target) is None


@pytest.mark.parametrize(
    ("dtype", "half_a_step"),
    [(ir.DataType.FLOAT, 2.0**-24), (ir.DataType.FLOAT16, 2.0**-11), (ir.DataType.BFLOAT16, 2.0**-8)],
    ids=str,
)
def test_many_factors_are_rounded_once(dtype: ir.DataType, half_a_step: float) -> None:
    rng = np.random.default_rng(0)
    weight = rng.normal(size=(8, 5, 3, 3)).astype(dtype.numpy())
    rows, columns = rng.uniform(0.5, 2, (3, 8, 1, 1, 1)), rng.uniform(0.5, 2, (1, 5, 1, 1))
    constant = Constant(ir.tensor(weight), dtype)
    for row in rows:
        constant = constant.scaled(row)
    constant = constant.scaled(columns)
    assert len(constant.factors) == 2
    exact = weight.astype(np.float64) * (rows[0] * rows[1] * rows[2]) * columns
    rounded = constant.rounded().numpy()
    assert rounded.dtype == dtype.numpy()
    assert (np.abs(rounded.astype(np.float64) - exact) <= 1.000001 * half_a_step * np.abs(exact)).all()


def test_what_float16_cannot_hold_does_not_fit() -> None:
    half = ir.DataType.FLOAT16
    assert Constant.of(np.array([1.0, 60000.0]), half).fits
    assert not Constant.of(np.array([1.0, 70000.0]), half).fits
    assert not Constant.of(np.array([3e-8, 2e-8]), half).fits
    assert Constant.of(np.array([1.0, 2e-8]), half).fits
    assert not Constant.of(np.array([1e39]), ir.DataType.FLOAT).fits
    assert not Constant.of(np.array([np.nan]), ir.DataType.FLOAT).fits


def test_an_operator_has_one_rule() -> None:
    with pytest.raises(ValueError, match="Conv has a rule already"):
        carry_up("Conv")(UP["Conv"])


def test_every_operator_of_the_tables_is_tested() -> None:
    """By name, in one of the files that fold real graphs."""
    files = (test_carry, test_disguises, test_fold, test_linear, test_quantized, test_tiers)
    texts = "".join(inspect.getsource(module) for module in files)
    missing = [name for name in {*UP, *DOWN} if f'"{name}"' not in texts and f'"{name.lower()}"' not in texts]
    assert not missing
