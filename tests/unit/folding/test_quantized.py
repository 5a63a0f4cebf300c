"""Quantised convolutions: the scale of a BatchNormalization joins the scales of the weight, or stays."""

import numpy as np
import onnx_ir as ir
import pytest
from foldserve.folding import fold
from foldserve.folding.report import Outcome, Reason
from onnx import TensorProto, numpy_helper
from unit.folding.checks import Graph, assert_exact_float32


def quantized_conv(
    graph: Graph, *, per_channel: bool, zero_point: bool, bias: str, axis: int = 0, positive: bool = True
) -> None:
    x = graph.input("N", 3, 6, 6)
    scale = graph.constant(np.full(1, 0.05, np.float32)[0])
    zero = graph.constant(np.array(3, np.uint8))
    x = graph.op("DequantizeLinear", graph.op("QuantizeLinear", x, scale, zero), scale, zero)
    stored = graph.constant(graph.rng.integers(-100, 100, (4, 3, 3, 3)).astype(np.int8))
    count = (4, 3)[axis]
    scales = graph.rng.uniform(0.01, 0.02, count) if per_channel else np.array(0.013)
    operands = [stored, graph.constant(scales.astype(np.float32))]
    if zero_point:
        operands.append(graph.constant(np.zeros(count if per_channel else (), np.int8)))
    weight = graph.op("DequantizeLinear", *operands, axis=axis, name="weight")
    inputs = [x, weight]
    if bias == "float":
        inputs.append(graph.random(4))
    elif bias == "quantised":
        integers = graph.constant(graph.rng.integers(-900, 900, 4).astype(np.int32))
        inputs.append(graph.op("DequantizeLinear", integers, graph.constant(np.array(0.0006, np.float32))))
    graph.output(graph.batch_norm(graph.op("Conv", *inputs), 4, positive=positive, name="bn"))


@pytest.mark.parametrize("per_channel", [True, False])
@pytest.mark.parametrize("zero_point", [True, False])
@pytest.mark.parametrize("bias", ["none", "float", "quantised"])
def test_scale_joins_the_scales_of_the_weight(per_channel: bool, zero_point: bool, bias: str) -> None:
    graph = Graph(float_type=TensorProto.FLOAT)
    quantized_conv(graph, per_channel=per_channel, zero_point=zero_point, bias=bias)
    integers = [numpy_helper.to_array(t) for t in graph.initializers if t.data_type == TensorProto.INT8]
    result = assert_exact_float32(graph, folded=1)
    assert result.report.sites[0].tier == 0
    after = ir.to_proto(result.model)
    kept = [numpy_helper.to_array(t) for t in after.graph.initializer if t.data_type == TensorProto.INT8]
    assert any(np.array_equal(integers[0], array) for array in kept)


@pytest.mark.parametrize("options", [{"positive": False}, {"axis": 1}])
def test_what_the_scales_cannot_take_stays(options: dict[str, bool]) -> None:
    graph = Graph(float_type=TensorProto.FLOAT, seed=1)
    quantized_conv(graph, per_channel=True, zero_point=True, bias="none", **options)
    gamma = next(t for t in graph.initializers if t.name == graph.nodes[-1].input[1])
    if not options.get("positive", True):
        gamma.CopyFrom(numpy_helper.from_array(np.array([1.0, -1.0, 1.0, 2.0], np.float32), gamma.name))
    site = fold(graph.model()).report.sites[0]
    assert (site.outcome, site.reason) == (Outcome.STAYED, Reason.QUANTIZED)
