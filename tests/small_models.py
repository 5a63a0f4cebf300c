"""Small ONNX models, written into a repository for a test."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

Dims = Sequence[int | str]
Operator = tuple[str, Sequence[NDArray[np.generic]], dict[str, int]]
"""Name, constants after the first input, attributes."""


def add_model(repository: Path, name: str, model: ir.Model, *, external_data: str | None = None) -> Path:
    """Write ``model`` as version 1 of ``name``; its folder."""
    folder = repository / name / "1"
    folder.mkdir(parents=True)
    ir.save(model, folder / "model.onnx", external_data=external_data, size_threshold_bytes=0)
    return folder


def chain(shape: Dims, *operators: Operator) -> ir.Model:
    """``x`` float32 of ``shape`` → one operator after the other, with constants and attributes → ``y``."""
    x = value = ir.val("x", ir.DataType.FLOAT, list(shape))
    nodes, constants = [], []
    for index, (operator, arrays, attributes) in enumerate(operators):
        own = [
            ir.val(f"c{index}_{position}", const_value=ir.tensor(array, name=f"c{index}_{position}"))
            for position, array in enumerate(arrays)
        ]
        node = ir.node(operator, [value, *own], attributes, name=f"{operator}_{index}")
        nodes.append(node)
        constants.extend(own)
        value = node.outputs[0]
    value.name, value.dtype = "y", ir.DataType.FLOAT
    graph = ir.Graph([x], [value], nodes=nodes, initializers=constants, opset_imports={"": 18}, name="chain")
    return ir.Model(graph, ir_version=9)


def convolution(kernel: int, channels: int = 3) -> Operator:
    """An unpadded convolution with random weights [4, channels, kernel, kernel]."""
    weight = np.random.default_rng(7).normal(size=(4, channels, kernel, kernel)).astype(np.float32)
    return "Conv", [weight], {}


def batch_norm(channels: int = 4) -> Operator:
    """A BatchNormalization with random statistics."""
    generator = np.random.default_rng(8)
    parameters = [generator.uniform(0.5, 2, channels) for _ in range(4)]
    return "BatchNormalization", [parameter.astype(np.float32) for parameter in parameters], {}


def plus(constant: float) -> ir.Model:
    """A model whose answers tell which one it is: y = x + constant, float32 [batch, 2]."""
    return chain(["batch", 2], ("Add", [np.array([constant], np.float32)], {}))


def put(repository: Path, version: int, model: ir.Model, name: str = "plus") -> Path:
    """Write a version of a model in one step, as ``mv`` does; its model file."""
    folder = repository / name / str(version)
    folder.mkdir(parents=True, exist_ok=True)
    ir.save(model, folder / ".new")
    (folder / ".new").rename(folder / "model.onnx")
    return folder / "model.onnx"
