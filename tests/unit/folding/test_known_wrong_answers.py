"""Graphs on which other folders give wrong answers or crash, each with what goes wrong elsewhere."""

from collections.abc import Callable

import pytest
from foldserve.folding.report import Reason
from torch import Tensor, nn
from unit.folding.checks import Graph, assert_exact
from zoo.architecture import Architecture
from zoo.proof import prove

# torch's own code uses what torch has deprecated
deprecations = pytest.mark.filterwarnings("ignore:.*LeafSpec:FutureWarning")
ROUNDING = 2.5
"""How many times the original's own float32 error the folded model may have."""


class Twice(nn.Module):
    """One layer applied twice, each time with a BatchNorm of its own."""

    def __init__(self, layer: nn.Module, norm: Callable[[], nn.Module], *, in_parallel: bool) -> None:
        super().__init__()
        self.layer = layer
        self.first, self.second = norm(), norm()
        self.in_parallel = in_parallel

    def forward(self, x: Tensor) -> Tensor:
        first: Tensor = self.first(self.layer(x))
        second: Tensor = self.second(self.layer(-x if self.in_parallel else first))
        return first + second


def conv() -> nn.Module:
    return nn.Conv2d(4, 4, 3, padding=1)


@deprecations
@pytest.mark.parametrize("in_parallel", [False, True])
@pytest.mark.parametrize(
    ("layer", "norm", "shape"),
    [
        (conv, lambda: nn.BatchNorm2d(4), (4, 6, 6)),
        (lambda: nn.Linear(4, 4), lambda: nn.BatchNorm1d(4), (4,)),
        (lambda: nn.ConvTranspose2d(4, 4, 3, groups=2, padding=1), lambda: nn.BatchNorm2d(4), (4, 6, 6)),
    ],
    ids=["conv", "linear", "transposed conv"],
)
def test_layer_applied_twice_with_two_batch_norms(
    layer: Callable[[], nn.Module], norm: Callable[[], nn.Module], shape: tuple[int, ...], in_parallel: bool
) -> None:
    """torch.fx's fuse changes the one module that both calls share, once for each BatchNorm."""
    proof = prove(
        Architecture(
            f"twice, in parallel {in_parallel}",
            lambda: Twice(layer(), norm, in_parallel=in_parallel),
            shape,
            batch_norms=2,
            left=(0, 0, 0, 0),
        )
    )
    assert proof.left == (0, 0, 0, 0)
    assert max(proof.ratios) < ROUNDING


@deprecations
def test_batch_norm_over_the_tokens_of_a_linear() -> None:
    """torch.fx's fuse scales the Linear's output features; the BatchNorm's channels are the tokens."""
    module = nn.Sequential(nn.Linear(6, 6), nn.BatchNorm1d(6))
    proof = prove(Architecture("tokens", lambda: module, (6, 6), batch_norms=1, left=(1, 1, 1, 1)))
    assert proof.left == (1, 1, 1, 1)
    assert set(proof.reasons[3]) == {Reason.CHANNELS}


@deprecations
@pytest.mark.parametrize(("inputs", "outputs", "groups"), [(4, 6, 2), (6, 6, 3), (8, 8, 8), (6, 4, 1)])
def test_grouped_transposed_convolution(inputs: int, outputs: int, groups: int) -> None:
    """Inductor's freezing scales the axis of the input channels, or fails where the groups do not fit."""

    def build() -> nn.Module:
        return nn.Sequential(
            nn.ConvTranspose2d(inputs, outputs, 3, 2, groups=groups, bias=False), nn.BatchNorm2d(outputs)
        )

    name = f"transposed {inputs} {outputs} {groups}"
    proof = prove(Architecture(name, build, (inputs, 4, 4), batch_norms=1, left=(0, 0, 0, 0)))
    assert proof.left == (0, 0, 0, 0)
    assert max(proof.ratios) < ROUNDING


def test_training_mode_uses_the_statistics_of_the_batch() -> None:
    """onnxscript folds the running statistics of a BatchNormalization that does not use them."""
    graph = Graph()
    x = graph.conv(graph.input("n", 3, 5, 5), 3, 4)
    parameters = [graph.random(4), graph.random(4), graph.random(4), graph.constant([1.0, 2.0, 3.0, 4.0])]
    y = graph.op("BatchNormalization", x, *parameters, outputs=3, training_mode=1)
    graph.output(y, "n", 4, 3, 3)
    result = assert_exact(graph, folded=0, batch_norms_left=1, max_tier=3)
    assert result.report.reasons() == {Reason.TRAINING_MODE: 1}


@pytest.mark.parametrize("beta", [0.0, 0.5, -2.0])
@pytest.mark.parametrize("alpha", [1.0, 0.3])
def test_gemm_that_scales_its_bias(alpha: float, beta: float) -> None:
    """onnxscript scales C as if β were 1."""
    graph = Graph()
    y = graph.op("Gemm", graph.input("n", 5), graph.random(5, 4), graph.random(4), alpha=alpha, beta=beta)
    graph.output(graph.batch_norm(y, 4), "n", 4)
    assert_exact(graph, folded=1)


@pytest.mark.parametrize("operator", ["Conv", "ConvTranspose", "Gemm"])
def test_empty_name_where_the_bias_would_be(operator: str) -> None:
    """An input called '' means 'none'; others look it up and crash."""
    graph = Graph()
    if operator == "Gemm":
        y = graph.op(operator, graph.input("n", 5), graph.random(5, 4), "")
        graph.output(graph.batch_norm(y, 4), "n", 4)
    else:
        y = graph.op(operator, graph.input("n", 4, 6, 6), graph.random(4, 4, 3, 3), "", pads=[1, 1, 1, 1])
        graph.output(graph.batch_norm(y, 4), "n", 4, 6, 6)
    assert_exact(graph, folded=1)
