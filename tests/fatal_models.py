"""ONNX models that the runtime does not survive, or does not come back from."""

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

BEGINNING = [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 2])]
END = [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 2])]


def divides_min_by_minus_one(path: Path) -> Path:
    """An integer division that overflows, which the processor answers with SIGFPE."""
    nodes = [
        helper.make_node("Div", ["least", "minus_one"], ["quotient"]),
        helper.make_node("Cast", ["quotient"], ["number"], to=TensorProto.FLOAT),
        helper.make_node("Add", ["x", "number"], ["y"]),
    ]
    return _saved(path, nodes, least=np.int64(-(2**63)), minus_one=np.int64(-1))


def loops_for_ever(path: Path) -> Path:
    """A loop of 2⁶² turns."""
    body = helper.make_graph(
        [helper.make_node("Identity", ["on"], ["still_on"]), helper.make_node("Identity", ["v"], ["w"])],
        "body",
        [
            helper.make_tensor_value_info("turn", TensorProto.INT64, []),
            helper.make_tensor_value_info("on", TensorProto.BOOL, []),
            helper.make_tensor_value_info("v", TensorProto.FLOAT, None),
        ],
        [
            helper.make_tensor_value_info("still_on", TensorProto.BOOL, []),
            helper.make_tensor_value_info("w", TensorProto.FLOAT, None),
        ],
    )
    nodes = [helper.make_node("Loop", ["turns", "condition", "x"], ["y"], body=body)]
    return _saved(path, nodes, turns=np.int64(2**62), condition=np.bool_(True))


def fills_memory(path: Path) -> Path:
    """A tensor of 2⁴⁰ ones, four terabytes of them."""
    nodes = [
        helper.make_node(
            "ConstantOfShape", ["shape"], ["many"], value=numpy_helper.from_array(np.ones(1, "f4"))
        ),
        helper.make_node("ReduceSum", ["many"], ["sum"], keepdims=0),
        helper.make_node("Add", ["x", "sum"], ["y"]),
    ]
    return _saved(path, nodes, shape=np.array([2**40], np.int64))


def _saved(path: Path, nodes: list[onnx.NodeProto], **constants: np.generic | np.ndarray) -> Path:
    initialisers = [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()]
    graph = helper.make_graph(nodes, "fatal", BEGINNING, END, initialisers)
    path.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), path)
    return path
