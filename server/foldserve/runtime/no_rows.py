"""The answer to inputs without rows: what one row is answered, cut off.

Runtimes have kernels that were never tried on nothing: ONNX Runtime's LSTM ends the process, and OpenVINO
pools one row at least.
"""

from collections.abc import Callable, Iterable, Mapping

import numpy as np

from foldserve.runtime.session import Array
from foldserve.runtime.tensors import TensorSpec


def rows_are_open(specs: Iterable[TensorSpec]) -> bool:
    """Whether the first axis of every tensor may have any size, as the axis of rows has."""
    return all(spec.shape and not isinstance(spec.shape[0], int) for spec in specs)


def have_no_rows(inputs: Mapping[str, Array]) -> bool:
    """Whether the first axis of every input, and there are some, is empty."""
    for array in inputs.values():
        if array.shape[:1] != (0,):
            return False
    return bool(inputs)


def answer_to_no_rows(
    inputs: Mapping[str, Array], run: Callable[[Mapping[str, Array]], list[Array]]
) -> list[Array] | None:
    """What ``run`` answers to one row of zeros, without that row; None where it does not answer with a row.

    Raises what ``run`` raises.
    """
    answers = run({name: _one_row(array) for name, array in inputs.items()})
    if any(answer.shape[:1] != (1,) for answer in answers):
        return None
    return [answer[:0] for answer in answers]


def _one_row(array: Array) -> Array:
    shape = (1, *array.shape[1:])
    return np.full(shape, b"", np.object_) if array.dtype == np.object_ else np.zeros(shape, array.dtype)
