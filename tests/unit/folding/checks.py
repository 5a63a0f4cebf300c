"""Building small graphs and proving a fold on them: what every numeric test of this folder shares.

A fold is proven three times. In float64, where a wrong fold cannot hide behind rounding: the graph is
built with doubles, folded, and both are evaluated by onnx's reference evaluator. In float32, as it will
be served: both run in ONNX Runtime with all graph optimisation off. And once planted wrong: one folded
weight is nudged, and the same comparison must then fail.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

import numpy as np
import numpy.typing as npt
import onnx
import onnx_ir as ir
import onnxruntime as ort
from foldserve.folding import FoldResult, fold
from foldserve.folding.report import Outcome
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

FLOAT64_TOLERANCE = 1e-11
FLOAT32_TOLERANCE = 3e-6
NUDGE = 1.01

Array = npt.NDArray[np.generic]
Dims = Sequence[int | str | None]


@dataclass
class Graph:
    """A graph under construction. Floating-point arrays are stored as ``float_type``."""

    opset: int = 17
    float_type: int = TensorProto.DOUBLE
    ir_version: int = 8
    seed: int = 0
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    inputs: list[onnx.ValueInfoProto] = field(default_factory=list)
    outputs: list[onnx.ValueInfoProto] = field(default_factory=list)
    initializers: list[onnx.TensorProto] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.rng = np.random.default_rng(self.seed)
        self._count = 0

    def name(self, stem: str) -> str:
        self._count += 1
        return f"{stem}{self._count}"

    def input(self, *dims: int | str | None, name: str = "x") -> str:
        self.inputs.append(helper.make_tensor_value_info(name, self.float_type, dims))
        return name

    def constant(self, array: npt.ArrayLike, name: str | None = None) -> str:
        values = np.asarray(array)
        name = name or self.name("c")
        self.initializers.append(numpy_helper.from_array(self._cast(values), name))
        return name

    def random(self, *shape: int, scale: float = 1.0) -> str:
        return self.constant(self.rng.normal(size=shape) * scale)

    def op(
        self, operator: str, *inputs: str, outputs: int = 1, name: str | None = None, **attributes: Any
    ) -> str:
        names = [self.name(operator.lower()) for _ in range(outputs)]
        self.nodes.append(
            helper.make_node(operator, inputs, names, name=name or f"node_{names[0]}", **attributes)
        )
        return names[0]

    def output(self, value: str, *dims: int | str | None) -> None:
        kind = self.float_type
        self.outputs.append(
            helper.make_tensor_value_info(value, kind, dims) if dims else onnx.ValueInfoProto(name=value)
        )
        if not dims:
            self.outputs[-1].type.tensor_type.elem_type = kind

    def batch_norm(
        self, x: str, channels: int, *, name: str | None = None, positive: bool = False, **options: Any
    ) -> str:
        """A BatchNormalization with statistics as training leaves them: some scales negative."""
        gamma = self.rng.normal(1.0, 0.5, channels)
        gamma = np.abs(gamma) + 0.1 if positive else gamma
        variance = self.rng.uniform(0.05, 4.0, channels)
        return self.op(
            "BatchNormalization",
            x,
            self.constant(gamma),
            self.constant(self.rng.normal(size=channels)),
            self.constant(self.rng.normal(size=channels)),
            self.constant(variance),
            name=name,
            **options,
        )

    def conv(
        self,
        x: str,
        inputs: int,
        outputs: int,
        *,
        kernel: Sequence[int] = (3, 3),
        bias: bool = True,
        group: int = 1,
        **attributes: Any,
    ) -> str:
        weight = self.random(outputs, inputs // group, *kernel, scale=0.3)
        operands = (x, weight, self.random(outputs)) if bias else (x, weight)
        return self.op("Conv", *operands, group=group, **attributes)

    def proto(self) -> onnx.ModelProto:
        graph = helper.make_graph(self.nodes, "graph", self.inputs, self.outputs, self.initializers)
        return helper.make_model(
            graph, opset_imports=[helper.make_opsetid("", self.opset)], ir_version=self.ir_version
        )

    def model(self) -> ir.Model:
        return ir.from_proto(self.proto())

    def _cast(self, values: Array) -> Array:
        """Doubles in the graph's float type; what was chosen on purpose (integers, float32) as it is."""
        if values.dtype != np.float64:
            return values
        return values.astype(helper.tensor_dtype_to_np_dtype(self.float_type))


def as_float32(proto: onnx.ModelProto) -> onnx.ModelProto:
    """The same model with every double, in tensors, attributes and declared types, made a float."""
    narrow = onnx.ModelProto()
    narrow.CopyFrom(proto)
    _narrow_graph(narrow.graph)
    return narrow


def _narrow_graph(graph: onnx.GraphProto) -> None:
    for tensor in graph.initializer:
        _narrow_tensor(tensor)
    for value in (*graph.input, *graph.output, *graph.value_info):
        if value.type.tensor_type.elem_type == TensorProto.DOUBLE:
            value.type.tensor_type.elem_type = TensorProto.FLOAT
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("t"):
                _narrow_tensor(attribute.t)
            if attribute.HasField("g"):
                _narrow_graph(attribute.g)
            if attribute.name == "to" and attribute.i == TensorProto.DOUBLE:
                attribute.i = TensorProto.FLOAT


def _narrow_tensor(tensor: onnx.TensorProto) -> None:
    if tensor.data_type == TensorProto.DOUBLE:
        tensor.CopyFrom(
            numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float32), tensor.name)
        )


