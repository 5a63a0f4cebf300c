"""Random small graphs of what folding knows: it never changes the function, never crashes, never hangs."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from foldserve.folding import fold, linear
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import numpy_helper
from onnx.reference import ReferenceEvaluator
from unit.folding.checks import Array, Graph, distance, feeds_for

TOLERANCE = 1e-7
"""Attributes are float32 in ONNX: an epsilon that was divided by s² is rounded to that."""

SIZE = 6


@dataclass(frozen=True)
class Image:
    """A value [N, channels, SIZE, SIZE] of the graph."""

    name: str
    channels: int


class Drawn:
    """A graph under construction, all of whose choices follow from one seed.

    Hypothesis picks the seed and the length, so what it shrinks to is the shortest prefix that fails.
    """

    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)
        self.graph = Graph(seed=seed)
        self.values = [Image(self.graph.input("N", 4, SIZE, SIZE), 4)]

    def choose(self, *options: str) -> str:
        return options[self.rng.integers(len(options))]

    def number(self, least: int, most: int) -> int:
        return int(self.rng.integers(least, most + 1))

    def flip(self) -> bool:
        return bool(self.rng.integers(2))

    def pick(self) -> Image:
        """A value to read: mostly the last one, sometimes an earlier one, which others read too."""
        return self.values[max(0, len(self.values) - 1 - max(0, self.number(-6, 3)))]

    def same(self, channels: int) -> Image:
        matching = [value for value in self.values if value.channels == channels]
        return matching[self.rng.integers(len(matching))]

    def column(self, channels: int) -> str:
        """A constant per channel, some of it negative, one of it or everything or nothing zero."""
        numbers = self.graph.rng.uniform(0.3, 2.0, (channels, 1, 1))
        kind = self.choose("positive", "mixed", "one zero", "one for all")
        if kind == "mixed":
            numbers *= self.graph.rng.choice([-1, 1], numbers.shape)
        elif kind == "one zero":
            numbers[0] = 0
        elif kind == "one for all":
            numbers = numbers[0]
        return self.graph.constant(numbers)

    def step(self) -> None:
        operator = self.choose(*STEPS)
        x = self.pick()
        y = STEPS[operator](self, x)
        self.values.append(y if isinstance(y, Image) else Image(y, x.channels))


def conv(drawn: Drawn, x: Image) -> Image:
    group = [1, 1, 2 - x.channels % 2, x.channels][drawn.number(0, 3)]
    outputs = group * drawn.number(1, 3) if group < 4 else x.channels
    pad = drawn.flip()
    y = drawn.graph.conv(
        x.name,
        x.channels,
        outputs,
        kernel=(3, 3) if pad else (1, 1),
        pads=[int(pad)] * 4,
        group=group,
        bias=drawn.flip(),
    )
    return Image(y, outputs)


def batch_norm(drawn: Drawn, x: Image) -> str:
    kind = drawn.choose("positive", "mixed", "dead")
    y = drawn.graph.batch_norm(x.name, x.channels, positive=kind != "mixed")
    if kind == "dead":
        gamma = drawn.graph.initializers[-4]
        gamma.CopyFrom(numpy_helper.from_array(np.zeros(x.channels), gamma.name))
    return y


def concat(drawn: Drawn, x: Image) -> Image:
    other = drawn.pick()
    return Image(drawn.graph.op("Concat", x.name, other.name, axis=1), x.channels + other.channels)


def split(drawn: Drawn, x: Image) -> Image:
    if x.channels < 2:
        return x
    cut = drawn.number(1, x.channels - 1)
    sizes = drawn.graph.constant(np.array([cut, x.channels - cut]))
    first = drawn.graph.op("Split", x.name, sizes, axis=1, outputs=2)
    drawn.values.append(Image(drawn.graph.nodes[-1].output[1], x.channels - cut))
    return Image(first, cut)


def shuffled(drawn: Drawn, x: Image) -> Image:
    order = drawn.rng.permutation(x.channels)[: drawn.number(1, x.channels)]
    return Image(drawn.graph.op("Gather", x.name, drawn.graph.constant(order), axis=1), len(order))


def flattened_and_back(drawn: Drawn, x: Image) -> str:
    shape = drawn.graph.constant(np.array([0, x.channels, SIZE, SIZE]))
    return drawn.graph.op("Reshape", drawn.graph.op("Flatten", x.name), shape)


def transposed_and_back(drawn: Drawn, x: Image) -> str:
    last = drawn.graph.op("Transpose", x.name, perm=[0, 2, 3, 1])
    y = drawn.graph.op("MatMul", last, drawn.graph.random(x.channels, x.channels, scale=0.5))
    if drawn.flip():
        y = drawn.graph.op("Add", y, drawn.graph.random(x.channels))
    return drawn.graph.op("Transpose", y, perm=[0, 3, 1, 2])


def gemm_per_pixel(drawn: Drawn, x: Image) -> str:
    graph = drawn.graph
    shapes = [graph.constant(np.array(shape)) for shape in ((-1, x.channels), (-1, SIZE, SIZE, x.channels))]
    y = graph.op("Reshape", graph.op("Transpose", x.name, perm=[0, 2, 3, 1]), shapes[0])
    for _ in range(drawn.number(1, 2)):
        operands = [y, graph.random(x.channels, x.channels, scale=0.5)]
        if drawn.flip():
            operands.append(graph.random(*[(), (x.channels,), (1, 1)][drawn.number(0, 2)]))
        alpha, beta = [1.0, 0.5][drawn.number(0, 1)], [1.0, 0.0, 2.0][drawn.number(0, 2)]
        z = graph.op("Gemm", *operands, transB=drawn.number(0, 1), alpha=alpha, beta=beta)
        y = graph.op("Add", y, z) if drawn.flip() else z
    return graph.op("Transpose", graph.op("Reshape", y, shapes[1]), perm=[0, 3, 1, 2])


def transposed_conv(drawn: Drawn, x: Image) -> Image:
    outputs = drawn.number(1, 4)
    operands = [x.name, drawn.graph.random(x.channels, outputs, 3, 3, scale=0.3)]
    if drawn.flip():
        operands.append(drawn.graph.random(outputs))
    return Image(drawn.graph.op("ConvTranspose", *operands, pads=[1] * 4), outputs)


def arithmetic(drawn: Drawn, x: Image) -> str:
    operator = drawn.choose("Add", "Sub", "Mul")
    operands = [x.name, drawn.column(x.channels)]
    if drawn.flip():
        operands.reverse()
    return drawn.graph.op(operator, *operands)


def joined(drawn: Drawn, x: Image) -> str:
    operator = drawn.choose("Add", "Sub", "Mul", "Max", "Min")
    return drawn.graph.op(operator, x.name, drawn.same(x.channels).name)


def pooled(drawn: Drawn, x: Image) -> str:
    operator = drawn.choose("MaxPool", "AveragePool")
    if operator == "MaxPool":
        return drawn.graph.op(operator, x.name, kernel_shape=[3, 3], pads=[1] * 4)
    counted = drawn.number(0, 1)
    return drawn.graph.op(operator, x.name, kernel_shape=[3, 3], pads=[1] * 4, count_include_pad=counted)


def gated(drawn: Drawn, x: Image) -> str:
    gate = drawn.graph.op("Sigmoid", drawn.graph.op("GlobalAveragePool", x.name))
    return drawn.graph.op("Mul", x.name, gate)


def centred(drawn: Drawn, x: Image) -> str:
    return drawn.graph.op("Sub", x.name, drawn.graph.op("ReduceMean", x.name, axes=[2, 3]))


STEPS: dict[str, Callable[[Drawn, Image], Image | str]] = {
    "conv": conv,
    "second conv": conv,
    "third conv": conv,
    "batch norm": batch_norm,
    "second batch norm": batch_norm,
    "third batch norm": batch_norm,
    "concat": concat,
    "split": split,
    "shuffled": shuffled,
    "flattened": flattened_and_back,
    "linear": transposed_and_back,
    "gemm": gemm_per_pixel,
    "transposed conv": transposed_conv,
    "clip": lambda drawn, x: drawn.graph.op(
        "Clip", x.name, drawn.graph.constant(-0.5), drawn.graph.constant(2.0)
    ),
    "prelu": lambda drawn, x: drawn.graph.op("PRelu", x.name, drawn.column(x.channels)),
    "sum": lambda drawn, x: drawn.graph.op("Sum", x.name, drawn.same(x.channels).name, x.name),
    "arithmetic": arithmetic,
    "joined": joined,
    "pooled": pooled,
    "gated": gated,
    "centred": centred,
    "relu": lambda drawn, x: drawn.graph.op("Relu", x.name),
    "activation": lambda drawn, x: drawn.graph.op(
        drawn.choose("Relu", "LeakyRelu", "Abs", "Neg", "Identity", "Tanh"), x.name
    ),
    "instance norm": lambda drawn, x: drawn.graph.op(
        "InstanceNormalization", x.name, drawn.graph.random(x.channels), drawn.graph.random(x.channels)
    ),
    "maximum": lambda drawn, x: drawn.graph.op(drawn.choose("Max", "Min"), x.name, drawn.column(x.channels)),
}


@given(seed=st.integers(0, 2**32), length=st.integers(2, 16), tier=st.integers(0, 3))
@settings(
    max_examples=80, deadline=None, database=None, derandomize=True, suppress_health_check=list(HealthCheck)
)
def test_folding_never_changes_the_function(seed: int, length: int, tier: int) -> None:
    prove(seed, length, tier)


def test_a_wrong_rule_would_be_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """The fuzzer's own plant: shifts go down into convolutions that pad."""
    monkeypatch.setattr(linear, "pads", lambda *_: False)
    assert any(is_wrong(seed, length=12, tier=1) for seed in range(200))


