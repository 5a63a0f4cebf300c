"""Does a request fit the model? Answered before anything is computed, naming tensor and expectation."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from foldserve.errors import InvalidRequest
from foldserve.runtime.tensors import TensorSpec
from foldserve.serving.datatypes import datatype_name

Array = NDArray[np.generic]


RECURRENT = frozenset({"GRU", "LSTM", "RNN"})
"""Operators that end the process on inputs without elements (ONNX Runtime 1.31)."""


class Form(NamedTuple):
    """What a tensor is before anybody looks at its elements."""

    dtype: np.dtype[Any]
    shape: tuple[int, ...]


def describe(spec: TensorSpec) -> str:
    """A tensor as a person would write it: ``FP32 [batch, 1, 8, 8]``."""
    shape = (
        "of any shape" if spec.shape is None else _brackets("?" if dim is None else dim for dim in spec.shape)
    )
    return f"{datatype_name(spec.dtype)} {shape}"


def validate_inputs(specs: Sequence[TensorSpec], inputs: Mapping[str, Form]) -> None:
    """Raise :class:`InvalidRequest` unless ``inputs`` are exactly the tensors that ``specs`` describe.

    Dimensions of one symbolic name must have one size over all inputs.
    """
    expected = {spec.name: spec for spec in specs}
    for name in inputs:
        if name not in expected:
            raise InvalidRequest(f"unexpected input '{name}'; the model takes {_names(expected)}")
    sizes: dict[str, tuple[int, str]] = {}
    for name, spec in expected.items():
        if name not in inputs:
            raise InvalidRequest(f"input '{name}' is missing; the model takes {describe(spec)} there")
        _validate_tensor(spec, inputs[name], sizes)


def validate_rows(inputs: Mapping[str, Form]) -> None:
    """Raise :class:`InvalidRequest` unless all inputs have the same first dimension.

    Only so can requests share a run: rows of one input belong to the same rows of the others.
    """
    (first, form), *others = inputs.items()
    for name, other in others:
        if other.shape[0] != form.shape[0]:
            raise InvalidRequest(
                f"input '{name}' has {other.shape[0]} rows, input '{first}' has {form.shape[0]}; requests of "
                f"this model may share a run, so the first dimension of all inputs must be the same"
            )


def validate_elements(inputs: Mapping[str, Form]) -> None:
    """Raise :class:`InvalidRequest` for an input without elements: recurrent kernels do not survive one."""
    for name, form in inputs.items():
        if 0 in form.shape:
            raise InvalidRequest(
                f"input '{name}' has no elements ({_brackets(form.shape)}), and the model has a recurrent "
                "layer, which needs some; send one row at least"
            )


def validate_outputs(specs: Sequence[TensorSpec], requested: Sequence[str]) -> None:
    """Raise :class:`InvalidRequest` when an output is asked for that the model does not have, or twice."""
    if not requested:
        return
    available = {spec.name for spec in specs}
    for name in requested:
        if name not in available:
            raise InvalidRequest(f"unknown output '{name}'; the model gives {_names(available)}")
    if len(set(requested)) != len(requested):
        raise InvalidRequest(f"an output is requested twice: {_names(requested)}")


def _validate_tensor(spec: TensorSpec, form: Form, sizes: dict[str, tuple[int, str]]) -> None:
    if form.dtype != spec.dtype:
        raise _mismatch(spec, form)
    if spec.shape is None:
        return
    if len(form.shape) != len(spec.shape):
        raise _mismatch(spec, form, f" ({len(form.shape)} dimensions instead of {len(spec.shape)})")
    for axis, (expected, size) in enumerate(zip(spec.shape, form.shape, strict=True)):
        if isinstance(expected, int):
            if expected != size:
                raise _mismatch(spec, form, f" (axis {axis} must be {expected})")
        elif expected is not None:
            known, where = sizes.setdefault(expected, (size, spec.name))
            if known != size:
                raise _mismatch(spec, form, f" (axis {axis}, '{expected}', is {known} in input '{where}')")


def _mismatch(spec: TensorSpec, form: Form, detail: str = "") -> InvalidRequest:
    return InvalidRequest(
        f"input '{spec.name}': expected {describe(spec)}, got {_describe_form(form)}{detail}"
    )


def _describe_form(form: Form) -> str:
    return f"{datatype_name(form.dtype)} {_brackets(form.shape)}"


def _brackets(dims: Iterable[object]) -> str:
    return "[" + ", ".join(str(dim) for dim in dims) + "]"


def _names(names: Iterable[str]) -> str:
    return ", ".join(f"'{name}'" for name in names) or "none"
