"""Models handed to a runtime as they lie in memory: not serialised with their weights.

So the 2 GB that a protobuf message may hold are no limit. A session without optimisation reads the weights
where they lie; for any other ONNX Runtime 1.31 copies them.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from foldserve.runtime.session import Array

if TYPE_CHECKING:
    import onnx_ir as ir

SMALLEST_WEIGHT_BYTES = 1024
"""Smaller initialisers stay in the graph: shapes, for instance, that the runtime wants to see."""

WEIGHT_TYPES = frozenset(
    {
        "FLOAT",
        "DOUBLE",
        "FLOAT16",
        "BFLOAT16",
        "INT8",
        "UINT8",
        "INT16",
        "UINT16",
        "INT32",
        "UINT32",
        "INT64",
        "UINT64",
    }
)
"""Element types whose arrays the runtime takes as they are; others stay in the graph."""


PLACEHOLDER = Path(__file__)
"""The file that weights are said to be in: one that is there, or the runtime refuses the model."""

NOWHERE = 1 << 40
"""Where in that file: beyond its end, so that a weight that is not given is missed, not misread."""


@dataclass(frozen=True)
class InMemoryModel:
    """A serialised ModelProto that lacks its larger weights, and these by name."""

    graph: bytes
    weights: Mapping[str, Array]


def in_memory(model: "ir.Model") -> InMemoryModel:
    """``model`` as sessions take it; it is not changed, and must not be while a session lives."""
    import onnx_ir as ir  # noqa: PLC0415  # half a second, and sessions from files do without

    copy = model.clone()
    weights: dict[str, Array] = {}
    for graph in copy.graphs():
        for name, value in graph.initializers.items():
            tensor = value.const_value
            if tensor is None:
                continue
            if graph is copy.graph and _is_weight(tensor):
                weights[name] = np.ascontiguousarray(tensor.numpy())
                shape = ir.Shape(weights[name].shape)
                value.const_value = ir.ExternalTensor(
                    PLACEHOLDER.name, NOWHERE, tensor.nbytes, tensor.dtype, shape=shape, name=name
                )
            elif isinstance(tensor, ir.ExternalTensor):
                value.const_value = ir.Tensor(tensor.numpy(), dtype=tensor.dtype, name=name)
    return InMemoryModel(ir.to_proto(copy).SerializeToString(), weights)


def _is_weight(tensor: "ir.TensorProtocol") -> bool:
    return tensor.dtype.name in WEIGHT_TYPES and tensor.nbytes >= SMALLEST_WEIGHT_BYTES
