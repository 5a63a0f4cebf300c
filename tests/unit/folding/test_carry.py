"""The rows of both tables: an affine crosses one operator on its way up or down, or stays for a reason."""

from collections.abc import Callable

import numpy as np
import pytest
from foldserve.folding import fold
from foldserve.folding.report import Direction, Reason
from onnx import TensorProto, numpy_helper
from unit.folding.checks import Graph, assert_exact, assert_exact_float32, folded_sites

Build = Callable[[Graph, str], str]


def ints(graph: Graph, *numbers: int) -> str:
    return graph.constant(np.array(numbers, np.int64))


def add_of_two_branches(graph: Graph, y: str) -> str:
    return graph.op("Add", y, graph.conv("x", 4, 6, pads=[1, 1, 1, 1]))


def channel_shuffle(graph: Graph, y: str) -> str:
    y = graph.op("Reshape", y, ints(graph, 0, 2, 3, 8, 8))
    y = graph.op("Transpose", y, perm=[0, 2, 1, 3, 4])
    return graph.op("Reshape", y, ints(graph, 0, 6, 8, 8))


def resize(graph: Graph, y: str, mode: str) -> str:
    scales = graph.constant(np.array([1, 1, 2, 2], np.float32))
    return graph.op("Resize", y, "", scales, mode=mode)


UP_ANY_SIGN: dict[str, Build] = {
    "Identity": lambda g, y: g.op("Identity", y),
    "Dropout": lambda g, y: g.op("Dropout", y),
    "Reshape and back": lambda g, y: g.op(
        "Reshape", g.op("Reshape", y, ints(g, 0, 6, -1)), ints(g, -1, 6, 8, 8)
    ),
    "Squeeze and Unsqueeze": lambda g, y: g.op("Squeeze", g.op("Unsqueeze", y, ints(g, 2)), ints(g, 2)),
    "Transpose twice": lambda g, y: g.op("Transpose", g.op("Transpose", y), perm=[3, 2, 1, 0]),
    "channel shuffle": channel_shuffle,
    "AveragePool": lambda g, y: g.op("AveragePool", y, kernel_shape=[3, 3], pads=[1, 1, 1, 1]),
    "AveragePool counting nothing": lambda g, y: g.op(
        "AveragePool", y, kernel_shape=[2, 2], count_include_pad=1
    ),
    "GlobalAveragePool": lambda g, y: g.op("GlobalAveragePool", y),
    "ReduceMean": lambda g, y: g.op("ReduceMean", y, axes=[2, 3]),
    "ReduceMean without dimensions": lambda g, y: g.op("ReduceMean", y, axes=[-1, -2], keepdims=0),
    "nearest Resize": lambda g, y: resize(g, y, "nearest"),
    "linear Resize": lambda g, y: resize(g, y, "linear"),
    "cubic Resize": lambda g, y: resize(g, y, "cubic"),
    "Pad edge": lambda g, y: g.op("Pad", y, ints(g, 0, 0, 1, 2, 0, 0, 0, 1), mode="edge"),
    "Pad reflect": lambda g, y: g.op("Pad", y, ints(g, 0, 0, 1, 2, 0, 0, 0, 1), mode="reflect"),
    "Pad by nothing": lambda g, y: g.op("Pad", y, ints(g, *[0] * 8)),
    "Neg": lambda g, y: g.op("Neg", y),
    "Slice of space": lambda g, y: g.op("Slice", y, ints(g, 1), ints(g, 7), ints(g, 2)),
    "Add of two branches": add_of_two_branches,
    "Sub of two branches": lambda g, y: g.op("Sub", g.conv("x", 4, 6, pads=[1, 1, 1, 1]), y),
    "Sum of three branches": lambda g, y: g.op(
        "Sum", y, g.conv("x", 4, 6, pads=[1] * 4), g.conv("x", 4, 6, pads=[1] * 4)
    ),
    "Expand": lambda g, y: g.op("Expand", g.op("GlobalAveragePool", y), ints(g, 1, 1, 3, 3)),
    "Tile": lambda g, y: g.op("Tile", y, ints(g, 1, 1, 2, 1)),
    "Gather of channels": lambda g, y: g.op("Gather", y, ints(g, 5, 0, 3, 2, 1, 4), axis=1),
    "InstanceNormalization": lambda g, y: g.op("InstanceNormalization", y, g.random(6), g.random(6)),
}


