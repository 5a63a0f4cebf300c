"""An answer that left its budget in service, and what shows it."""

from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from foldserve.parity.live_comparison import Sizes
from foldserve.parity.measures import is_float
from foldserve.parity.sample import Arrays, Sample, part_of
from foldserve.runtime.session import Array


@dataclass(frozen=True, slots=True)
class Breach:
    """A check in which an answer left its budget."""

    at_s: float
    """Seconds since 1970."""

    evidence: str
    """Which outputs, and how far."""

    outputs: frozenset[str]
    """Those outputs."""

    sample: Sample
    """Of a sample with several rows, where these do not depend on each other, the worst one."""

    expected: Arrays
    """What the reference answers to it."""

    sizes: Sizes = field(default_factory=dict)
    """The usual sizes of the outputs then."""

    def held_bytes(self) -> int:
        """Bytes that stay in memory for as long as this does."""
        return self.sample.held_bytes() + sum(array.nbytes for array in self.expected.values())


def worst_row(outputs: Iterable[str], sample: Sample, expected: Arrays) -> tuple[Sample, Arrays]:
    """The row in which ``outputs`` are farthest from what was expected, and what was expected of it."""
    errors = [_row_errors(sample.outputs[name], expected[name]) for name in outputs]
    worst = int(np.argmax(np.max(errors, axis=0)))
    return sample.row(worst), part_of(expected, slice(worst, worst + 1))


def _row_errors(first: Array, second: Array) -> NDArray[np.float64]:
    """The largest difference in each row; 1 where elements without a distance differ.

    What is not finite in ``second``, the reference, shows nothing.
    """
    if is_float(first.dtype):
        with np.errstate(invalid="ignore", over="ignore"):
            error = np.abs(first.astype(np.float64) - second.astype(np.float64))
        error = np.where(np.isfinite(second), np.nan_to_num(error, nan=np.inf, posinf=np.inf), 0.0)
    else:
        error = (first != second).astype(np.float64)
    largest: NDArray[np.float64] = error.reshape(len(error), -1).max(axis=1, initial=0.0)
    return largest
