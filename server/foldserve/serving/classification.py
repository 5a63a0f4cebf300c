"""The classification extension: the largest values of an output as text, ``value:index[:label]``."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from foldserve.errors import ConfigurationError, InvalidRequest
from foldserve.serving.datatypes import datatype_name
from foldserve.serving.validation import Array

Labels = Mapping[str, Sequence[str]]
"""Output name → the label of each class, by its index."""

MOST_CLASSES = 100_000
"""Texts in one answer: each costs a microsecond in which nothing else is answered."""


def classify(values: Array, classes: int, labels: Sequence[str], *, by_row: bool) -> Array:
    """The ``classes`` largest of ``values``, largest first, of equals the one with the lowest index first.

    ``values`` [rows, ...] become BYTES [rows, min(classes, rest)]; without ``by_row`` all of them are the
    classes of one answer: BYTES [min(classes, size)]. Numbers are written as C's ``%f`` and ``%d`` do, as
    Triton does. NaN comes last. Raises :class:`InvalidRequest` for an output that is not of numbers, and for
    more than ``MOST_CLASSES`` classes in all.
    """
    if values.dtype.kind in "bO":
        raise InvalidRequest(f"classification: {datatype_name(values.dtype)} values have no order")
    rows = values.reshape(len(values), math.prod(values.shape[1:])) if by_row else values.reshape(1, -1)
    numbers = rows if rows.dtype.kind in "iu" else rows.astype(np.float64)
    if len(numbers) * min(classes, numbers.shape[1]) > MOST_CLASSES:
        raise InvalidRequest(
            f"classification gives {MOST_CLASSES} classes at most; ask for fewer of each row"
        )
    ranks = _ranks(numbers)[:, :classes]
    texts = np.empty(ranks.shape, np.object_)
    for row, ranked in enumerate(ranks.tolist()):
        texts[row] = [_text(numbers[row, index].item(), index, labels) for index in ranked]
    return texts if by_row else texts[0]


def read_labels(folder: Path, files: Mapping[str, str], outputs: Sequence[str]) -> Labels:
    """The labels of a model's outputs, from files in its folder with one label per line.

    Raises :class:`ConfigurationError`.
    """
    for output in files:
        if output not in outputs:
            raise ConfigurationError(
                f"labels for output '{output}', which the model does not have; it gives {', '.join(outputs)}"
            )
    return {output: _lines(folder, file) for output, file in files.items()}


def _lines(folder: Path, name: str) -> list[str]:
    try:
        return (folder / name).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"label file {name} in {folder} cannot be read: {error}") from None


def _ranks(numbers: Array) -> NDArray[np.intp]:
    """Indices [rows, classes] of the values, largest first; what is equal keeps its order."""
    ordered = np.where(np.isnan(numbers), -np.inf, numbers) if numbers.dtype.kind == "f" else numbers
    mirrored = np.argsort(ordered[:, ::-1], axis=1, kind="stable")[:, ::-1]
    ranks: NDArray[np.intp] = numbers.shape[1] - 1 - mirrored
    return ranks


def _text(value: float | int, index: int, labels: Sequence[str]) -> bytes:
    number = f"{value:f}" if isinstance(value, float) else str(value)
    label = f":{labels[index]}" if index < len(labels) and labels[index] else ""
    return f"{number}:{index}{label}".encode()