@pytest.mark.parametrize("between", UP_ANY_SIGN)
def test_batch_norm_is_carried_up(between: str) -> None:
    graph = Graph(seed=3)
    y = graph.conv(graph.input("N", 4, 8, 8), 4, 6, pads=[1, 1, 1, 1])
    graph.output(graph.batch_norm(UP_ANY_SIGN[between](graph, y), 6))
    site = assert_exact(graph, folded=1).report.sites[0]
    assert site.direction is Direction.UP


UP_POSITIVE: dict[str, Build] = {
    "MaxPool": lambda g, y: g.op("MaxPool", y, kernel_shape=[3, 3], pads=[1, 1, 1, 1]),
    "GlobalMaxPool": lambda g, y: g.op("GlobalMaxPool", y),
    "ReduceMax": lambda g, y: g.op("ReduceMax", y, axes=[2, 3]),
    "ReduceMin": lambda g, y: g.op("ReduceMin", y, axes=[2, 3]),
    "Max of two branches": lambda g, y: g.op("Max", y, g.conv("x", 4, 6, pads=[1, 1, 1, 1])),
    "Max with a constant": lambda g, y: g.op("Max", y, g.random(6, 1, 1)),
}


@pytest.mark.parametrize("between", UP_POSITIVE)
def test_positive_scales_are_carried_up(between: str) -> None:
    graph = Graph(seed=3)
    y = graph.conv(graph.input("N", 4, 8, 8), 4, 6, pads=[1, 1, 1, 1])
    graph.output(graph.batch_norm(UP_POSITIVE[between](graph, y), 6, positive=True))
    assert_exact(graph, folded=1)


@pytest.mark.parametrize("between", UP_POSITIVE)
def test_a_negative_scale_does_not_pass_what_is_monotone(between: str) -> None:
    graph = Graph(seed=3)
    y = graph.conv(graph.input("N", 4, 8, 8), 4, 6, pads=[1, 1, 1, 1])
    z = graph.batch_norm(UP_POSITIVE[between](graph, y), 6, positive=True)
    gamma = graph.initializers[-4]
    mixed = numpy_helper.to_array(gamma) * np.array([1, -1, 1, 1, 1, 1])
    gamma.CopyFrom(numpy_helper.from_array(mixed, gamma.name))
    graph.output(z)
    site = assert_exact(graph, folded=0, batch_norms_left=1).report.sites[0]
    assert site.reason is Reason.SIGN


def test_all_scales_negative_turn_max_into_min() -> None:
    graph = Graph(seed=3)
    y = graph.conv(graph.input("N", 4, 8, 8), 4, 6)
    y = graph.op("Max", y, graph.random(6, 1, 1))
    y = graph.op("Mul", y, graph.constant(-np.arange(1.0, 7.0).reshape(6, 1, 1)))
    graph.output(y)
    assert assert_exact(graph, folded=1).report.operators_after == {"Conv": 1, "Min": 1}


UP_SCALE_ONLY: dict[str, Build] = {
    "Relu": lambda g, y: g.op("Relu", y),
    "LeakyRelu": lambda g, y: g.op("LeakyRelu", y, alpha=0.1),
    "PRelu": lambda g, y: g.op("PRelu", y, g.random(6, 1, 1)),
    "Abs": lambda g, y: g.op("Abs", y),
    "gate": lambda g, y: g.op("Mul", y, g.op("Sigmoid", g.conv("x", 4, 6, pads=[1, 1, 1, 1]))),
    "Div": lambda g, y: g.op("Div", y, g.op("Sigmoid", g.conv("x", 4, 6, pads=[1, 1, 1, 1]))),
    "AveragePool counting padding": lambda g, y: g.op(
        "AveragePool", y, kernel_shape=[3, 3], pads=[1, 1, 1, 1], count_include_pad=1
    ),
    "Pad with zeros": lambda g, y: g.op("Pad", y, ints(g, 0, 0, 1, 2, 0, 0, 0, 1)),
    "ReduceSum": lambda g, y: g.op("ReduceSum", y, ints(g, 2, 3)),
}


