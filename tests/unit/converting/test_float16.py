"""float16: near the float32 answers, never infinite, the same inputs and outputs."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from foldserve.converting import float16
from foldserve.converting.float16 import to_float16
from foldserve.errors import InvalidModel, UnsupportedModel
from numpy.typing import NDArray
from onnx import TensorProto
from unit.converting.conversions import (
    answers,
    branching,
    distance,
    float_graph,
    folded_digits,
    interface,
    operators,
    weight_types,
    written,
)
from unit.folding.checks import Graph

NEAR = 3e-3
"""Largest relative L2 distance of a small network; one rounding to float16 is 3e-4 on average."""


def images(*shape: int, seed: int = 0, scale: float = 1.0) -> NDArray[np.float32]:
    return (np.random.default_rng(seed).normal(size=shape) * scale).astype(np.float32)


def assert_near(graph: Graph, folder: Path, *, scale: float = 1.0, largest: float = NEAR) -> Path:
    """Convert, and compare the answers; the converted file."""
    model, half = written(graph, folder), folder / "half.onnx"
    to_float16(model, half)
    assert interface(half) == interface(model)
    x = {"x": images(2, 3, 6, 6, scale=scale)}
    assert distance(answers(half, x, optimise=False), answers(model, x, optimise=False)) < largest
    return half


def test_digits_keep_their_answers(tmp_path: Path, digits: tuple[NDArray[np.float32], object]) -> None:
    model, half = folded_digits(tmp_path), tmp_path / "half.onnx"
    to_float16(model, half)
    before, after = ([*answers(file, {"images": digits[0]})] for file in (model, half))
    assert distance(after, before) < 2e-3
    assert (after[0].argmax(axis=1) == before[0].argmax(axis=1)).mean() > 0.997
    assert TensorProto.FLOAT not in weight_types(half).values()
    assert operators(half).count("Cast") == 2
    assert half.stat().st_size < 0.6 * model.stat().st_size


@pytest.mark.parametrize("weight", [1e5, 1e-7])
def test_a_convolution_with_weights_beyond_float16_stays(tmp_path: Path, weight: float) -> None:
    graph = float_graph()
    x = graph.op("Relu", graph.conv(graph.input("N", 3, 6, 6), 3, 4))
    beyond = graph.op("Conv", x, graph.constant(np.full((4, 4, 1, 1), weight)), graph.random(4))
    small = graph.op("Mul", beyond, graph.constant(np.array(1 / weight)))
    graph.output(graph.op("Conv", small, graph.random(2, 4, 1, 1)), "N", 2, 4, 4)
    half = assert_near(graph, tmp_path)
    assert sorted(set(weight_types(half).values())) == [TensorProto.FLOAT, TensorProto.FLOAT16]


def test_an_epsilon_does_not_become_zero(tmp_path: Path) -> None:
    graph = float_graph()
    positive = graph.op("Relu", graph.conv(graph.input("N", 3, 6, 6), 3, 4))
    safe = graph.op("Add", positive, graph.constant(np.array(1e-12)))
    graph.output(graph.op("Div", safe, safe), "N", 4, 4, 4)
    assert_near(graph, tmp_path)


def test_what_is_delicate_stays_in_float32(tmp_path: Path) -> None:
    """Exponentials beyond 65504 and sums over many elements, and what lies between them."""
    graph = float_graph()
    feature = graph.conv(graph.input("N", 3, 6, 6), 3, 4)
    large = graph.op("Exp", graph.op("Add", graph.op("Relu", feature), graph.constant(np.array(11.5))))
    between = graph.op("Mul", large, graph.constant(np.array(2.0)))
    total = graph.op("ReduceSum", between, graph.constant(np.array([1])), keepdims=1)
    graph.output(graph.op("Conv", graph.op("Log", total), graph.random(2, 1, 1, 1)), "N", 2, 4, 4)
    half = assert_near(graph, tmp_path, scale=0.2)
    # The runtime on the CPU computes Exp in float32 anyway, and so would hide what another does.
    inferred = onnx.shape_inference.infer_shapes(onnx.load(half), data_prop=True).graph
    types = {value.name: value.type.tensor_type.elem_type for value in inferred.value_info}
    computed = {node.op_type: types[node.output[0]] for node in inferred.node if node.output[0] in types}
    assert {name for name, kind in computed.items() if kind == TensorProto.FLOAT16} <= {
        *("Conv", "Relu", "Add", "Cast")
    }
    assert {computed[name] for name in ("Exp", "Mul", "ReduceSum", "Log")} == {TensorProto.FLOAT}


def test_branches_read_what_was_computed_outside(tmp_path: Path) -> None:
    half = assert_near(branching(), tmp_path)
    assert TensorProto.FLOAT16 in weight_types(half).values()


def test_a_constant_that_both_precisions_read(tmp_path: Path) -> None:
    graph = float_graph()
    shared = graph.random(4, 4)
    product = graph.op("MatMul", graph.conv(graph.input("N", 3, 6, 6), 3, 4), shared)
    again = graph.op("MatMul", product, shared)
    graph.output(graph.op("Div", graph.op("Exp", shared), graph.op("Exp", again)), "N", 4, 4, 4)
    half = assert_near(graph, tmp_path, scale=0.1)
    assert (
        list(weight_types(half).values()).count(TensorProto.FLOAT16) == 3
    )  # weight and bias, and shared once


def test_values_inside_are_outputs_too(tmp_path: Path) -> None:
    """A value that is read on, the same one twice, and an input."""
    graph = float_graph()
    feature = graph.op("Relu", graph.conv(graph.input("N", 3, 6, 6), 3, 4))
    for name in (feature, graph.op("Identity", feature)):
        graph.output(name, "N", 4, 4, 4)
    graph.output(graph.op("Identity", "x"), "N", 3, 6, 6)
    graph.output(graph.op("Conv", feature, graph.random(2, 4, 1, 1)), "N", 2, 4, 4)
    assert_near(graph, tmp_path)


def test_two_inputs_one_of_integers(tmp_path: Path) -> None:
    graph = float_graph()
    feature = graph.conv(graph.input("N", 3, 6, 6), 3, 4)
    row = onnx.helper.make_tensor_value_info("row", TensorProto.INT64, ["N"])
    graph.inputs.append(row)
    scale = graph.op("Gather", graph.random(10, 4), "row")
    axes = graph.constant(np.array([2, 3]))
    graph.output(graph.op("Mul", feature, graph.op("Unsqueeze", scale, axes)), "N", 4, 4, 4)
    model, half = written(graph, tmp_path), tmp_path / "half.onnx"
    to_float16(model, half)
    assert interface(half) == interface(model)
    inputs = {"x": images(2, 3, 6, 6), "row": np.array([7, 1])}
    assert distance(answers(half, inputs), answers(model, inputs)) < NEAR


def test_resizing_keeps_its_scales(tmp_path: Path) -> None:
    graph = float_graph()
    feature = graph.conv(graph.input("N", 3, 6, 6), 3, 4)
    scales = graph.constant(np.array([1, 1, 2, 2], np.float32))
    graph.output(graph.op("Resize", feature, "", scales, mode="nearest"), "N", 4, 8, 8)
    half = assert_near(graph, tmp_path)
    assert weight_types(half)[scales] == TensorProto.FLOAT


def test_names_that_are_taken(tmp_path: Path) -> None:
    graph = float_graph()
    weight = graph.constant(images(4, 3, 1, 1), "w")
    bias = graph.constant(images(4), "w_float16")
    graph.output(graph.op("Conv", graph.input("N", 3, 6, 6), weight, bias), "N", 4, 6, 6)
    assert_near(graph, tmp_path)


def test_weights_as_constant_nodes_and_as_inputs(tmp_path: Path) -> None:
    graph = float_graph(ir_version=3, opset=9)
    weight = onnx.numpy_helper.from_array(images(4, 3, 1, 1))
    feature = graph.op("Conv", graph.input("N", 3, 6, 6), graph.op("Constant", value=weight))
    y = graph.op("Conv", feature, graph.constant(images(2, 4, 1, 1), "later"))
    graph.inputs.append(onnx.helper.make_tensor_value_info("later", TensorProto.FLOAT, [2, 4, 1, 1]))
    graph.output(y, "N", 2, 6, 6)
    model, half = written(graph, tmp_path), tmp_path / "half.onnx"
    to_float16(model, half)
    x = {"x": images(2, 3, 6, 6)}
    assert distance(answers(half, x), answers(model, x)) < NEAR
    assert set(weight_types(half).values()) == {TensorProto.FLOAT16}


def test_weights_in_files_beside_the_models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    graph = float_graph()
    hidden = graph.conv(graph.input("N", 3, 6, 6), 3, 64)
    graph.output(graph.op("Exp", graph.conv(hidden, 64, 4, kernel=(1, 1))), "N", 4, 4, 4)
    model, half = tmp_path / "model.onnx", tmp_path / "elsewhere" / "half.onnx"
    half.parent.mkdir()
    onnx.save(graph.proto(), model, save_as_external_data=True, location="weights", size_threshold=0)
    x = {"x": images(2, 3, 6, 6, scale=0.1)}
    expected = answers(model, x)
    monkeypatch.setattr(float16, "LARGEST_MESSAGE_BYTES", 1000)
    to_float16(model, half)
    (tmp_path / "weights").unlink()
    assert sorted(file.name for file in half.parent.iterdir()) == ["half.onnx", "half.onnx.data"]
    assert distance(answers(half, x), expected) < NEAR


@pytest.mark.parametrize(
    ("float_type", "operator"), [(TensorProto.DOUBLE, "Conv"), (TensorProto.FLOAT, "Relu")]
)
def test_a_model_with_nothing_to_convert_is_refused(tmp_path: Path, float_type: int, operator: str) -> None:
    graph = Graph(float_type=float_type)
    x = graph.input("N", 3, 6, 6)
    y = graph.op("Relu", x) if operator == "Relu" else graph.conv(x, 3, 3, kernel=(1, 1))
    graph.output(y, "N", 3, 6, 6)
    with pytest.raises(UnsupportedModel, match=r"model\.onnx: no convolution or matrix product can compute"):
        to_float16(written(graph, tmp_path), tmp_path / "half.onnx")
    assert not (tmp_path / "half.onnx").exists()


def test_damaged_and_ancient_models_are_refused(tmp_path: Path) -> None:
    damaged = tmp_path / "damaged.onnx"
    damaged.write_bytes(b"\xff no model")
    with pytest.raises(InvalidModel, match=r"damaged\.onnx cannot be read"):
        to_float16(damaged, tmp_path / "half.onnx")
    graph = float_graph(opset=6)
    graph.output(graph.conv(graph.input("N", 3, 6, 6), 3, 4), "N", 4, 4, 4)
    with pytest.raises(UnsupportedModel, match="operator set 6"):
        to_float16(written(graph, tmp_path), tmp_path / "half.onnx")
