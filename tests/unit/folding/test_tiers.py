"""The general form: other readers make up for a change (tier 2), and Relu becomes a Max (tier 3)."""

import numpy as np
import pytest
from foldserve.folding import fold
from foldserve.folding.report import Direction, Outcome, Reason
from onnx import TensorProto, numpy_helper
from unit.folding.checks import Graph, assert_exact


def tiers(graph: Graph, max_tier: int) -> list[int | None]:
    return [site.tier for site in fold(graph.model(), max_tier=max_tier).report.sites]


def preactivation_block(graph: Graph, x: str, channels: int, *, positive: bool = True) -> str:
    y = graph.conv(
        graph.op("Relu", graph.batch_norm(x, channels, positive=positive)), channels, channels, pads=[1] * 4
    )
    y = graph.op("Relu", graph.batch_norm(y, channels, positive=positive))
    return graph.op("Add", x, graph.conv(y, channels, channels, pads=[1] * 4))


def test_preactivation_residual_network() -> None:
    """The shifts of the trunk go into the branches, the scales down through Relu."""
    graph = Graph()
    x = graph.conv(graph.input("N", 3, 6, 6), 3, 5)
    for _ in range(3):
        x = preactivation_block(graph, x, 5)
    y = graph.op("GlobalAveragePool", graph.op("Relu", graph.batch_norm(x, 5, positive=True)))
    graph.output(graph.op("Gemm", graph.op("Flatten", y), graph.random(5, 4)))
    first = assert_exact(graph, folded=4, batch_norms_left=3, max_tier=1)
    assert [site.reason for site in first.report.sites if site.reason] == [Reason.SHARED_VALUE] * 3
    second = assert_exact(graph, folded=7, max_tier=2)
    assert [site.tier for site in second.report.sites] == [2, 0, 2, 0, 2, 0, 1]


def test_another_batch_norm_makes_up_for_it() -> None:
    graph = Graph()
    x = graph.conv(graph.input("N", 3, 6, 6), 3, 5)
    graph.output(graph.op("Sigmoid", graph.batch_norm(x, 5)))
    graph.output(graph.op("Tanh", graph.batch_norm(x, 5)))
    assert tiers(graph, 1) == [None, None]
    result = assert_exact(graph, folded=1, batch_norms_left=1, max_tier=2)
    assert len(result.report.sites[0].absorbed_by) == 2


def test_an_unpadded_convolution_makes_up_for_it() -> None:
    graph = Graph()
    x = graph.conv(graph.input("N", 3, 6, 6), 3, 5)
    graph.output(graph.op("Sigmoid", graph.batch_norm(x, 5)))
    graph.output(graph.conv(x, 5, 2))
    assert_exact(graph, folded=1, max_tier=2)


def test_a_padded_convolution_cannot() -> None:
    graph = Graph()
    x = graph.conv(graph.input("N", 3, 6, 6), 3, 5)
    graph.output(graph.op("Sigmoid", graph.batch_norm(x, 5)))
    graph.output(graph.conv(x, 5, 2, pads=[1] * 4))
    result = assert_exact(graph, folded=0, batch_norms_left=1, max_tier=3)
    assert result.report.sites[0].reason is Reason.SHARED_VALUE


def test_a_dead_channel_cannot_be_undone() -> None:
    graph = Graph()
    x = graph.conv(graph.input("N", 3, 6, 6), 3, 5)
    graph.output(graph.op("Sigmoid", graph.batch_norm(x, 5)))
    gamma = graph.initializers[-4]
    gamma.CopyFrom(numpy_helper.from_array(np.array([1.0, 2.0, 0.0, 1.0, 1.0]), gamma.name))
    graph.output(graph.conv(x, 5, 2))
    assert_exact(graph, folded=0, batch_norms_left=1, max_tier=3)


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("dead", [False, True])
def test_relu_as_maximum_coming_down(sign: int, dead: bool) -> None:
    """DenseNet: a shared value, a BatchNormalization, Relu, and a convolution without padding."""
    graph = Graph()
    x = graph.op("Sigmoid", graph.input("N", 5, 6, 6))
    y = graph.batch_norm(x, 5, positive=True)
    gamma = graph.initializers[-4]
    values = sign * numpy_helper.to_array(gamma)
    values[1] *= not dead
    gamma.CopyFrom(numpy_helper.from_array(values, gamma.name))
    graph.output(graph.conv(graph.op("Relu", y), 5, 3))
    assert tiers(graph, 2) == [None]
    result = assert_exact(graph, folded=1, max_tier=3)
    assert result.report.sites[0].tier == 3
    assert ("Max" if sign > 0 else "Min") in result.report.operators_after