@pytest.mark.parametrize("between", UP_SCALE_ONLY)
def test_a_positive_scale_alone_is_carried_up(between: str) -> None:
    graph = Graph(seed=3)
    y = UP_SCALE_ONLY[between](graph, graph.conv(graph.input("N", 4, 8, 8), 4, 6, pads=[1, 1, 1, 1]))
    graph.output(graph.op("Mul", y, graph.constant(np.arange(1.0, 7.0).reshape(6, 1, 1))))
    assert_exact(graph, folded=1)


@pytest.mark.parametrize("between", UP_SCALE_ONLY)
def test_a_shift_does_not_pass_what_carries_a_scale_alone(between: str) -> None:
    graph = Graph(seed=3)
    y = UP_SCALE_ONLY[between](graph, graph.conv(graph.input("N", 4, 8, 8), 4, 6, pads=[1, 1, 1, 1]))
    graph.output(graph.batch_norm(y, 6, positive=True))
    site = assert_exact(graph, folded=0, batch_norms_left=1).report.sites[0]
    assert site.reason in (Reason.SHIFT, Reason.PADDING, Reason.TIER)


DOWN: dict[str, Build] = {
    "Identity": lambda g, y: g.op("Identity", y),
    "Transpose twice": lambda g, y: g.op("Transpose", g.op("Transpose", y), perm=[3, 2, 1, 0]),
    "channel shuffle": channel_shuffle,
    "AveragePool": lambda g, y: g.op("AveragePool", y, kernel_shape=[3, 3], pads=[1, 1, 1, 1]),
    "Resize": lambda g, y: resize(g, y, "linear"),
    "Pad edge": lambda g, y: g.op("Pad", y, ints(g, 0, 0, 1, 2, 0, 0, 0, 1), mode="edge"),
    "Slice of space": lambda g, y: g.op("Slice", y, ints(g, 1), ints(g, 7), ints(g, 2)),
    "Slice backwards": lambda g, y: g.op(
        "Slice", y, ints(g, -1), ints(g, -(1 << 62)), ints(g, 1), ints(g, -1)
    ),
    "Gather of channels": lambda g, y: g.op("Gather", y, ints(g, 5, 0, 3, 2, 1, 0), axis=1),
    "Tile": lambda g, y: g.op("Tile", y, ints(g, 1, 1, 2, 1)),
    "Neg": lambda g, y: g.op("Neg", y),
    "Add of a constant": lambda g, y: g.op("Add", y, g.random(6, 1, 1)),
    "constant minus": lambda g, y: g.op("Sub", g.random(6, 1, 1), y),
}


@pytest.mark.parametrize("between", DOWN)
def test_batch_norm_is_carried_down_into_conv(between: str) -> None:
    graph = Graph(seed=3)
    y = graph.batch_norm(graph.input("N", 6, 8, 8), 6, name="bn")
    graph.output(graph.conv(DOWN[between](graph, y), 6, 4, group=2))
    sites = assert_exact(graph, folded=1 + (between in ("Add of a constant", "constant minus"))).report.sites
    assert sites[0].direction is Direction.DOWN


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("transposed", [(0, 0), (0, 1), (1, 0), (1, 1)], ids=str)
def test_batch_norm_before_gemm(transposed: tuple[int, int], bias: bool) -> None:
    trans_a, trans_b = transposed
    graph = Graph()
    y = graph.batch_norm(graph.input(4, 4), 4)
    if trans_a:
        y = graph.op("Transpose", y)
    operands = [y, graph.random(*((5, 4) if trans_b else (4, 5)))] + ([graph.random(4, 1)] if bias else [])
    graph.output(graph.op("Gemm", *operands, transA=trans_a, transB=trans_b, alpha=0.6, beta=1.7), 4, 5)
    assert_exact(graph, folded=1)


def test_batch_norm_before_flatten_and_gemm_repeats() -> None:
    graph = Graph()
    y = graph.op("Flatten", graph.batch_norm(graph.input("N", 3, 4, 5), 3))
    graph.output(graph.op("Gemm", y, graph.random(60, 7), graph.random(7)))
    assert_exact(graph, folded=1)


def test_batch_norm_before_matmul_and_add() -> None:
    graph = Graph()
    y = graph.op("Transpose", graph.batch_norm(graph.input("N", 3, 4), 3), perm=[0, 2, 1])
    graph.output(graph.op("Add", graph.op("MatMul", y, graph.random(3, 7)), graph.random(7)))
    assert_exact(graph, folded=1)


