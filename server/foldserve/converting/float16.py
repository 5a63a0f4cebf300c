"""Half precision, as autocast does it: what multiplies goes to float16, what is delicate stays in float32.

Nodes are visited in the order of the graph.

- A convolution or matrix product computes in float16.
- What is as good in float16 (activations, sums of two, pools, movements) follows: it computes in float16
  where all that it reads was computed so, which saves the way there and back.
- Everything else (norms, exponentials, long sums, loops and branches with all that is in them) stays.

A Cast stands wherever a value goes from one to the other; inputs and outputs of the model keep their types. A
constant becomes float16 where its largest element is a normal number there, within 6.1e-5 … 65504: then no
element moves by more than half a unit of float16's 11 bits, relative to the largest. If it is not, its node
stays in float32: nothing becomes infinite, and no epsilon becomes zero. What a *computed* value may reach no
one can tell from the graph; where one overflows, the comparison with the float32 model shows it.
"""

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
from onnx_ir.passes.common import NameFixPass, RemoveUnusedNodesPass

from foldserve.converting.prepare import prepared, weights_bytes
from foldserve.errors import UnsupportedModel

PRODUCTS = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})

FOLLOWERS = frozenset(
    {
        *("Add", "Sub", "Mul", "Relu", "LeakyRelu", "PRelu", "Clip", "Elu", "Selu", "Gelu", "Mish"),
        *("Softplus", "Sigmoid", "HardSigmoid", "HardSwish", "Tanh", "Softmax", "LayerNormalization"),
        *("MaxPool", "AveragePool", "GlobalMaxPool", "GlobalAveragePool", "ReduceMean", "Resize", "Upsample"),
        *("Concat", "Split", "Slice", "Pad", "Reshape", "Flatten", "Transpose", "Squeeze", "Unsqueeze"),
        *("Expand", "DepthToSpace", "SpaceToDepth", "Gather", "Identity", "Dropout", "Where"),
    }
)
"""Runtimes sum the means, softmaxes and norms of float16 values in float32."""

LARGEST_MESSAGE_BYTES = 1_500_000_000
"""Weights above this go to a file of their own: a protobuf message ends at 2 GB."""

_LARGEST = float(np.finfo(np.float16).max)
_SMALLEST_NORMAL = float(np.finfo(np.float16).smallest_normal)


def to_float16(model: Path, destination: Path) -> None:
    """Write ``model`` to ``destination``, computing in float16 what can be.

    Inputs and outputs keep names, types and shapes. Weights of more than 1.5 GB go to ``<destination>.data``.

    Raises:
        UnsupportedModel: it has no float32 convolution or matrix product whose weights float16 can hold, or
            an operator set older than 7.
        InvalidModel: the file is not a readable ONNX model.
        OSError: a file cannot be read or written.
    """
    half = prepared(model)
    if not _Conversion(half).run():
        raise UnsupportedModel(
            f"{model.name}: no convolution or matrix product can compute in float16: there is none in "
            "float32, or its constants are beyond 6.1e-5 … 65504; serve it in float32"
        )
    apart = f"{destination.name}.data" if weights_bytes(half) > LARGEST_MESSAGE_BYTES else None
    ir.save(half, destination, external_data=apart)


