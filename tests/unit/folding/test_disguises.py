"""BatchNorms that do not look like one to fold: arithmetic, weights, control flow, raw exports."""

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from foldserve.folding import fold
from foldserve.folding.report import BiasFate, Outcome
from onnx import TensorProto, helper, numpy_helper
from unit.folding.checks import (
    Graph,
    assert_exact,
    assert_exact_float32,
    distance,
    feeds_for,
    run_unoptimised,
)

COLUMN = (4, 1, 1)


def convolved(graph: Graph) -> str:
    return graph.conv(graph.input("N", 3, 6, 6), 3, 4, pads=[1, 1, 1, 1])


def test_mul_and_add() -> None:
    graph = Graph()
    y = graph.op("Mul", convolved(graph), graph.random(*COLUMN))
    graph.output(graph.op("Add", graph.random(*COLUMN), y))
    result = assert_exact(graph, folded=2)
    assert result.report.operators_after == {"Conv": 1}
    assert [site.operator for site in result.report.sites] == ["Mul", "Add"]


def test_sub_div_mul_add_with_the_deviation_computed_in_the_graph() -> None:
    graph = Graph()
    y = graph.op("Sub", convolved(graph), graph.random(*COLUMN))
    variance = graph.constant(graph.rng.uniform(0.1, 2.0, COLUMN))
    deviation = graph.op("Sqrt", graph.op("Add", variance, graph.constant(1e-5)))
    y = graph.op("Div", y, deviation)
    y = graph.op("Mul", y, graph.random(*COLUMN))
    graph.output(graph.op("Add", y, graph.random(*COLUMN)))
    assert assert_exact(graph, folded=4).report.operators_after == {"Conv": 1}


def test_reciprocal_deviation_and_constant_minus_value() -> None:
    graph = Graph()
    variance = graph.constant(graph.rng.uniform(0.1, 2.0, COLUMN))
    inverse = graph.op("Reciprocal", graph.op("Sqrt", variance))
    y = graph.op("Mul", inverse, convolved(graph))
    graph.output(graph.op("Sub", graph.random(*COLUMN), y))
    assert assert_exact(graph, folded=2).report.operators_after == {"Conv": 1}


def test_constant_over_value_is_no_affine() -> None:
    graph = Graph()
    y = graph.op("Exp", convolved(graph))
    graph.output(graph.op("Div", graph.random(*COLUMN), y))
    assert assert_exact(graph, folded=0).report.sites == ()


def test_a_constant_that_broadcasts_the_value_is_no_affine() -> None:
    graph = Graph()
    y = graph.op("ReduceMean", convolved(graph), axes=[1])
    graph.output(graph.op("Mul", y, graph.random(*COLUMN)))
    assert assert_exact(graph, folded=0).report.sites == ()


def test_normalised_input_before_a_padded_convolution() -> None:
    """(x − μ)/σ at the input: the division goes into the convolution, the subtraction sees its padding."""
    graph = Graph()
    y = graph.op("Sub", graph.input("N", 3, 6, 6), graph.random(3, 1, 1))
    y = graph.op("Div", y, graph.constant(np.array([0.2, 0.3, 0.4]).reshape(3, 1, 1)))
    graph.output(graph.conv(y, 3, 4, pads=[1, 1, 1, 1]))
    assert assert_exact(graph, folded=1).report.operators_after == {"Conv": 1, "Sub": 1}


@pytest.mark.parametrize("opset", [11, 15])
def test_batch_norm_of_a_weight_is_evaluated(opset: int) -> None:
    """Weight standardisation, as some exporters write it."""
    graph = Graph(opset=opset, float_type=TensorProto.FLOAT)
    x = graph.input("N", 3, 6, 6)
    shapes = [graph.constant(np.array(shape, np.int64)) for shape in ((1, 4, -1), (4, 3, 3, 3))]
    weight = graph.op("Reshape", graph.random(4, 3, 3, 3), shapes[0])
    weight = graph.op("Reshape", graph.batch_norm(weight, 4), shapes[1])
    graph.output(graph.batch_norm(graph.op("Conv", x, weight), 4))
    result = assert_exact_float32(graph, folded=2)
    assert result.report.operators_after == {"Conv": 1}