def test_batch_norm_before_conv_transpose_stays_with_a_shift_and_goes_without() -> None:
    graph = Graph()
    y = graph.batch_norm(graph.input("N", 4, 5, 5), 4)
    graph.output(graph.op("ConvTranspose", y, graph.random(4, 2, 3, 3)))
    assert assert_exact(graph, folded=0, batch_norms_left=1).report.sites[0].reason is Reason.SHIFT
    graph = Graph(float_type=TensorProto.FLOAT)
    y = graph.op("Mul", graph.input("N", 4, 5, 5), graph.random(4, 1, 1))
    graph.output(graph.op("ConvTranspose", y, graph.random(4, 2, 3, 3), group=2))
    assert_exact_float32(graph, folded=1)


def test_batch_norm_before_two_readers() -> None:
    graph = Graph()
    y = graph.batch_norm(graph.input("N", 4, 5, 5), 4)
    graph.output(graph.conv(y, 4, 5))
    graph.output(graph.conv(graph.op("GlobalAveragePool", y), 4, 5, kernel=(1, 1)))
    assert len(assert_exact(graph, folded=1).report.sites[0].absorbed_by) == 2


def test_one_reader_that_cannot_keeps_it_for_all() -> None:
    graph = Graph()
    y = graph.batch_norm(graph.input("N", 4, 5, 5), 4)
    graph.output(graph.conv(y, 4, 5))
    graph.output(graph.op("Sigmoid", y))
    assert assert_exact(graph, folded=0, batch_norms_left=1).report.sites[0].reason is Reason.OPERATOR


@pytest.mark.parametrize("operator", ["Concat", "Split", "Slice", "Gather"])
def test_channels_are_joined_and_split(operator: str) -> None:
    graph = Graph()
    x = graph.input("N", 4, 6, 6)
    if operator == "Concat":
        y = graph.op("Concat", graph.conv(x, 4, 3), graph.conv(x, 4, 5), axis=1)
        graph.output(graph.batch_norm(y, 8))
    else:
        y = graph.conv(x, 4, 8)
        parts = {
            "Split": lambda: [graph.op("Split", y, ints(graph, 3, 5), axis=1, outputs=2)],
            "Slice": lambda: [
                graph.op("Slice", y, ints(graph, start), ints(graph, end), ints(graph, 1))
                for start, end in ((0, 3), (3, 8))
            ],
            "Gather": lambda: [
                graph.op("Gather", y, ints(graph, *i), axis=1) for i in ((0, 4, 2), (1, 3, 7))
            ],
        }[operator]()
        graph.output(graph.batch_norm(parts[0], 3))
        other = graph.nodes[-2].output[1] if operator == "Split" else parts[1]
        graph.output(graph.op("Sigmoid", other))
    assert_exact(graph, folded=1)


@pytest.mark.parametrize("mode", ["DCR", "CRD"])
def test_depth_to_space(mode: str) -> None:
    graph = Graph()
    y = graph.op("DepthToSpace", graph.conv(graph.input("N", 3, 6, 6), 3, 8), blocksize=2, mode=mode)
    graph.output(graph.batch_norm(y, 2))
    assert_exact(graph, folded=1)


def test_space_to_depth_coming_down() -> None:
    graph = Graph()
    y = graph.op("SpaceToDepth", graph.batch_norm(graph.input("N", 3, 6, 6), 3), blocksize=2)
    graph.output(graph.conv(y, 12, 4, kernel=(1, 1)))
    assert_exact(graph, folded=1)


@pytest.mark.parametrize("opset", [9, 11, 17])
def test_clip_passes_one_positive_scale_for_all(opset: int) -> None:
    graph = Graph(opset=opset)
    y = graph.conv(graph.input("N", 3, 6, 6), 3, 4)
    if opset < 11:
        y = graph.op("Clip", y, min=0.0, max=6.0)
    else:
        y = graph.op("Clip", y, graph.constant(0.0), graph.constant(6.0))
    graph.output(graph.op("Div", y, graph.constant(6.0)))
    assert_exact(graph, folded=1)


def test_clip_stops_different_scales() -> None:
    graph = Graph()
    y = graph.op(
        "Clip", graph.conv(graph.input("N", 3, 6, 6), 3, 4), graph.constant(0.0), graph.constant(6.0)
    )
    graph.output(graph.batch_norm(y, 4, positive=True))
    assert assert_exact(graph, folded=0, batch_norms_left=1).report.sites[0].reason is Reason.CHANNELS


