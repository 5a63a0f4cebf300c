"""Arrays as ONNX Runtime takes and gives them: also bfloat16, strings, and those of a device."""

import ctypes
from collections.abc import Mapping
from typing import Any

import numpy as np

from foldserve.errors import InvalidRequest
from foldserve.runtime.onnxruntime_module import onnxruntime
from foldserve.runtime.session import Array
from foldserve.runtime.tensors import BFLOAT16


def run_ort_values(session: Any, names: list[str], feed: Mapping[str, Array], options: Any) -> list[Array]:
    """Run with the runtime's own values: the only way in and out for bfloat16, which numpy does not have."""
    values = {name: ort_value(array) for name, array in feed.items()}
    return [_array(value) for value in session.run_with_ort_values(names, values, options)]


def run_bound(session: Any, names: list[str], feed: Mapping[str, Array]) -> list[Array]:
    """Run with inputs and outputs bound: one copy to the device, one back, and one wait for both."""
    binding = session.io_binding()
    for name, array in feed.items():
        binding.bind_cpu_input(name, np.require(array, requirements="C"))
    for name in names:
        binding.bind_output(name, "cpu")
    session.run_with_iobinding(binding)
    return [value.numpy() for value in binding.get_outputs()]


def ort_value(array: Array) -> Any:
    """The runtime's view of an array, which must outlive it."""
    contiguous = np.require(array, requirements="C")
    if array.dtype == BFLOAT16:
        from onnx import TensorProto  # noqa: PLC0415  # 6 MB, for bfloat16 alone

        return onnxruntime.OrtValue.ortvalue_from_numpy_with_onnx_type(
            contiguous.view(np.uint16), TensorProto.BFLOAT16
        )
    return onnxruntime.OrtValue.ortvalue_from_numpy(contiguous)


def _array(value: Any) -> Array:
    if value.data_type() != "tensor(bfloat16)":
        return as_bytes(value.numpy())
    content = ctypes.string_at(value.data_ptr(), value.tensor_size_in_bytes())
    array: Array = np.frombuffer(content, BFLOAT16).reshape(value.shape())
    return array


def as_strings(name: str, array: Array) -> Array:
    """``bytes`` elements as the ``str`` that the runtime takes; other arrays as they are."""
    if array.dtype != np.object_:
        return array
    try:
        strings = [element.decode() for element in array.ravel().tolist()]
    except UnicodeDecodeError as error:
        raise InvalidRequest(f"input '{name}': strings must be UTF-8 ({error})") from None
    return np.array(strings, np.object_).reshape(array.shape)


def as_bytes(array: Array) -> Array:
    """``str`` elements of an output as ``bytes``; other arrays as they are."""
    if array.dtype != np.object_:
        return array
    encoded = [element.encode() for element in array.ravel().tolist()]
    return np.array(encoded, np.object_).reshape(array.shape)
