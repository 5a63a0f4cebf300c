"""A constant operand that is rewritten: exact in float64 on the way, rounded once at the end.

However many affines a weight absorbs, it stays the tensor it was read from times a float64 factor, so
that every element is rounded exactly once, and a weight of many megabytes is multiplied out one at a
time.
"""

from dataclasses import dataclass
from functools import cached_property
from math import prod
from typing import Self

import ml_dtypes
import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from foldserve.folding.affine import Array

FLOATS = frozenset({ir.DataType.FLOAT, ir.DataType.DOUBLE, ir.DataType.FLOAT16, ir.DataType.BFLOAT16})


@dataclass(frozen=True, eq=False)
class Constant:
    """A constant of the model's own element type, as base · factor: exact until it is rounded."""

    base: ir.TensorProtocol | npt.NDArray[np.generic]
    """What it was read from; an array holds the numbers themselves, in float64 if they are floats."""

    dtype: ir.DataType
    """Element type it has in the model."""

    factors: tuple[Array, ...] = ()
    """Each broadcasts against ``base`` and leaves its shape as it is; all have different shapes."""

    @classmethod
    def of(cls, array: npt.ArrayLike, dtype: ir.DataType) -> Self:
        """The constant with these float64 numbers, to be rounded to ``dtype``."""
        return cls(np.asarray(array, np.float64), dtype)

    @property
    def shape(self) -> tuple[int, ...]:
        """Its shape."""
        return self.base.shape if isinstance(self.base, np.ndarray) else tuple(self.base.shape.numpy())

    @property
    def size(self) -> int:
        """Number of elements."""
        return int(np.prod(self.shape, dtype=np.int64))

    @property
    def nbytes(self) -> int:
        """Bytes it takes in the model."""
        return int(self.size * self.dtype.itemsize)

    @property
    def is_float(self) -> bool:
        """Whether its element type is a floating-point type that numpy can compute with."""
        return self.dtype in FLOATS

    def raw(self) -> npt.NDArray[np.generic]:
        """The numbers as they stand in the model, unscaled."""
        return self.base if isinstance(self.base, np.ndarray) else self.base.numpy()

    def exact(self) -> Array:
        """The numbers in float64."""
        values = self.raw().astype(np.float64)
        for factor in self.factors:
            values *= factor
        return values

    def scaled(self, factor: Array) -> "Constant":
        """The constant times ``factor``, which must not change its shape."""
        if not np.any(factor != 1):
            return self
        factors = {known.shape: known for known in self.factors}
        factors[factor.shape] = factors[factor.shape] * factor if factor.shape in factors else factor
        return Constant(self.base, self.dtype, tuple(factors.values()))

    def rounded(self) -> ir.TensorProtocol:
        """The tensor to write into the model: computed in float64 and rounded once, to the nearest."""
        if not isinstance(self.base, np.ndarray) and not self.factors:
            return self.base
        kind = self.dtype.numpy()
        with np.errstate(over="ignore"):
            if kind == np.float32 and self.factors:
                # numpy multiplies in float64 block by block: no float64 copy of the whole weight.
                result = np.empty(self.shape, np.float32)
                factor = prod(self.factors[1:], start=self.factors[0])
                np.multiply(self.raw(), factor, out=result, dtype=np.float64, casting="unsafe")
            else:
                result = self.exact().astype(kind)
        return ir.Tensor(result, dtype=self.dtype)

    @cached_property
    def fits(self) -> bool:
        """Whether rounding keeps it: nothing overflows, and little vanishes into subnormal numbers."""
        if not self.is_float or (not self.factors and not isinstance(self.base, np.ndarray)):
            return True
        limits = ml_dtypes.finfo(self.dtype.numpy())  # type: ignore[no-untyped-call]  # ml_dtypes has no stub for it
        wide_range = float(limits.smallest_normal) < 1e-30
        if wide_range and self._bound() < float(limits.max):
            return True
        exact = self.exact()
        with np.errstate(over="ignore"):
            error = exact.astype(self.dtype.numpy()).astype(np.float64) - exact
        return bool(np.isfinite(error).all()) and bool(
            np.linalg.norm(error) <= 2 * float(limits.eps) * np.linalg.norm(exact)
        )

    def _bound(self) -> float:
        """A number that no element exceeds in magnitude."""
        values = self.raw()
        bound = max(abs(float(values.max(initial=0))), abs(float(values.min(initial=0))))
        for factor in self.factors:
            bound *= float(np.max(np.abs(factor), initial=0.0))
        return bound
