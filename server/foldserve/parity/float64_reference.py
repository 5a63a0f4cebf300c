"""A model evaluated in float64 by ONNX's reference evaluator; as a program, the judge's child process.

The program reads a pickled (source, inputs) from stdin and writes the pickled list of outputs to stdout:
only its own parent talks to it. With the argument ``background`` it has the lowest priority, and half of the
memory that is left.
"""

import os
import pickle
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto, numpy_helper
from onnx.reference import ReferenceEvaluator

from foldserve.lifeline import LOWEST_PRIORITY, give_way
from foldserve.parity.measures import is_float
from foldserve.parity.reference_operators import OPERATORS
from foldserve.runtime.memory import leave_memory_to_others
from foldserve.runtime.session import Array

FLOAT_TYPES = frozenset({TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16})
BACKGROUND = "background"
TYPE_ATTRIBUTES = frozenset({"to", "dtype"})


def evaluate(source: Path | bytes, inputs: Mapping[str, Array]) -> list[Array]:
    """All outputs of the model with every float in it, and in ``inputs``, taken as float64."""
    model = onnx.load(source) if isinstance(source, Path) else onnx.load_from_string(source)
    to_float64(model)
    feed = {
        name: array.astype(np.float64) if is_float(array.dtype) else array for name, array in inputs.items()
    }
    return [np.asarray(output) for output in ReferenceEvaluator(model, new_ops=OPERATORS).run(None, feed)]


def to_float64(model: ModelProto) -> None:
    """Turn every float16, bfloat16 and float32 of the model into float64, in place."""
    _convert_graph(model.graph)
    for function in model.functions:
        _convert_nodes(function.node)


def _convert_graph(graph: GraphProto) -> None:
    for initializer in graph.initializer:
        _convert_tensor(initializer)
    for value in (*graph.input, *graph.output):
        if value.type.tensor_type.elem_type in FLOAT_TYPES:
            value.type.tensor_type.elem_type = TensorProto.DOUBLE
    del graph.value_info[:]
    _convert_nodes(graph.node)


def _convert_nodes(nodes: Iterable[NodeProto]) -> None:
    for node in nodes:
        if node.op_type == "ConstantOfShape" and not node.attribute:
            # Its default is a float32 zero, and the evaluator does not mix types.
            node.attribute.append(_value_attribute(np.zeros(1)))
        for attribute in node.attribute:
            _convert_attribute(node, attribute)


def _convert_attribute(node: NodeProto, attribute: AttributeProto) -> None:
    if attribute.type == AttributeProto.TENSOR:
        _convert_tensor(attribute.t)
    elif attribute.type == AttributeProto.GRAPH:
        _convert_graph(attribute.g)
    elif attribute.name in TYPE_ATTRIBUTES and attribute.i in FLOAT_TYPES:
        attribute.i = TensorProto.DOUBLE
    elif node.op_type == "Constant" and attribute.name in {"value_float", "value_floats"}:
        values = attribute.f if attribute.name == "value_float" else list(attribute.floats)
        attribute.CopyFrom(_value_attribute(np.array(values, np.float64)))


def _value_attribute(values: NDArray[np.float64]) -> AttributeProto:
    return onnx.helper.make_attribute("value", numpy_helper.from_array(values))


def _convert_tensor(tensor: TensorProto) -> None:
    if tensor.data_type in FLOAT_TYPES:
        values = numpy_helper.to_array(tensor).astype(np.float64)
        tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))


if __name__ == "__main__":
    give_way()
    if BACKGROUND in sys.argv:
        os.nice(LOWEST_PRIORITY)
        leave_memory_to_others()
    pickle.dump(evaluate(*pickle.load(sys.stdin.buffer)), sys.stdout.buffer)