def test_relu_as_maximum_going_up() -> None:
    graph = Graph()
    y = graph.op("Relu", graph.conv(graph.input("N", 3, 6, 6), 3, 5))
    graph.output(graph.op("Sigmoid", graph.batch_norm(y, 5, positive=True)))
    result = assert_exact(graph, folded=1, max_tier=3)
    assert (result.report.sites[0].tier, result.report.sites[0].direction) == (3, Direction.UP)


def test_scales_of_both_signs_leave_relu_alone() -> None:
    graph = Graph(seed=2)
    x = graph.op("Sigmoid", graph.input("N", 5, 6, 6))
    y = graph.batch_norm(x, 5)
    gamma = graph.initializers[-4]
    gamma.CopyFrom(numpy_helper.from_array(np.array([1.0, -1.0, 2.0, 1.0, 1.0]), gamma.name))
    graph.output(graph.conv(graph.op("Relu", y), 5, 3))
    assert_exact(graph, folded=0, batch_norms_left=1, max_tier=3)


def test_maxima_pass_further_affines() -> None:
    """A Relu that became a Max lets the next affine through, whichever way it comes."""
    graph = Graph()
    x = graph.op("Sigmoid", graph.input("N", 5, 6, 6))
    y = graph.op("Relu", graph.batch_norm(x, 5, positive=True))
    graph.output(graph.conv(graph.batch_norm(y, 5), 5, 3))
    assert_exact(graph, folded=2, max_tier=3)


def test_dense_block() -> None:
    graph = Graph()
    x = graph.conv(graph.input("N", 3, 8, 8), 3, 4)
    for growth in range(3):
        channels = 4 + 2 * growth
        y = graph.op("Relu", graph.batch_norm(x, channels, positive=True))
        y = graph.batch_norm(graph.conv(y, channels, 6, kernel=(1, 1)), 6, positive=True)
        y = graph.conv(graph.op("Relu", y), 6, 2, pads=[1] * 4)
        x = graph.op("Concat", x, y, axis=1)
    graph.output(x)
    assert_exact(graph, folded=3, batch_norms_left=3, max_tier=1)
    assert_exact(graph, folded=6, max_tier=3)


def test_mean_of_a_residual_trunk() -> None:
    """Both terms of a sum change alike: the subtraction of a mean hides a shift."""
    graph = Graph(float_type=TensorProto.DOUBLE)
    x = graph.conv(graph.input("N", 3, 6, 6), 3, 5)
    y = graph.op("Add", x, graph.random(5, 1, 1))
    graph.output(graph.op("Sub", y, graph.op("ReduceMean", y, axes=[2, 3])))
    result = assert_exact(graph, folded=1)
    assert result.report.sites[0].outcome is Outcome.FOLDED


def test_tier_zero_folds_neighbours_only() -> None:
    graph = Graph()
    y = graph.op("Identity", graph.conv(graph.input("N", 3, 6, 6), 3, 5))
    y = graph.op("Sigmoid", graph.batch_norm(y, 5))
    graph.output(graph.batch_norm(graph.conv(y, 5, 4), 4))
    assert tiers(graph, 0) == [None, 0]
    assert tiers(graph, 1) == [1, 0]


def test_no_site_is_folded_in_a_higher_tier_than_it_needs() -> None:
    graph = Graph()
    y = graph.op("Relu", graph.batch_norm(graph.conv(graph.input("N", 3, 6, 6), 3, 5), 5))
    graph.output(graph.batch_norm(graph.conv(y, 5, 4), 4))
    assert tiers(graph, 3) == [0, 0]


@pytest.mark.parametrize("c", [False, True])
@pytest.mark.parametrize("beta", [0.0, 1.5])
def test_an_operator_that_changes_on_both_sides(c: bool, beta: float) -> None:
    """The Gemm of a residual sum makes up for its input and makes a new output, in one plan."""
    graph = Graph()
    x = graph.op("Gemm", graph.input("N", 3), graph.random(3, 4), graph.random(4))
    operands = [x, graph.random(4, 4), *([graph.random(4)] if c else [])]
    y = graph.op("Gemm", *operands, beta=beta)
    # Relu keeps the shift from y, so x takes it, and the Gemm is asked about its input first.
    graph.output(graph.op("Gemm", graph.op("Relu", y), graph.random(4, 2)))
    graph.output(graph.op("Sigmoid", graph.batch_norm(graph.op("Add", y, x), 4, positive=True)))
    assert_exact(graph, folded=1, max_tier=2)


@pytest.mark.parametrize("bias", [False, True])
def test_a_convolution_that_changes_on_both_sides(bias: bool) -> None:
    graph = Graph()
    x = graph.conv(graph.input("N", 3, 5, 5), 3, 4)
    y = graph.conv(x, 4, 4, kernel=(1, 1), bias=bias)
    graph.output(graph.conv(graph.op("Relu", y), 4, 2))
    graph.output(graph.op("Sigmoid", graph.batch_norm(graph.op("Add", y, x), 4, positive=True)))
    assert_exact(graph, folded=1, max_tier=2)
