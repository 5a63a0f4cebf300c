"""int8: near the float32 answers, the last layer exact, quiet, and refused where it cannot be right."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from foldserve.converting import int8
from foldserve.converting.int8 import quantise
from foldserve.errors import UnsupportedModel
from numpy.typing import NDArray
from onnx import TensorProto, numpy_helper
from running import EXAMPLE_MODELS
from unit.converting.conversions import (
    Inputs,
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

NEAR = 0.05
"""Largest relative L2 distance of a small network."""


def samples(count: int = 4, rows: int = 4, *, scale: float = 1.0) -> list[Inputs]:
    generator = np.random.default_rng(3)
    return [{"x": (generator.normal(size=(rows, 3, 6, 6)) * scale).astype(np.float32)} for _ in range(count)]


def two_layers(**options: int) -> Graph:
    """Conv → Relu → Conv."""
    graph = float_graph(**options)
    hidden = graph.op("Relu", graph.conv(graph.input("N", 3, 6, 6), 3, 8))
    graph.output(graph.conv(hidden, 8, 4, kernel=(1, 1)), "N", 4, 4, 4)
    return graph


def assert_near(model: Path, folder: Path, inputs: Sequence[Inputs] | None = None) -> Path:
    """Quantise, and compare the answers, as the graph stands and as the runtime fuses it."""
    quantised = folder / "int8.onnx"
    given = inputs or samples()
    quantise(model, given, quantised, reduce_range=True)
    assert interface(quantised) == interface(model)
    assert TensorProto.INT8 in weight_types(quantised).values()
    expected = answers(model, given[0], optimise=False)
    for optimise in (False, True):
        assert distance(answers(quantised, given[0], optimise=optimise), expected) < NEAR
    return quantised


def test_digits_keep_their_accuracy(
    tmp_path: Path, digits: tuple[NDArray[np.float32], NDArray[np.int64]]
) -> None:
    images, labels = digits
    model, quantised = folded_digits(tmp_path), tmp_path / "int8.onnx"
    with np.load(EXAMPLE_MODELS / "digits" / "samples.npz") as data:
        batches = [{"images": batch} for batch in np.split(data["images"], 4)]
    quantise(model, batches, quantised, reduce_range=True)
    assert interface(quantised) == interface(model)
    before, after = (answers(file, {"images": images}) for file in (model, quantised))
    assert distance(after, before) < 0.03
    assert (after[0].argmax(axis=1) == before[0].argmax(axis=1)).mean() > 0.99
    assert (after[0].argmax(axis=1) == labels).mean() > (before[0].argmax(axis=1) == labels).mean() - 0.01


def test_all_products_but_the_last_are_integers_and_nothing_else_is_left(tmp_path: Path) -> None:
    quantised = assert_near(written(two_layers(), tmp_path), tmp_path)
    weights = {tensor.name: tensor for tensor in onnx.load(quantised).graph.initializer}
    of_four_dimensions = [tensor for tensor in weights.values() if len(tensor.dims) == 4]
    assert [tensor.data_type for tensor in of_four_dimensions] == [TensorProto.FLOAT, TensorProto.INT8]
    assert "Relu" not in operators(quantised)  # the zero of its output is the least that uint8 has
    assert sorted(file.name for file in tmp_path.iterdir()) == ["int8.onnx", "model.onnx"]


@pytest.mark.parametrize(("reduce_range", "largest"), [(True, 64), (False, 127)])
def test_seven_bits_where_sums_saturate(tmp_path: Path, reduce_range: bool, largest: int) -> None:
    quantised = tmp_path / "int8.onnx"
    quantise(written(two_layers(), tmp_path), samples(), quantised, reduce_range=reduce_range)
    (weight,) = (
        numpy_helper.to_array(tensor).astype(int)
        for tensor in onnx.load(quantised).graph.initializer
        if tensor.data_type == TensorProto.INT8 and len(tensor.dims) == 4
    )
    each = np.abs(weight).max(axis=(1, 2, 3))
    assert (each >= largest - 1).all()  # every channel has a step of its own
    assert (each <= largest).all()


def test_the_range_is_that_of_all_samples(tmp_path: Path) -> None:
    """Batches differ, and an answer beyond what a sample caused is cut off: so all have to count."""
    model = written(two_layers(), tmp_path)
    few, many = samples(1, scale=0.1), [*samples(1, scale=0.1), *samples(2)]
    large = samples(2)[0]
    expected = answers(model, large)
    quantise(model, few, tmp_path / "few.onnx", reduce_range=True)
    assert distance(answers(tmp_path / "few.onnx", large), expected) > 0.3
    quantise(model, many, tmp_path / "many.onnx", reduce_range=True)
    assert distance(answers(tmp_path / "many.onnx", large), expected) < NEAR


def test_a_gate_over_the_channels_of_a_batch(tmp_path: Path) -> None:
    """Squeeze and excitation."""
    graph = float_graph()
    feature = graph.conv(graph.input("N", 3, 6, 6), 3, 8)
    squeezed = graph.op("Relu", graph.conv(graph.op("GlobalAveragePool", feature), 8, 4, kernel=(1, 1)))
    gate = graph.op("Sigmoid", graph.conv(squeezed, 4, 8, kernel=(1, 1)))
    scaled = graph.op("Add", graph.op("Mul", feature, gate), feature)
    graph.output(graph.conv(scaled, 8, 4, kernel=(1, 1)), "N", 4, 4, 4)
    assert_near(written(graph, tmp_path), tmp_path, samples(rows=16))


@pytest.mark.parametrize(
    "attributes",
    [{"ceil_mode": 1, "count_include_pad": 1, "strides": [3, 3]}, {"dilations": [2, 2]}],
    ids=["partial", "dilated"],
)
def test_average_pools_whose_integer_form_is_wrong(tmp_path: Path, attributes: dict[str, Any]) -> None:
    """Partial windows, which that one divides by all of the kernel, and dilated ones, which it refuses."""
    graph = float_graph(opset=19, ir_version=9)
    hidden = graph.op("Relu", graph.conv(graph.input("N", 3, 6, 6), 3, 8))
    kernel = [2, 2] if "dilations" in attributes else [3, 3]
    pooled = graph.op("AveragePool", hidden, kernel_shape=kernel, **attributes)
    graph.output(graph.conv(pooled, 8, 4, kernel=(1, 1)), "N", 4, 2, 2)
    assert_near(written(graph, tmp_path), tmp_path)


def test_weights_and_biases_that_two_layers_share(tmp_path: Path) -> None:
    graph = float_graph()
    weight, bias = graph.random(3, 3, 1, 1), graph.random(3)
    first = graph.op("Relu", graph.op("Conv", graph.input("N", 3, 6, 6), weight, bias))
    second = graph.op("Relu", graph.op("Conv", first, weight, bias))
    graph.output(graph.op("Conv", second, weight, bias), "N", 3, 6, 6)
    assert_near(written(graph, tmp_path), tmp_path)


def test_two_inputs_one_of_integers(tmp_path: Path) -> None:
    graph = float_graph()
    feature = graph.op("Relu", graph.conv(graph.input("N", 3, 6, 6), 3, 4))
    graph.inputs.append(onnx.helper.make_tensor_value_info("row", TensorProto.INT64, ["N"]))
    scale = graph.op(
        "Unsqueeze", graph.op("Gather", graph.random(10, 4), "row"), graph.constant(np.array([2, 3]))
    )
    graph.output(graph.conv(graph.op("Add", feature, scale), 4, 2, kernel=(1, 1)), "N", 2, 4, 4)
    rows = [{**sample, "row": np.array([7, 1, 0, 9])} for sample in samples()]
    assert_near(written(graph, tmp_path), tmp_path, rows)


def test_an_older_model_with_weights_as_constants_and_inputs(tmp_path: Path) -> None:
    """An operator set without steps per channel, weights where no quantiser looks for them, unnamed nodes."""
    graph = float_graph(ir_version=3, opset=9)
    weight = numpy_helper.from_array(np.random.default_rng(1).normal(size=(4, 3, 1, 1)).astype(np.float32))
    hidden = graph.op("Conv", graph.input("N", 3, 6, 6), graph.op("Constant", value=weight))
    last = graph.constant(np.random.default_rng(2).normal(size=(2, 4, 1, 1)), "last")
    graph.inputs.append(onnx.helper.make_tensor_value_info(last, TensorProto.FLOAT, [2, 4, 1, 1]))
    graph.output(graph.op("Conv", graph.op("Clip", hidden, min=0.0, max=6.0), last), "N", 2, 6, 6)
    model, quantised = graph.proto(), tmp_path / "int8.onnx"
    for node in model.graph.node:
        node.ClearField("name")
    onnx.save(model, tmp_path / "model.onnx")
    given = samples()
    quantise(tmp_path / "model.onnx", given, quantised, reduce_range=True)
    assert distance(answers(quantised, given[0]), answers(tmp_path / "model.onnx", given[0])) < NEAR
    assert TensorProto.INT8 in weight_types(quantised).values()


def test_weights_in_a_file_beside_the_model(tmp_path: Path) -> None:
    model = tmp_path / "model.onnx"
    onnx.save(two_layers().proto(), model, save_as_external_data=True, location="weights", size_threshold=0)
    assert_near(model, tmp_path)


def test_the_library_is_not_heard(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    root = logging.getLogger()
    before = (list(root.handlers), list(root.filters))
    quantise(written(two_layers(), tmp_path), samples(), tmp_path / "int8.onnx", reduce_range=True)
    assert capfd.readouterr() == ("", "")
    assert (root.handlers, root.filters) == before


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # of NumPy, about the infinite sample
def test_refusals_say_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, quantised = written(two_layers(), tmp_path), tmp_path / "int8.onnx"

    def refused(given: Sequence[Inputs], text: str) -> None:
        with pytest.raises(UnsupportedModel, match=text):
            quantise(model, given, quantised, reduce_range=True)
        assert not quantised.exists()

    refused([], "samples.npz")
    refused([{"y": np.zeros(3, np.float32)}], "cannot be quantised to int8: .*x")
    infinite = np.ones((1, 3, 6, 6), np.float32)
    infinite[0, 1, 2, 3] = np.inf
    refused([{"x": infinite}], "NaN or infinite")
    monkeypatch.setattr(int8, "LARGEST_BYTES", 100)
    refused(samples(), "GB of weights")


def one_layer() -> Graph:
    graph = float_graph()
    graph.output(graph.op("Relu", graph.conv(graph.input("N", 3, 6, 6), 3, 4)), "N", 4, 4, 4)
    return graph


def doubles() -> Graph:
    graph = Graph()
    hidden = graph.conv(graph.input("N", 3, 6, 6), 3, 4)
    graph.output(graph.conv(hidden, 4, 4, kernel=(1, 1)), "N", 4, 4, 4)
    return graph


@pytest.mark.parametrize(
    ("graph", "text"),
    [
        (one_layer(), "nothing to quantise before the last layer"),
        (doubles(), "nothing to quantise"),
        (branching(), "branches or loops"),
    ],
    ids=["one layer", "doubles", "branches"],
)
def test_models_that_cannot_be_quantised(tmp_path: Path, graph: Graph, text: str) -> None:
    with pytest.raises(UnsupportedModel, match=text):
        quantise(written(graph, tmp_path), samples(), tmp_path / "int8.onnx", reduce_range=True)


def test_a_quantised_model_is_not_quantised_again(tmp_path: Path) -> None:
    quantised = assert_near(written(two_layers(), tmp_path), tmp_path)
    with pytest.raises(UnsupportedModel, match="quantised already"):
        quantise(quantised, samples(), tmp_path / "twice.onnx", reduce_range=True)
