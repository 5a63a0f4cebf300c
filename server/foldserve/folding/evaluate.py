"""Which values of a graph are constant, and what they are.

A constant may lie in an initializer, in a Constant node, behind Identity, or at the end of operators that
see only constants: ``1/√(σ²+ε)`` computed in the graph, standardised weights, the ``Expand(CastLike(0,
x), Shape(W))`` of raw exports. All are found when asked for, and computed in float64.

Not constant is what a caller can override (an initializer that is also an input of the graph), and a
quantised weight behind DequantizeLinear: writing it out in float would undo the quantisation.
"""

from math import prod

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from foldserve.folding.constants import FLOATS, Constant
from foldserve.folding.shapes import dims

_LARGEST = 1 << 26
"""Elements; a larger result of constant operators is left for the runtime to compute."""

_NOT_EVALUATED = frozenset(
    {
        "Bernoulli",
        "DequantizeLinear",
        "Dropout",
        "DynamicQuantizeLinear",
        "Multinomial",
        "QuantizeLinear",
        "RandomNormal",
        "RandomNormalLike",
        "RandomUniform",
        "RandomUniformLike",
    }
)


class Constants:
    """The constant values of one model, each read at most once."""

    def __init__(self, opset: int) -> None:
        """``opset`` is the version of the default operator set that the model imports."""
        self.opset = opset
        self._known: dict[ir.Value, Constant | None] = {}

    def of(self, value: ir.Value | None) -> Constant | None:
        """The constant that ``value`` holds; None where it holds none, or one that a caller can override."""
        if value is None:
            return None
        if value not in self._known:
            self._known[value] = self._read(value)
        return self._known[value]

    def operand(self, node: ir.Node, index: int) -> Constant | None:
        """The constant that input ``index`` of ``node`` holds; None where it is missing, too."""
        return self.of(node.inputs[index]) if index < len(node.inputs) else None

    def add(self, value: ir.Value, constant: Constant) -> None:
        """Let ``value`` hold ``constant`` from now on."""
        self._known[value] = constant

    def _read(self, value: ir.Value) -> Constant | None:
        if value.is_graph_input():
            return None
        node = value.producer()
        if node is None or node.domain != "":
            tensor = value.const_value if node is None else None
            return None if tensor is None else Constant(tensor, tensor.dtype)
        if node.op_type == "Constant":
            return _from_constant_node(node)
        if node.op_type == "Identity":
            return self.of(node.inputs[0])
        return self._shape(node) if node.op_type == "Shape" else self._evaluated(node, value)

    def _shape(self, node: ir.Node) -> Constant | None:
        """The shape of a value is constant where it is static, even if the value itself is not."""
        source = node.inputs[0]
        constant = self.of(source)
        sizes = dims(source) if constant is None else constant.shape
        if sizes is None:
            return None
        cut = sizes[node.attributes.get_int("start", 0) : node.attributes.get_int("end", len(sizes))]
        if not all(isinstance(size, int) for size in cut):
            return None
        return Constant(np.array(cut, np.int64), ir.DataType.INT64)

    def _evaluated(self, node: ir.Node, value: ir.Value) -> Constant | None:
        """The result of an operator whose inputs are all constant, in float64."""
        operands = [self._operand(node, index) for index in range(len(node.inputs))]
        known = [operand for operand in operands if operand is not None]
        # A missing operand is fine where the input is optional and not given.
        given = sum(operand is not None for operand in node.inputs)
        if value.index() != 0 or not known or len(known) < given or not _may_evaluate(node):
            return None
        dtype = known[1 if node.op_type == "CastLike" else 0].dtype if value.dtype is None else value.dtype
        result = self._run(node, operands)
        if result is None:
            return None
        return Constant(result.astype(np.float64) if dtype in FLOATS else result, dtype)

    def _operand(self, node: ir.Node, index: int) -> Constant | None:
        operand = node.inputs[index]
        if operand is not None and operand.dtype is not None and node.op_type == "CastLike" and index == 1:
            # Only its element type matters, and that is known of a run-time value too.
            return Constant(np.zeros(1, operand.dtype.numpy()), operand.dtype)
        return self.of(operand)

    def _run(self, node: ir.Node, operands: list[Constant | None]) -> npt.NDArray[np.generic] | None:
        from onnx.reference import ReferenceEvaluator  # noqa: PLC0415  # 12 MB that most models do without

        proto = ir.serde.serialize_node(node)
        names = [f"operand_{index}" if operand else "" for index, operand in enumerate(operands)]
        del proto.input[:], proto.output[1:]
        proto.input.extend(names)
        feeds = {
            name: operand.exact() if operand.is_float else operand.raw()
            for name, operand in zip(names, operands, strict=True)
            if operand is not None
        }
        try:
            # Only the first output is asked for: the others of a BatchNormalization are statistics.
            results = list(ReferenceEvaluator(proto, opsets={"": self._opset_of(node)}).run(None, feeds))
        except Exception:  # The evaluator raises whatever its operator raises: the value is not known.
            return None
        return np.asarray(results[0])

    def _opset_of(self, node: ir.Node) -> int:
        # The evaluator takes every BatchNormalization before operator set 14 for one in training mode.
        return max(self.opset, 15) if node.op_type == "BatchNormalization" else self.opset


def _may_evaluate(node: ir.Node) -> bool:
    bodies = (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS)
    sizes = dims(node.outputs[0])
    return (
        node.op_type not in _NOT_EVALUATED
        and (len(node.outputs) == 1 or "training_mode" in node.attributes)
        and not any(attribute.type in bodies for attribute in node.attributes.values())
        and (sizes is None or prod(size for size in sizes if isinstance(size, int)) <= _LARGEST)
    )


def _from_constant_node(node: ir.Node) -> Constant | None:
    for name, attribute in node.attributes.items():
        if attribute.is_ref():
            return None
        if name == "value":
            return Constant(attribute.as_tensor(), attribute.as_tensor().dtype)
        if name in ("value_float", "value_floats"):
            return Constant(ir.tensor(np.array(attribute.value, np.float32)), ir.DataType.FLOAT)
        if name in ("value_int", "value_ints"):
            return Constant(ir.tensor(np.array(attribute.value, np.int64)), ir.DataType.INT64)
    return None