def test_padding_by_the_right_constant_passes() -> None:
    graph = Graph()
    y = graph.op("Sub", graph.input("N", 3, 6, 6), graph.constant(np.full((3, 1, 1), 0.5)))
    y = graph.op("Pad", y, ints(graph, 0, 0, 1, 1, 0, 0, 1, 1))
    graph.output(graph.conv(y, 3, 4))
    assert_exact(graph, folded=1)


def test_lossless_cast_passes_and_a_lossy_one_stops() -> None:
    single, double = TensorProto.FLOAT, TensorProto.DOUBLE
    for source, target, folded in ((single, double, 1), (double, single, 0)):
        graph = Graph(float_type=source)
        y = graph.op("Cast", graph.conv(graph.input("N", 3, 6, 6), 3, 4), to=target)
        graph.float_type = target
        graph.output(graph.batch_norm(y, 4))
        assert folded_sites(fold(graph.model())) == folded


@pytest.mark.parametrize("operator", ["LayerNormalization", "GroupNormalization"])
def test_scale_and_bias_of_normalisations_absorb(operator: str) -> None:
    graph = Graph(opset=21, ir_version=10)
    x = graph.input("N", 6, 5)
    if operator == "LayerNormalization":
        y = graph.op(operator, x, graph.random(6, 5), axis=1)
    else:
        y = graph.op(operator, x, graph.random(6), graph.random(6), num_groups=2)
    graph.output(graph.batch_norm(y, 6), "N", 6, 5)
    assert_exact(graph, folded=1)


def test_instance_norm_takes_a_uniform_affine_coming_down() -> None:
    graph = Graph(opset=17)
    y = graph.op("Mul", graph.input("N", 4, 5, 5), graph.constant(-3.0))
    y = graph.op("Add", y, graph.random(4, 1, 1))
    graph.output(graph.op("InstanceNormalization", y, graph.random(4), graph.random(4)))
    assert_exact(graph, folded=2)


def test_upsample_of_older_operator_sets() -> None:
    graph = Graph(opset=9, float_type=TensorProto.FLOAT)
    y = graph.conv(graph.input("N", 3, 4, 4), 3, 4)
    y = graph.op("Upsample", y, graph.constant(np.array([1, 1, 2, 2], np.float32)), mode="nearest")
    graph.output(graph.batch_norm(y, 4))
    assert_exact_float32(graph, folded=1)


def test_consecutive_batch_norms_become_one() -> None:
    graph = Graph()
    graph.output(graph.op("Sigmoid", graph.batch_norm(graph.batch_norm(graph.input("N", 4, 5, 5), 4), 4)))
    assert_exact(graph, folded=1, batch_norms_left=1)


def test_rank_two_and_three() -> None:
    for shape in ((4,), (4, 7)):
        graph = Graph()
        y = graph.batch_norm(graph.input("N", *shape), 4)
        graph.output(graph.op("Sigmoid", graph.batch_norm(y, 4)))
        assert_exact(graph, folded=1, batch_norms_left=1)


def test_linear_tokens_flattened_before_batch_norm() -> None:
    """LeViT: Linear on (N, L, C), flattened to (N·L, C) for the BatchNormalization and back."""
    graph = Graph()
    y = graph.op("MatMul", graph.input("N", 7, 4), graph.random(4, 6))
    y = graph.batch_norm(graph.op("Reshape", y, ints(graph, -1, 6)), 6)
    graph.output(graph.op("Reshape", y, ints(graph, -1, 7, 6)))
    assert_exact(graph, folded=1)


def test_qkv_slices_share_one_linear() -> None:
    graph = Graph()
    y = graph.op("Add", graph.op("MatMul", graph.input("N", 5, 4), graph.random(4, 12)), graph.random(12))
    y = graph.op("Reshape", y, ints(graph, 0, 5, 3, 4))
    y = graph.op("Transpose", y, perm=[2, 0, 1, 3])
    parts = [graph.op("Gather", y, graph.constant(np.array(i, np.int64)), axis=0) for i in range(3)]
    query = graph.op("Mul", parts[0], graph.constant(0.125))
    scores = graph.op("MatMul", query, graph.op("Transpose", parts[1], perm=[0, 2, 1]))
    graph.output(graph.op("MatMul", graph.op("Softmax", scores), parts[2]))
    assert_exact(graph, folded=1)