@pytest.mark.parametrize("reader", ["instance", "batch statistics", "mean"])
def test_bias_that_nobody_sees_is_stripped(reader: str) -> None:
    graph = Graph(opset=15)
    y = graph.op("AveragePool", convolved(graph), kernel_shape=[2, 2])
    if reader == "instance":
        z = graph.op("InstanceNormalization", y, graph.random(4), graph.random(4))
    elif reader == "mean":
        z = graph.op("Sub", y, graph.op("ReduceMean", y, axes=[2, 3]))
    else:
        z = graph.batch_norm(y, 4, training_mode=1, outputs=3)
    graph.output(z, "N", 4, 5, 5)
    left = int(reader == "batch statistics")
    result = assert_exact(graph, folded=0, batch_norms_left=left, float32=reader != "batch statistics")
    assert [bias.fate for bias in result.report.stripped_biases] == [BiasFate.DEAD]
    assert len(result.model.graph.node("node_conv3").inputs) == 2


def test_bias_that_a_reader_sees_is_kept() -> None:
    graph = Graph()
    y = convolved(graph)
    graph.output(graph.op("InstanceNormalization", y, graph.random(4), graph.random(4)))
    graph.output(graph.op("Relu", y))
    assert assert_exact(graph, folded=0).report.stripped_biases == ()


def test_bias_before_an_unpadded_convolution_is_not_dead() -> None:
    graph = Graph()
    graph.output(graph.conv(convolved(graph), 4, 2))
    assert assert_exact(graph, folded=0).report.stripped_biases == ()


def branch(graph: Graph, name: str, source: str) -> onnx.GraphProto:
    """A body of control flow: Conv with an outer weight, then a BatchNormalization."""
    body = Graph(float_type=graph.float_type, seed=hash(name) % 1000)
    body._count = 1000 * (1 + len(graph.nodes)) + sum(map(ord, name))
    y = body.op("Conv", source, graph.random(4, 3, 1, 1))
    body.output(body.batch_norm(y, 4))
    graph.initializers.extend(body.initializers)
    return helper.make_graph(body.nodes, name, [], body.outputs)


def test_batch_norms_in_the_branches_of_an_if() -> None:
    graph = Graph(float_type=TensorProto.FLOAT)
    x = graph.input("N", 3, 6, 6)
    total = graph.op("ReduceSum", x, keepdims=0)
    condition = graph.op("Greater", total, graph.constant(0.0))
    y = graph.op("If", condition, then_branch=branch(graph, "then", x), else_branch=branch(graph, "else", x))
    graph.output(y, "N", 4, 6, 6)
    result = assert_exact_float32(graph, folded=2)
    assert result.report.operators_before["BatchNormalization"] == 2
    assert "BatchNormalization" not in result.report.operators_after


def test_batch_norm_in_a_branch_of_a_value_from_outside_stays() -> None:
    """It makes the branch's output: nothing inside would be left to make it."""
    graph = Graph(float_type=TensorProto.FLOAT)
    outer = graph.conv(graph.input("N", 3, 6, 6), 3, 4)
    condition = graph.op("Greater", graph.op("ReduceSum", "x", keepdims=0), graph.constant(0.0))
    branches = []
    for name in ("then", "else"):
        body = Graph(float_type=graph.float_type)
        body._count = 1000 + ord(name[0])
        body.output(body.batch_norm(outer, 4) if name == "then" else body.op("Identity", outer))
        graph.initializers.extend(body.initializers)
        branches.append(helper.make_graph(body.nodes, name, [], body.outputs))
    y = graph.op("If", condition, then_branch=branches[0], else_branch=branches[1])
    graph.output(y, "N", 4, 4, 4)
    assert_exact_float32(graph, folded=0)


