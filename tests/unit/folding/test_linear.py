"""Linear operators: every way in which weight and bias can absorb an affine, and those in which not."""

from typing import Any

import numpy as np
import pytest
from foldserve.folding.report import BiasFate, Direction, Reason
from onnx import TensorProto
from unit.folding.checks import Graph, assert_exact, assert_exact_float32


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(
    ("kernel", "space"), [((3,), (9,)), ((3, 2), (8, 7)), ((2, 3, 1), (5, 6, 4))], ids=["1-D", "2-D", "3-D"]
)
@pytest.mark.parametrize("group", [1, 2, 4])
def test_batch_norm_after_conv(
    kernel: tuple[int, ...], space: tuple[int, ...], group: int, bias: bool
) -> None:
    graph = Graph()
    x = graph.input("N", 4, *space)
    y = graph.conv(x, 4, 8, kernel=kernel, bias=bias, group=group, pads=[1] * 2 * len(kernel))
    graph.output(graph.batch_norm(y, 8, name="bn"))
    report = assert_exact(graph, folded=1).report
    assert (report.sites[0].tier, report.sites[0].direction) == (0, Direction.UP)
    assert [b.fate for b in report.stripped_biases] == ([BiasFate.ABSORBED] if bias else [])
    assert len(report.created_biases) == (0 if bias else 1)


@pytest.mark.parametrize(
    "attributes", [{"strides": [2, 2]}, {"dilations": [2, 2]}, {"auto_pad": "SAME_UPPER"}]
)
def test_conv_attributes_do_not_matter_upwards(attributes: dict[str, Any]) -> None:
    graph = Graph()
    y = graph.conv(graph.input("N", 3, 9, 9), 3, 5, **attributes)
    graph.output(graph.batch_norm(y, 5))
    assert_exact(graph, folded=1)


@pytest.mark.parametrize(
    ("inputs", "outputs", "group"), [(4, 6, 1), (5, 5, 1), (4, 6, 2), (6, 6, 3), (4, 4, 4), (4, 8, 4)]
)
@pytest.mark.parametrize("bias", [True, False])
def test_batch_norm_after_conv_transpose(inputs: int, outputs: int, group: int, bias: bool) -> None:
    graph = Graph(float_type=TensorProto.FLOAT)  # the reference evaluator fails on groups
    x = graph.input("N", inputs, 5, 6)
    weight = graph.random(inputs, outputs // group, 3, 3)
    operands = (x, weight, graph.random(outputs)) if bias else (x, weight)
    y = graph.op("ConvTranspose", *operands, group=group, strides=[2, 2], pads=[1, 1, 1, 1])
    graph.output(graph.batch_norm(y, outputs))
    assert_exact_float32(graph, folded=1)


@pytest.mark.parametrize("c_shape", [None, (), (1,), (5,), (1, 5), (3, 1), (3, 5)], ids=str)
@pytest.mark.parametrize("transposed", [(0, 0), (0, 1), (1, 0), (1, 1)], ids=str)
@pytest.mark.parametrize(("alpha", "beta"), [(1.0, 1.0), (0.7, 1.8), (2.0, 0.0)])
def test_batch_norm_after_gemm(
    c_shape: tuple[int, ...] | None, transposed: tuple[int, int], alpha: float, beta: float
) -> None:
    graph = Graph()
    trans_a, trans_b = transposed
    x = graph.input(*((4, 3) if trans_a else (3, 4)))
    operands = [x, graph.random(*((5, 4) if trans_b else (4, 5)))]
    if c_shape is not None:
        operands.append(graph.random(*c_shape))
    y = graph.op("Gemm", *operands, alpha=alpha, beta=beta, transA=trans_a, transB=trans_b)
    graph.output(graph.batch_norm(y, 5), 3, 5)
    assert_exact(graph, folded=1)


def test_batch_norm_after_matmul_and_add() -> None:
    graph = Graph()
    y = graph.op("MatMul", graph.input("N", 4), graph.random(4, 6))
    y = graph.op("Add", y, graph.random(6))
    graph.output(graph.batch_norm(y, 6))
    result = assert_exact(graph, folded=1)
    assert result.report.sites[0].tier == 0
    assert result.report.operators_after == {"Add": 1, "MatMul": 1}


def test_batch_norm_after_matmul_becomes_its_add() -> None:
    graph = Graph()
    y = graph.op("MatMul", graph.input("N", 4), graph.random(4, 6))
    graph.output(graph.batch_norm(y, 6))
    result = assert_exact(graph, folded=1)
    assert result.report.operators_after == {"Add": 1, "MatMul": 1}
    assert [bias.parameters for bias in result.report.created_biases] == [6]


def test_constant_left_operand_of_matmul() -> None:
    graph = Graph()
    y = graph.op("MatMul", graph.random(6, 4), graph.input("N", 4, 5))
    graph.output(graph.batch_norm(y, 6))
    assert_exact(graph, folded=1)


def test_batch_norm_over_the_sequence_axis_of_a_linear_stays() -> None:
    """Linear on (N, L, C) with L = C: as many channels as features, on the other axis."""
    graph = Graph()
    y = graph.op("MatMul", graph.input("N", 6, 4), graph.random(4, 6))
    graph.output(graph.batch_norm(graph.op("Add", y, graph.random(6)), 6))
    result = assert_exact(graph, folded=0, batch_norms_left=1)
    assert result.report.sites[0].reason is Reason.CHANNELS


def test_zero_bias_is_removed_and_small_statistics_survive() -> None:
    graph = Graph()
    x = graph.input("N", 3, 6, 6)
    y = graph.op("Conv", x, graph.random(4, 3, 3, 3), graph.constant(np.zeros(4)))
    graph.output(graph.op("Relu", y))
    result = assert_exact(graph, folded=0)
    assert [bias.fate for bias in result.report.stripped_biases] == [BiasFate.ZERO]
    assert result.report.stripped_parameters == 4


@pytest.mark.parametrize("kind", ["lstm", "gru", "rnn"])
@pytest.mark.parametrize("bias", [True, False])
def test_batch_norm_before_a_recurrent_layer(kind: str, bias: bool) -> None:
    gates = {"lstm": 4, "gru": 3, "rnn": 1}[kind]
    graph = Graph(float_type=TensorProto.FLOAT)
    x = graph.input("N", 3, 5)
    y = graph.op("Transpose", graph.batch_norm(x, 3), perm=[2, 0, 1])
    operands = [y, graph.random(1, gates * 4, 3), graph.random(1, gates * 4, 4)]
    if bias:
        operands.append(graph.random(1, 2 * gates * 4))
    graph.output(graph.op(kind.upper(), *operands, hidden_size=4))
    assert assert_exact_float32(graph, folded=1).report.sites[0].direction is Direction.DOWN
