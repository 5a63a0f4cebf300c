"""Taps: outputs beside a model's own that show what its BatchNorms read.

For every BatchNormalization y = γz + β, z = (x − μ) / √(σ² + ε), of the main graph whose statistics are
constants:

    y → Flatten to [images · channels, space] → ReduceMean                  → mean of y
                                              → ReduceSumSquare ÷ its size  → mean of y²

y is there already, and centred: μ is taken away before anything is squared, so that no variance drowns in the
rounding of x². What is known of y tells of z as long as γ is not small beside β, nor 0. Where it is in some
channel, z is computed for its own sake:

    x → Cast to float32 → BatchNormalization(γ = 1, β = 0, μ, σ², ε) → z

which costs memory and time. Flattened, values of any rank look the same.
"""

from dataclasses import dataclass, replace
from itertools import count

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray
from onnx_ir.passes.common import InlinePass

from foldserve.parity.statistics import Channels, Statistics, tap_names

EPSILON = float(np.float32(1e-5))
"""The default of the attribute, which ONNX stores as a float32."""

AXES_ARE_AN_INPUT = 18
"""The first operator set in which reductions take their axes as an input."""

FLOAT = int(ir.DataType.FLOAT)

SCALE, SHIFT, MEAN, VARIANCE = 1, 2, 3, 4
"""Which inputs of a BatchNormalization hold γ, β and the statistics."""

SMALLEST_SCALE = 1e-12
"""|γ| from which on y tells of z: the squares of smaller numbers vanish in float32."""

LARGEST_SHIFT = 8.0
"""|β| / |γ| up to which y tells of z: its square multiplies the rounding of float32 sums."""


@dataclass(frozen=True, eq=False)
class BatchNorm:
    """A BatchNormalization with constant statistics, [channels] each."""

    node: ir.Node
    name: str
    scale: Channels | None
    """γ; None if it is not constant."""

    shift: Channels | None
    """β; None if it is not constant."""

    mean: Channels
    variance: Channels
    epsilon: float

    def output_tells(self) -> tuple[Channels, Channels] | None:
        """γ and β, if what is known of y tells of z in every channel."""
        is_exact = self.node.outputs[0].dtype in (ir.DataType.FLOAT, ir.DataType.DOUBLE)
        if self.scale is None or self.shift is None or not is_exact:
            return None
        size = np.abs(self.scale)
        tells = (size >= SMALLEST_SCALE) & (np.abs(self.shift) <= LARGEST_SHIFT * size)
        return (self.scale, self.shift) if tells.all() else None


def tapped(model: ir.Model) -> tuple[ir.Model, Statistics] | None:
    """A copy of ``model`` (weights are shared) with the taps as further outputs, and what scoring them needs.

    None for a model without a BatchNormalization that has constant statistics for each channel: one that was
    exported without, or normalises by the batch. Those in the bodies of If and Loop are left alone.
    """
    copy = inlined(model)
    norms = batch_norms(copy)
    if not norms:
        return None
    for index, norm in enumerate(norms):
        _tap(copy.graph, norm, index)
    affine = [norm.output_tells() or (np.ones_like(norm.mean), np.zeros_like(norm.mean)) for norm in norms]
    statistics = Statistics(
        tuple(norm.name for norm in norms),
        tuple(norm.mean.size for norm in norms),
        scale=np.concatenate([scale for scale, _ in affine]),
        shift=np.concatenate([shift for _, shift in affine]),
        mean=np.concatenate([norm.mean for norm in norms]),
        variance=np.concatenate([norm.variance for norm in norms]),
        epsilon=np.concatenate([np.full(norm.mean.size, norm.epsilon) for norm in norms]),
    )
    return copy, statistics


def inlined(model: ir.Model) -> ir.Model:
    """A copy that shares the tensors of ``model`` and whose nodes are all in its graphs."""
    copy = model.clone()
    if copy.functions:
        InlinePass()(copy)
    return copy