def test_batch_norm_in_the_body_of_a_loop() -> None:
    graph = Graph(float_type=TensorProto.FLOAT)
    x = graph.input("N", 3, 6, 6)
    weight = graph.random(3, 3, 1, 1)
    body = Graph(float_type=graph.float_type)
    body._count = 1000
    z = body.op("Conv", "carried", weight)
    z = body.op("Tanh", body.batch_norm(z, 3))
    going = body.op("Identity", "going")
    graph.initializers.extend(body.initializers)
    info = helper.make_tensor_value_info
    loop = helper.make_graph(
        body.nodes,
        "body",
        [
            info("trip", TensorProto.INT64, []),
            info("going", TensorProto.BOOL, []),
            info("carried", graph.float_type, ["N", 3, 6, 6]),
        ],
        [info(going, TensorProto.BOOL, []), info(z, graph.float_type, ["N", 3, 6, 6])],
    )
    trips = graph.constant(np.array(3, np.int64))
    graph.output(graph.op("Loop", trips, graph.constant(np.array(True)), x, body=loop), "N", 3, 6, 6)
    assert_exact_float32(graph, folded=1)


def test_local_functions_are_inlined_and_folded() -> None:
    proto = onnx.ModelProto()
    graph = Graph(float_type=TensorProto.FLOAT)
    x = graph.input("N", 3, 6, 6)
    operands = [x, graph.random(4, 3, 3, 3), *(graph.constant(np.full(4, n)) for n in (1.5, 0.2, 0.3, 2.0))]
    graph.output(graph.op("Block", *operands, domain="local"), "N", 4, 4, 4)
    proto.CopyFrom(graph.proto())
    proto.opset_import.append(helper.make_opsetid("local", 1))
    names = ["x", "w", "g", "b", "m", "v"]
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"]),
        helper.make_node("BatchNormalization", ["c", "g", "b", "m", "v"], ["y"]),
    ]
    opsets = [helper.make_opsetid("", 17)]
    proto.functions.append(helper.make_function("local", "Block", names, ["y"], nodes, opsets))
    result = fold(ir.from_proto(proto))
    assert [site.outcome for site in result.report.sites] == [Outcome.FOLDED]
    feeds = feeds_for(proto)
    assert distance(run_unoptimised(ir.to_proto(result.model), feeds), run_unoptimised(proto, feeds)) < 3e-6


def hidden_zero_bias(graph: Graph, x: str, weight: str) -> str:
    """What torch's exporter writes, unoptimised, for the bias of a convolution that has none."""
    zero = graph.op("CastLike", graph.constant(np.array(0.0, np.float32)), x)
    size = graph.op(
        "Slice", graph.op("Shape", weight), *(graph.constant(np.array([n], np.int64)) for n in (0, 1))
    )
    return graph.op("Expand", zero, size)


def test_bias_hidden_behind_cast_like_shape_and_expand() -> None:
    graph = Graph(float_type=TensorProto.FLOAT)
    x = graph.input("N", 3, 6, 6)
    weight = graph.random(4, 3, 3, 3)
    y = graph.op("Conv", x, weight, hidden_zero_bias(graph, x, weight))
    y = graph.op("Relu", graph.batch_norm(y, 4))
    second = graph.random(5, 4, 1, 1)
    graph.output(graph.op("Conv", y, second, hidden_zero_bias(graph, y, second)))
    result = assert_exact_float32(graph, folded=1)
    assert result.report.operators_after == {"Conv": 2, "Relu": 1}
    assert {bias.fate for bias in result.report.stripped_biases} == {BiasFate.ABSORBED, BiasFate.ZERO}


def test_invalid_two_dimensional_bias_of_a_conv3d_is_repaired() -> None:
    graph = Graph(float_type=TensorProto.FLOAT)
    x = graph.input("N", 2, 4, 4, 4)
    y = graph.op("Conv", x, graph.random(3, 2, 2, 2, 2), graph.constant(np.zeros((3, 2))))
    graph.output(graph.batch_norm(y, 3))
    after = ir.to_proto(fold(graph.model()).model)
    onnx.checker.check_model(after, full_check=True)
    bias = next(t for t in after.graph.initializer if t.name == after.graph.node[0].input[2])
    assert numpy_helper.to_array(bias).shape == (3,)
