"""What the tests of both conversions share: running a model file, and how far two answers are apart."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

import numpy as np
import numpy.typing as npt
import onnx
import onnx_ir as ir
import onnxruntime as ort
from foldserve.folding import fold
from onnx import TensorProto, helper
from running import EXAMPLE_MODELS
from unit.folding.checks import Graph

Array = npt.NDArray[np.generic]
Inputs = Mapping[str, Array]


def float_graph(**options: Any) -> Graph:
    """A graph under construction whose constants are float32."""
    return Graph(float_type=TensorProto.FLOAT, **options)


def written(graph: Graph, folder: Path) -> Path:
    """``graph`` as a model file."""
    file = folder / "model.onnx"
    onnx.save(graph.proto(), file)
    return file


def folded_digits(folder: Path) -> Path:
    """The bundled model, folded, as a file."""
    file = folder / "digits.onnx"
    ir.save(fold(ir.load(EXAMPLE_MODELS / "digits" / "1" / "model.onnx")).model, file)
    return file


def answers(file: Path, inputs: Inputs, *, optimise: bool = True) -> list[Array]:
    """What ONNX Runtime answers on the CPU; the file must pass onnx's checker as well."""
    onnx.checker.check_model(file, full_check=True)
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    if not optimise:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    return [np.asarray(answer) for answer in session.run(None, dict(inputs))]


def distance(found: list[Array], expected: list[Array]) -> float:
    """L2 distance relative to ``expected``, the worst of all outputs; infinite where not all is finite."""
    assert [(a.shape, a.dtype) for a in found] == [(a.shape, a.dtype) for a in expected]
    if not all(np.isfinite(answer).all() for answer in found):
        return float("inf")
    return max(
        float(
            np.linalg.norm(a.astype(np.float64) - b.astype(np.float64)) / np.linalg.norm(b.astype(np.float64))
        )
        for a, b in zip(found, expected, strict=True)
    )


def interface(file: Path) -> list[tuple[str, int, list[int | str]]]:
    """Name, type and dimensions of all inputs and outputs."""
    graph = onnx.load(file, load_external_data=False).graph
    return [
        (
            value.name,
            value.type.tensor_type.elem_type,
            [dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim],
        )
        for value in (*graph.input, *graph.output)
    ]


def weight_types(file: Path) -> dict[str, int]:
    """ONNX type of each initialiser of the main graph."""
    return {tensor.name: tensor.data_type for tensor in onnx.load(file).graph.initializer}


def operators(file: Path) -> list[str]:
    """Operators of the main graph, in order."""
    return [node.op_type for node in onnx.load(file, load_external_data=False).graph.node]


def branching() -> Graph:
    """x → Conv → (if its sum is positive: Relu, else Neg, both of the value from outside) → MatMul → y."""
    graph = float_graph()
    feature = graph.conv(graph.input("N", 3, 6, 6), 3, 4)
    condition = graph.op("Greater", graph.op("ReduceSum", feature, keepdims=0), graph.constant(np.float32(0)))
    bodies: dict[str, Any] = {}
    for name, operator in (("then_branch", "Relu"), ("else_branch", "Neg")):
        result = helper.make_tensor_value_info(name, graph.float_type, ["N", 4, 4, 4])
        node = helper.make_node(operator, [feature], [name], name=f"{name}_node")
        bodies[name] = helper.make_graph([node], name, [], [result])
    chosen = graph.op("If", condition, **bodies)
    graph.output(graph.op("MatMul", chosen, graph.random(4, 4)), "N", 4, 4, 4)
    return graph