def batch_norms(model: ir.Model) -> list[BatchNorm]:
    """The BatchNormalizations of the main graph with constant statistics, in its order; names are unique."""
    found: dict[str, BatchNorm] = {}
    for node in model.graph:
        norm = _batch_norm(node)
        if norm is not None:
            name = norm.name if norm.name not in found else f"{norm.name} ({node.outputs[0].name})"
            found[name] = replace(norm, name=name)
    return list(found.values())


def constant(value: ir.Value | None) -> ir.TensorProtocol | None:
    """The tensor that ``value`` holds; None for what is computed, or a caller can override."""
    while value is not None and (producer := value.producer()) is not None and producer.op_type == "Identity":
        value = producer.inputs[0]
    if value is None or value.is_graph_input():
        return None
    return ir.convenience.get_const_tensor(value)


def _batch_norm(node: ir.Node) -> BatchNorm | None:
    if (node.domain, node.op_type) != ("", "BatchNormalization"):
        return None
    x = node.inputs[0]
    if x is None or constant(x) is not None or (x.shape is not None and len(x.shape) < 2):
        return None  # a weight that is normalised, or a vector without channels
    # Training mode is an attribute from operator set 14 on, and before it more than one output.
    if node.attributes.get_int("training_mode", 0) or any(output.name for output in node.outputs[1:]):
        return None
    mean, variance = _vector(node.inputs[MEAN]), _vector(node.inputs[VARIANCE])
    if mean is None or variance is None:
        return None
    name = node.name or node.outputs[0].name or ""
    return BatchNorm(
        node,
        name,
        _vector(node.inputs[SCALE]),
        _vector(node.inputs[SHIFT]),
        mean,
        variance,
        node.attributes.get_float("epsilon", EPSILON),
    )


def _vector(value: ir.Value | None) -> Channels | None:
    """A constant with one number for each channel: ``spatial=0`` (operator sets 7 and 8) has more."""
    tensor = constant(value)
    if tensor is None or len(tensor.shape) != 1:
        return None
    return tensor.numpy().astype(np.float64)


def _tap(graph: ir.Graph, norm: BatchNorm, index: int) -> None:
    """Add the taps of one BatchNorm behind it, and their results to the graph's outputs."""
    names = (f"foldserve.batch_norm.{index}.{number}" for number in count())
    nodes: list[ir.Node] = []

    def operator(kind: str, inputs: list[ir.Value], **attributes: int | float | list[int]) -> ir.Value:
        node = ir.node(kind, inputs, attributes, name=next(names))
        node.outputs[0].name = node.name
        nodes.append(node)
        return node.outputs[0]

    def tensor(array: NDArray[np.generic]) -> ir.Value:
        name = next(names)
        value = ir.val(name, const_value=ir.tensor(array, name=name))
        graph.register_initializer(value)
        return value

    def reduced(kind: str, rows: ir.Value) -> ir.Value:
        if graph.opset_imports[""] >= AXES_ARE_AN_INPUT:
            return operator(kind, [rows, tensor(np.array([1], np.int64))], keepdims=0)
        return operator(kind, [rows], axes=[1], keepdims=0)

    def in_float32(value: ir.Value) -> ir.Value:
        return value if value.dtype is ir.DataType.FLOAT else operator("Cast", [value], to=FLOAT)

    y = norm.node.outputs[0]
    if norm.output_tells() is None:
        x = norm.node.inputs[0]
        assert x is not None
        ones = np.ones(norm.mean.size, np.float32)
        statistics = (ones, 0 * ones, norm.mean.astype(np.float32), norm.variance.astype(np.float32))
        y = operator("BatchNormalization", [in_float32(x), *map(tensor, statistics)], epsilon=norm.epsilon)
    else:
        y = in_float32(y)
    rows = operator("Flatten", [y], axis=2)
    size = operator("Gather", [operator("Shape", [rows]), tensor(np.array(1, np.int64))])
    results = (
        reduced("ReduceMean", rows),
        operator("Div", [reduced("ReduceSumSquare", rows), operator("Cast", [size], to=FLOAT)]),
    )
    for result, name in zip(results, tap_names(index), strict=True):
        result.name = name
        result.type, result.shape = ir.TensorType(ir.DataType.FLOAT), ir.Shape([None])
    graph.outputs.extend(results)
    graph.insert_after(norm.node, nodes)
