"""What an ONNX file says of its inputs and outputs, for runtimes that do not keep all of it."""

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from foldserve.errors import InvalidModel, UnsupportedModel
from foldserve.runtime.tensors import BFLOAT16, TensorSpec

if TYPE_CHECKING:
    from onnx import ValueInfoProto

Specs = tuple[TensorSpec, ...]

DTYPES: dict[str, np.dtype[np.generic]] = {
    "BOOL": np.dtype(np.bool_),
    "UINT8": np.dtype(np.uint8),
    "UINT16": np.dtype(np.uint16),
    "UINT32": np.dtype(np.uint32),
    "UINT64": np.dtype(np.uint64),
    "INT8": np.dtype(np.int8),
    "INT16": np.dtype(np.int16),
    "INT32": np.dtype(np.int32),
    "INT64": np.dtype(np.int64),
    "FLOAT16": np.dtype(np.float16),
    "FLOAT": np.dtype(np.float32),
    "DOUBLE": np.dtype(np.float64),
    "BFLOAT16": BFLOAT16,
    "STRING": np.dtype(np.object_),
}
"""ONNX's name of each element type that inputs and outputs may have."""


def declared_tensors(file: Path, model: str) -> tuple[Specs, Specs]:
    """Inputs and outputs as they are declared in ``file``; of a scalar, too, the shape is None.

    ``model`` stands for the file in errors. Raises :class:`InvalidModel` or :class:`UnsupportedModel`.
    """
    import onnx  # noqa: PLC0415  # memory and time that other sessions do without

    try:
        graph = onnx.load_model(file, format="protobuf", load_external_data=False).graph
    except Exception as error:  # protobuf's exceptions, and OSError
        raise InvalidModel(f"{model} cannot be loaded: {error}; export it again") from error
    if not graph.output:
        raise InvalidModel(f"{model} cannot be loaded: there is no graph in it; export it again")
    weights = {initializer.name for initializer in graph.initializer}
    inputs = (value for value in graph.input if value.name not in weights)
    return _specs(inputs, model), _specs(graph.output, model)


def _specs(values: Iterable["ValueInfoProto"], model: str) -> Specs:
    return tuple(_spec(value, model) for value in values)


def _spec(value: "ValueInfoProto", model: str) -> TensorSpec:
    from onnx import TensorProto  # noqa: PLC0415  # see above

    if value.type.WhichOneof("value") != "tensor_type":
        raise UnsupportedModel(f"{model}: '{value.name}' is no tensor; inputs and outputs must be tensors")
    tensor = value.type.tensor_type
    kind = TensorProto.DataType.Name(tensor.elem_type)
    if kind not in DTYPES:
        raise UnsupportedModel(
            f"{model}: '{value.name}' is {kind}; inputs and outputs must be one of {', '.join(DTYPES)}"
        )
    shape = tuple(
        dim.dim_value if dim.HasField("dim_value") else dim.dim_param or None for dim in tensor.shape.dim
    )
    return TensorSpec(value.name, DTYPES[kind], shape or None)