class _Conversion:
    """The state of one conversion, in place."""

    def __init__(self, model: ir.Model) -> None:
        self._model = model
        self._opset = model.graph.opset_imports.get("", 0)
        self._halves: dict[ir.Value, ir.Value] = {}
        """The float16 twin of a float32 value."""

    def run(self) -> int:
        """Convert the main graph; the number of convolutions and matrix products that compute in float16."""
        products = 0
        for node in tuple(self._model.graph):
            if self._goes(node):
                self._convert(node)
                products += node.op_type in PRODUCTS
        RemoveUnusedNodesPass()(self._model)
        NameFixPass()(self._model)
        return products

    def _goes(self, node: ir.Node) -> bool:
        known = all(value is None or value.dtype is not None for value in (*node.inputs, *node.outputs))
        if node.domain != "" or node.op_type not in PRODUCTS | FOLLOWERS or not known:
            return False
        operands = self._operands(node).values()
        computed = [value for value in operands if value.const_value is None]
        if node.op_type not in PRODUCTS and not all(value in self._halves for value in computed):
            return False
        return bool(computed) and all(_fits(value) for value in operands if value.const_value is not None)

    def _operands(self, node: ir.Node) -> dict[int, ir.Value]:
        """The float32 inputs of ``node``, by position, that its operator takes as float16, too."""
        schema = self._schema(node)
        return {
            index: value
            for index, value in enumerate(node.inputs)
            if value is not None
            and value.dtype == ir.DataType.FLOAT
            and _takes_half(schema, schema.inputs[min(index, len(schema.inputs) - 1)])
        }

    def _results(self, node: ir.Node) -> list[ir.Value]:
        """The float32 outputs of ``node`` that become float16 with its operands."""
        schema = self._schema(node)
        return [
            value
            for index, value in enumerate(node.outputs)
            if value.dtype == ir.DataType.FLOAT
            and _takes_half(schema, schema.outputs[min(index, len(schema.outputs) - 1)])
        ]

    def _schema(self, node: ir.Node) -> onnx.defs.OpSchema:
        return onnx.defs.get_schema(node.op_type, self._opset, "")

    def _convert(self, node: ir.Node) -> None:
        for index, value in self._operands(node).items():
            if value not in self._halves:
                self._halves[value] = self._half(value, node)
            node.replace_input_with(index, self._halves[value])
        for result in self._results(node):
            self._widen(node, result)

    def _half(self, value: ir.Value, reader: ir.Node) -> ir.Value:
        """A float16 twin of ``value``: a constant, or a Cast in front of ``reader``."""
        if value.const_value is None:
            cast = _cast(value, ir.DataType.FLOAT16)
            cast.outputs[0].name = self._fresh(value)
            reader.prepend(cast)
            return cast.outputs[0]
        tensor = ir.Tensor(value.const_value.numpy().astype(np.float16), name=self._fresh(value))
        kind = ir.TensorType(tensor.dtype)
        half = ir.Value(name=tensor.name, shape=value.shape, type=kind, const_value=tensor)
        self._model.graph.register_initializer(half)
        return half

    def _widen(self, node: ir.Node, result: ir.Value) -> None:
        """Let ``result`` be float16; whoever read it reads what a Cast makes of it, under its name."""
        cast = _cast(result, ir.DataType.FLOAT)
        wide = cast.outputs[0]
        wide.name, result.name = result.name, self._fresh(result)
        result.type = ir.TensorType(ir.DataType.FLOAT16)
        result.replace_all_uses_with(wide, replace_graph_outputs=True)
        cast.replace_input_with(0, result)
        node.append(cast)
        self._halves[wide] = result

    def _fresh(self, value: ir.Value) -> str:
        name = f"{value.name}_float16"
        while name in self._model.graph.initializers:
            name += "_"
        return name


def _takes_half(schema: onnx.defs.OpSchema, formal: onnx.defs.OpSchema.FormalParameter) -> bool:
    """Whether ``formal`` has a type that the operator leaves open, float16 among those it may be."""
    allowed = {one.type_param_str: one.allowed_type_strs for one in schema.type_constraints}
    return "tensor(float16)" in allowed.get(formal.type_str, ())


def _cast(value: ir.Value, to: ir.DataType) -> ir.Node:
    cast = ir.node("Cast", [value], {"to": int(to)})
    cast.outputs[0].shape, cast.outputs[0].type = value.shape, ir.TensorType(to)
    return cast


def _fits(value: ir.Value) -> bool:
    """Whether the largest element of a constant is zero or a normal number of float16."""
    assert value.const_value is not None
    magnitudes = np.abs(value.const_value.numpy())
    largest = magnitudes.max(initial=0, where=np.isfinite(magnitudes))
    return bool(largest == 0 or _SMALLEST_NORMAL <= largest <= _LARGEST)
