"""A request and its answer, as they are looked at after the caller has gone."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from foldserve.runtime.session import Array

COPY_BELOW = 0.25
"""A part of a tensor that is smaller than this share of the whole is copied: it would keep all of it."""

Arrays = Mapping[str, Array]


@dataclass(frozen=True, slots=True, eq=False)
class Sample:
    """The inputs of a request and what it was answered, by name."""

    inputs: Arrays
    outputs: Arrays
    rows: int

    def head(self, rows: int) -> "Sample":
        """The first rows."""
        return self if self.rows <= rows else self._part(slice(0, rows))

    def row(self, index: int) -> "Sample":
        """One of the rows."""
        return self._part(slice(index, index + 1))

    @property
    def elements(self) -> int:
        """Number of elements of all inputs."""
        return sum(array.size for array in self.inputs.values())

    def held_bytes(self) -> int:
        """Bytes that stay in memory for as long as this does: of views, what they are views of."""
        return sum(map(_held_bytes, (*self.inputs.values(), *self.outputs.values())))

    def _part(self, rows: slice) -> "Sample":
        inputs, outputs = (part_of(arrays, rows) for arrays in (self.inputs, self.outputs))
        return Sample(inputs, outputs, rows.stop - rows.start)


def part_of(arrays: Arrays, rows: slice) -> dict[str, Array]:
    """Some rows of each array: views, or copies where a view would keep much more in memory than it is."""
    return {name: _economical(array[rows]) for name, array in arrays.items()}


def _economical(view: Array) -> Array:
    return view.copy() if view.nbytes < COPY_BELOW * _held_bytes(view) else view


def _held_bytes(array: Array) -> int:
    if array.dtype == np.object_:
        return sum(len(element) for element in array.ravel().tolist())
    owner = array
    while isinstance(owner.base, np.ndarray):
        owner = owner.base
    return len(owner.base) if isinstance(owner.base, bytes) else owner.nbytes
