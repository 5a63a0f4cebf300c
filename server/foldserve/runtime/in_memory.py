"""Models handed to a runtime as they lie in memory: neither serialised with their weights nor copied.

Sessions made of one model share its weights, and the 2 GB that a protobuf message may hold are no limit.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from foldserve.runtime.session import Array

SMALLEST_WEIGHT_BYTES = 1024
"""Smaller initialisers stay in the graph: shapes, for instance, that the runtime wants to see."""

WEIGHT_TYPES = frozenset(
    {
        ir.DataType.FLOAT,
        ir.DataType.DOUBLE,
        ir.DataType.FLOAT16,
        ir.DataType.BFLOAT16,
        ir.DataType.INT8,
        ir.DataType.UINT8,
        ir.DataType.INT16,
        ir.DataType.UINT16,
        ir.DataType.INT32,
        ir.DataType.UINT32,
        ir.DataType.INT64,
        ir.DataType.UINT64,
    }
)
"""Element types whose arrays the runtime takes as they are; others stay in the graph."""


@dataclass(frozen=True)
class InMemoryModel:
    """A serialised ModelProto that lacks its larger weights, and these by name."""

    graph: bytes
    weights: Mapping[str, Array]


def in_memory(model: ir.Model) -> InMemoryModel:
    """``model`` as sessions take it; it is not changed, and must not be while a session lives."""
    copy = model.clone()
    weights: dict[str, Array] = {}
    for graph in copy.graphs():
        for name, value in graph.initializers.items():
            tensor = value.const_value
            if tensor is None:
                continue
            if graph is copy.graph and _is_weight(tensor):
                weights[name] = np.ascontiguousarray(tensor.numpy())
                value.const_value = _elsewhere(tensor, name)
            elif isinstance(tensor, ir.ExternalTensor):
                value.const_value = ir.Tensor(tensor.numpy(), dtype=tensor.dtype, name=name)
    return InMemoryModel(ir.to_proto(copy).SerializeToString(), weights)


def _is_weight(tensor: ir.TensorProtocol) -> bool:
    return tensor.dtype in WEIGHT_TYPES and tensor.nbytes >= SMALLEST_WEIGHT_BYTES


def _elsewhere(tensor: ir.TensorProtocol, name: str) -> ir.ExternalTensor:
    """What stands for a weight in the graph: the runtime puts the array in its place before it would read."""
    return ir.ExternalTensor("in memory", 0, tensor.nbytes, tensor.dtype, shape=tensor.shape, name=name)  # type: ignore[arg-type]  # initialisers have a fixed shape
