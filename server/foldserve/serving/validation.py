"""Does a request fit the model? Answered before anything is computed, naming tensor and expectation."""

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from foldserve.errors import InvalidRequest
from foldserve.runtime.tensors import TensorSpec
from foldserve.serving.datatypes import datatype_name

Array = NDArray[np.generic]


def describe(spec: TensorSpec) -> str:
    """A tensor as a person would write it: ``FP32 [batch, 1, 8, 8]``."""
    shape = (
        "of any shape" if spec.shape is None else _brackets("?" if dim is None else dim for dim in spec.shape)
    )
    return f"{datatype_name(spec.dtype)} {shape}"


def validate_inputs(specs: Sequence[TensorSpec], inputs: Mapping[str, Array]) -> None:
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


def validate_outputs(specs: Sequence[TensorSpec], requested: Sequence[str]) -> None:
    """Raise :class:`InvalidRequest` when an output is asked for that the model does not have, or twice."""
    available = {spec.name for spec in specs}
    for name in requested:
        if name not in available:
            raise InvalidRequest(f"unknown output '{name}'; the model gives {_names(available)}")
    if len(set(requested)) != len(requested):
        raise InvalidRequest(f"an output is requested twice: {_names(requested)}")


def _validate_tensor(spec: TensorSpec, array: Array, sizes: dict[str, tuple[int, str]]) -> None:
    if array.dtype != spec.dtype:
        raise _mismatch(spec, array)
    if spec.shape is None:
        return
    if array.ndim != len(spec.shape):
        raise _mismatch(spec, array, f" ({array.ndim} dimensions instead of {len(spec.shape)})")
    for axis, (expected, size) in enumerate(zip(spec.shape, array.shape, strict=True)):
        if isinstance(expected, int):
            if expected != size:
                raise _mismatch(spec, array, f" (axis {axis} must be {expected})")
        elif expected is not None:
            known, where = sizes.setdefault(expected, (size, spec.name))
            if known != size:
                raise _mismatch(spec, array, f" (axis {axis}, '{expected}', is {known} in input '{where}')")


def _mismatch(spec: TensorSpec, array: Array, detail: str = "") -> InvalidRequest:
    return InvalidRequest(
        f"input '{spec.name}': expected {describe(spec)}, got {_describe_array(array)}{detail}"
    )


def _describe_array(array: Array) -> str:
    return f"{datatype_name(array.dtype)} {_brackets(array.shape)}"


def _brackets(dims: Iterable[object]) -> str:
    return "[" + ", ".join(str(dim) for dim in dims) + "]"


def _names(names: Iterable[str]) -> str:
    return ", ".join(f"'{name}'" for name in names) or "none"
