"""Parallel branches of one value become one convolution, where their taps meet."""

from typing import Any

import pytest
from foldserve.folding.report import Direction, Outcome
from unit.folding.checks import Graph, assert_exact


@pytest.mark.parametrize("group", [1, 2, 6])
@pytest.mark.parametrize("bias", [True, False])
def test_repvgg_block(group: int, bias: bool) -> None:
    graph = Graph()
    x = graph.op("Relu", graph.input("N", 6, 7, 7))
    wide = graph.batch_norm(graph.conv(x, 6, 6, pads=[1] * 4, group=group, bias=bias), 6)
    narrow = graph.batch_norm(graph.conv(x, 6, 6, kernel=(1, 1), group=group, bias=bias), 6)
    y = graph.op("Add", graph.op("Add", narrow, wide), graph.batch_norm(x, 6, name="identity"))
    graph.output(graph.op("Relu", y))
    report = assert_exact(graph, folded=3).report
    assert report.operators_after == {"Conv": 1, "Relu": 2}
    assert report.sites[2].direction is Direction.MERGED


@pytest.mark.parametrize(
    ("large", "small"),
    [
        ({"kernel": (3, 3), "pads": [1, 1, 1, 1]}, {"kernel": (1, 1)}),
        ({"kernel": (3, 3), "pads": [2, 1, 0, 1]}, {"kernel": (2, 1), "pads": [1, 0, 0, 0]}),
        ({"kernel": (3, 3), "dilations": [2, 2], "pads": [2] * 4}, {"kernel": (1, 1)}),
        ({"kernel": (5, 5), "pads": [2] * 4, "strides": [2, 2]}, {"pads": [1] * 4, "strides": [2, 2]}),
    ],
)
def test_smaller_kernel_joins_the_larger(large: dict[str, Any], small: dict[str, Any]) -> None:
    graph = Graph()
    x = graph.input("N", 3, 8, 8)
    y = graph.op("Add", graph.conv(x, 3, 4, **small), graph.conv(x, 3, 4, **large))
    graph.output(y)
    assert assert_exact(graph, folded=0).report.operators_after == {"Conv": 1}


@pytest.mark.parametrize(
    ("large", "small"),
    [
        ({"kernel": (3, 3), "pads": [1, 1, 1, 1]}, {"kernel": (1, 1), "group": 4}),
        ({"kernel": (3, 3), "pads": [1] * 4}, {"kernel": (3, 3), "pads": [2] * 4, "dilations": [2, 2]}),
        ({"kernel": (1, 3), "pads": [0, 1, 0, 1]}, {"kernel": (3, 1), "pads": [1, 0, 1, 0]}),
        ({"kernel": (3, 3), "auto_pad": "SAME_UPPER"}, {"kernel": (1, 1)}),
    ],
)
def test_taps_that_do_not_meet_stay_apart(large: dict[str, Any], small: dict[str, Any]) -> None:
    graph = Graph()
    x = graph.input("N", 4, 8, 8)
    graph.output(graph.op("Add", graph.conv(x, 4, 4, **small), graph.conv(x, 4, 4, **large)))
    assert assert_exact(graph, folded=0).report.operators_after == {"Add": 1, "Conv": 2}


def test_batch_norm_beside_a_convolution_that_others_read_stays() -> None:
    graph = Graph()
    x = graph.op("Relu", graph.input("N", 4, 6, 6))
    y = graph.conv(x, 4, 4, pads=[1] * 4)
    graph.output(graph.op("Add", graph.batch_norm(x, 4), y))
    graph.output(graph.op("Relu", y))
    assert assert_exact(graph, folded=0, batch_norms_left=1).report.sites[0].outcome is Outcome.STAYED


def test_site_behind_a_merged_sum_is_folded_too() -> None:
    graph = Graph()
    x = graph.op("Relu", graph.input("N", 4, 6, 6))
    y = graph.op("Add", graph.batch_norm(x, 4, positive=True), graph.conv(x, 4, 4, pads=[1] * 4))
    y = graph.op("MaxPool", y, kernel_shape=[2, 2])
    graph.output(graph.batch_norm(y, 4, positive=True))
    assert assert_exact(graph, folded=2).report.operators_after == {"Conv": 1, "MaxPool": 1, "Relu": 1}