def is_wrong(seed: int, length: int, tier: int) -> bool:
    try:
        prove(seed, length, tier)
    except AssertionError:
        return True
    return False


def prove(seed: int, length: int, tier: int) -> None:
    """Fold the graph of ``seed`` and compare every value that both models name."""
    drawn = Drawn(seed)
    for _ in range(length):
        drawn.step()
    read = {name for node in drawn.graph.nodes for name in node.input}
    ends = [value for value in drawn.values[1:] if value.name not in read]
    for value in dict.fromkeys(ends or drawn.values[-1:]):
        drawn.graph.output(value.name, "N", value.channels, SIZE, SIZE)
    proto = drawn.graph.proto()
    result = fold(ir.from_proto(proto), max_tier=tier)
    after = ir.to_proto(result.model)
    onnx.checker.check_model(after, full_check=True)
    assert [value.name for value in after.graph.output] == [value.name for value in proto.graph.output]
    feeds = feeds_for(proto)
    before_values, after_values = all_values(proto, feeds), all_values(after, feeds)
    # Not only the outputs: whatever has a name in both models must be the same value in both.
    for name in before_values.keys() & after_values.keys():
        expected = before_values[name]
        if np.abs(expected).max() > 1e-6:
            assert distance([after_values[name]], [expected]) < TOLERANCE, name


def all_values(proto: onnx.ModelProto, feeds: dict[str, Array]) -> dict[str, Array]:
    names = [name for node in proto.graph.node for name in node.output]
    return dict(zip(names, ReferenceEvaluator(proto).run(names, feeds), strict=True))
