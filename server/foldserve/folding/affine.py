"""Affines: the one kind of map that folding moves through a graph.

At inference a BatchNormalization is v ↦ s·v + t with one s and one t per channel, and so is a ``Mul``,
``Add``, ``Sub`` or ``Div`` by a constant. An :class:`Affine` holds s and t as float64 arrays that
*broadcast* against the value they act on: same rank, and size 1 along every axis on which they do not
vary. A BatchNormalization over (N, C, H, W) has arrays of shape (1, C, 1, 1). So the channel axis never
has to be named: transposing the value transposes the arrays, joining values joins them, and a rule that
needs "one number per channel of axis 1" asks for exactly that.

Composition: (s₂, t₂) ∘ (s₁, t₁) = (s₂·s₁, s₂·t₁ + t₂).  Inverse: (1/s, −t/s), where no s is zero.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Self

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Affine:
    """v ↦ scale·v + shift, on a value of rank ``scale.ndim``."""

    scale: Array
    """float64; size 1 along every axis on which neither scale nor shift varies."""

    shift: Array
    """float64; same shape as ``scale``."""

    @classmethod
    def of(cls, scale: npt.ArrayLike, shift: npt.ArrayLike) -> Self:
        """The affine with these arrays, which have the value's rank; axes without variation shrink to 1."""
        s, t = np.broadcast_arrays(np.asarray(scale, np.float64), np.asarray(shift, np.float64))
        for axis in range(s.ndim):
            if s.shape[axis] > 1 and _constant_along(s, axis) and _constant_along(t, axis):
                s, t = s.take([0], axis), t.take([0], axis)
        return cls(s, t)

    @classmethod
    def along(cls, scale: npt.ArrayLike, shift: npt.ArrayLike, *, axis: int, rank: int) -> Self:
        """The affine whose vectors (or scalars) lie along ``axis`` of a value of ``rank``."""
        shape = [1] * rank
        shape[axis] = -1
        s, t = np.broadcast_arrays(np.atleast_1d(scale), np.atleast_1d(shift))
        return cls.of(s.reshape(shape), t.reshape(shape))

    @classmethod
    def identity(cls, rank: int) -> Self:
        """v ↦ v."""
        return cls(np.ones((1,) * rank), np.zeros((1,) * rank))

    @property
    def rank(self) -> int:
        """Rank of the values it acts on."""
        return self.scale.ndim

    @property
    def is_identity(self) -> bool:
        """Whether it leaves every value as it is."""
        return not self.has_scale and not self.has_shift

    @property
    def has_scale(self) -> bool:
        """Whether some scale differs from 1."""
        return bool(np.any(self.scale != 1))

    @property
    def has_shift(self) -> bool:
        """Whether some shift differs from 0."""
        return bool(np.any(self.shift != 0))

    @property
    def is_uniform(self) -> bool:
        """Whether one number scales, and one shifts, every element."""
        return self.scale.size == 1

    @property
    def is_positive(self) -> bool:
        """Whether every scale is greater than 0."""
        return bool(np.all(self.scale > 0))

    @property
    def varies_on(self) -> tuple[int, ...]:
        """The axes along which scale or shift varies."""
        return tuple(axis for axis, size in enumerate(self.scale.shape) if size > 1)

    def then(self, outer: "Affine") -> "Affine":
        """This affine first, ``outer`` on its result."""
        return Affine.of(outer.scale * self.scale, outer.scale * self.shift + outer.shift)

    def inverse(self) -> "Affine | None":
        """The affine that undoes this one; None where a scale is zero (or its inverse overflows)."""
        with np.errstate(divide="ignore", over="ignore", invalid="ignore"):
            scale = 1 / self.scale
            shift = -self.shift / self.scale
        return Affine(scale, shift) if np.isfinite(scale).all() and np.isfinite(shift).all() else None

    def without_shift(self) -> "Affine":
        """Its scale alone."""
        return Affine.of(self.scale, np.zeros_like(self.shift))

    def moved(self, movement: Callable[[Array], Array]) -> "Affine":
        """The affine after the same ``movement`` of elements on scale and shift."""
        return Affine.of(movement(self.scale), movement(self.shift))

    def vectors(self, axis: int, size: int) -> tuple[Array, Array] | None:
        """Scale and shift as vectors [size] along ``axis``; None where they vary along another axis."""
        axis %= self.rank
        if any(other != axis for other in self.varies_on) or self.scale.shape[axis] not in (1, size):
            return None
        return np.broadcast_to(self.scale.ravel(), size), np.broadcast_to(self.shift.ravel(), size)

    def spread(self, axis: int, size: int) -> "Affine":
        """The same affine with its arrays written out along ``axis``, as needed to cut or join them there."""
        shape = list(self.scale.shape)
        shape[axis] = size
        return Affine(np.broadcast_to(self.scale, shape), np.broadcast_to(self.shift, shape))

    def equals(self, other: "Affine") -> bool:
        """Whether both are the same map, up to the rounding of float64 arithmetic."""
        return np.allclose(self.scale, other.scale, rtol=1e-12, atol=0) and np.allclose(
            self.shift, other.shift, rtol=1e-12, atol=1e-300
        )


@dataclass(frozen=True)
class Reparametrisation:
    """A value v that is to be held as v' instead: v' = make(v) for its producer, v = read(v') for readers.

    Where no scale is zero the two are inverses. Where one is, only the given direction exists and the
    other is None.
    """

    make: Affine | None
    read: Affine | None

    @classmethod
    def by_make(cls, make: Affine) -> Self:
        """The value becomes make(v)."""
        return cls(make, make.inverse())

    @classmethod
    def by_read(cls, read: Affine) -> Self:
        """The value becomes the v' of which v is read(v')."""
        return cls(read.inverse(), read)

    @property
    def is_identity(self) -> bool:
        """Whether the value stays as it is."""
        return self.make is not None and self.make.is_identity

    def equals(self, other: "Reparametrisation") -> bool:
        """Whether both hold the value as the same tensor."""
        if self.make is not None and other.make is not None:
            return self.make.equals(other.make)
        return self.read is not None and other.read is not None and self.read.equals(other.read)


def _constant_along(array: Array, axis: int) -> bool:
    return bool(np.all(array == array.take([0], axis)))