def feeds_for(proto: onnx.ModelProto, *, batch: int = 2, seed: int = 1) -> dict[str, Array]:
    """Random inputs; named dimensions become ``batch``, unknown ones 5."""
    rng = np.random.default_rng(seed)
    constant = {tensor.name for tensor in proto.graph.initializer}
    feeds: dict[str, Array] = {}
    for value in proto.graph.input:
        if value.name in constant:
            continue
        dims = [
            d.dim_value if d.HasField("dim_value") else batch if d.HasField("dim_param") else 5
            for d in value.type.tensor_type.shape.dim
        ]
        kind = helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type)
        feeds[value.name] = np.asarray(rng.normal(size=dims), np.float64).astype(kind)
    return feeds


def run_reference(proto: onnx.ModelProto, feeds: Mapping[str, Array]) -> list[Array]:
    """Evaluate by onnx's reference evaluator, in the model's own types."""
    return [np.asarray(result) for result in ReferenceEvaluator(proto).run(None, dict(feeds))]


def run_unoptimised(proto: onnx.ModelProto, feeds: Mapping[str, Array]) -> list[Array]:
    """Evaluate in ONNX Runtime with all graph optimisation off."""
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    session = ort.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return [np.asarray(result) for result in session.run(None, feeds)]


def distance(ours: list[Array], theirs: list[Array]) -> float:
    """Largest relative L2 distance of any output; infinite where one side alone is not finite."""
    assert [a.shape for a in ours] == [b.shape for b in theirs]
    worst = 0.0
    for a, b in zip(ours, theirs, strict=True):
        x, y = a.astype(np.float64), b.astype(np.float64)
        if not (np.isfinite(x) == np.isfinite(y)).all():
            return np.inf
        worst = max(worst, float(np.linalg.norm(x - y)) / max(float(np.linalg.norm(y)), 1e-300))
    return worst


def folded_sites(result: FoldResult) -> int:
    return sum(site.outcome is Outcome.FOLDED for site in result.report.sites)


def assert_exact(
    graph: Graph,
    *,
    folded: int,
    batch_norms_left: int = 0,
    max_tier: int = 1,
    planted: bool = True,
    float32: bool = True,
) -> FoldResult:
    """Fold, prove it, and return the float64 result. ``folded`` sites must have vanished."""
    proto = graph.proto()
    result = _folded_and_checked(proto, max_tier)
    assert folded_sites(result) == folded, [site.detail for site in result.report.sites]
    assert result.report.operators_after.get("BatchNormalization", 0) == batch_norms_left
    after = ir.to_proto(result.model)
    for batch in (1, 3):
        feeds = feeds_for(proto, batch=batch)
        expected = run_reference(proto, feeds)
        assert distance(run_reference(after, feeds), expected) < FLOAT64_TOLERANCE
    if planted and folded:
        assert distance(run_reference(_planted(result), feeds), expected) > FLOAT64_TOLERANCE
    if float32:
        _assert_float32(as_float32(proto), max_tier, folded, planted=planted)
    return result


def assert_exact_float32(graph: Graph, *, folded: int, max_tier: int = 1) -> FoldResult:
    """The float32 part alone, for operators that the reference evaluator has not, or not right."""
    result = _assert_float32(graph.proto(), max_tier, folded, planted=True)
    assert folded_sites(result) == folded, [site.detail for site in result.report.sites]
    return result


def _assert_float32(proto: onnx.ModelProto, max_tier: int, folded: int, *, planted: bool) -> FoldResult:
    result = _folded_and_checked(proto, max_tier)
    feeds = feeds_for(proto)
    expected = run_unoptimised(proto, feeds)
    assert distance(run_unoptimised(ir.to_proto(result.model), feeds), expected) < FLOAT32_TOLERANCE
    if planted and folded:
        assert distance(run_unoptimised(_planted(result), feeds), expected) > FLOAT32_TOLERANCE
    return result


def _folded_and_checked(proto: onnx.ModelProto, max_tier: int) -> FoldResult:
    model = ir.from_proto(proto)
    before = proto.SerializeToString(deterministic=True)
    result = fold(model, max_tier=max_tier)
    assert ir.to_proto(model).SerializeToString(deterministic=True) == ir.to_proto(
        ir.from_proto(proto)
    ).SerializeToString(deterministic=True)
    assert proto.SerializeToString(deterministic=True) == before
    after = ir.to_proto(result.model)
    onnx.checker.check_model(after, full_check=True)
    assert [value.name for value in after.graph.input] == [value.name for value in proto.graph.input]
    assert [value.name for value in after.graph.output] == [value.name for value in proto.graph.output]
    return result


def _planted(result: FoldResult) -> onnx.ModelProto:
    """The folded model with one rewritten constant nudged: a fold that is a little wrong."""
    proto = ir.to_proto(result.model)
    absorbers = {name for site in result.report.sites for name in site.absorbed_by}
    by_name = {tensor.name: tensor for tensor in proto.graph.initializer}
    for node in _all_nodes(proto.graph):
        if node.name not in absorbers:
            continue
        for operand in reversed(node.input):
            if operand in by_name:
                values = numpy_helper.to_array(by_name[operand])
                if values.dtype.kind != "f" or not values.any():
                    continue
                by_name[operand].CopyFrom(numpy_helper.from_array(values * values.dtype.type(NUDGE), operand))
                return proto
    raise AssertionError("no absorbing node has a constant to nudge")


def _all_nodes(graph: onnx.GraphProto) -> list[onnx.NodeProto]:
    bodies = [attribute.g for node in graph.node for attribute in node.attribute if attribute.HasField("g")]
    return [*graph.node, *(node for body in bodies for node in _all_nodes(body))]
