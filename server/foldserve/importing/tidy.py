"""From what torch's exporter writes to the graph that was meant, every BatchNormalization kept.

Asked not to optimise, the only way to keep every BatchNormalization, the exporter leaves some dirt:

- a convolution without a bias gets one, ``Expand(CastLike(0, x), …)``, which for ``Conv3d`` even has two
  dimensions and is refused by runtimes. It is removed again;
- shapes, axes and default weights are computed by nodes from constants. They are evaluated;
- a reshape with a dynamic batch computes its target from the batch size, where ``-1`` says the same;
- nodes are called after operators, not after the modules that they came from. The BatchNormalization of
  ``layer1.0.bn1`` is called ``layer1.0.bn1/BatchNormalization``;
- the batch dimension is called ``s77`` or the like. It is called ``batch``.
"""

import ast
import re
from collections.abc import Iterator, Sequence

import numpy as np
import onnx_ir as ir
import onnx_ir.passes.common as passes
from onnxscript import optimizer

LARGEST_CONSTANT = 1 << 26
"""Elements that an evaluated constant may have; a larger one stays the node that computes it."""

_NO_MODULE = (
    "_empty_nn_module_stack_from_metadata_hook"  # torch's name for the module of nodes that it made itself
)


def tidy(model: ir.Model, output_names: Sequence[str]) -> None:
    """Clean an exported model in place; its outputs get ``output_names``, one for each, all different."""
    inputs = [(value, value.name) for value in model.graph.inputs]
    passes.InlinePass()(model)
    _remove_made_up_biases(model)
    _make_reshapes_constant(model)
    optimizer.fold_constants(model, input_size_limit=LARGEST_CONSTANT, output_size_limit=LARGEST_CONSTANT)
    passes.OutputFixPass()(model)  # inputs and twice used values cannot be outputs
    optimizer.remove_unused_nodes(model)
    for value, name in (*inputs, *zip(model.graph.outputs, output_names, strict=True)):
        value.name = name
    _name_nodes_after_modules(model)
    _name_batch_dimension(model)
    _remove_metadata(model)
    passes.NameFixPass()(model)


def count_batch_norms(model: ir.Model) -> int:
    """Number of BatchNormalization nodes in the graph, its bodies and its functions."""
    graphs: list[ir.Graph | ir.Function] = [model.graph, *model.functions.values()]
    nodes = (node for graph in graphs for node in _nodes(graph))
    return sum(node.op_type == "BatchNormalization" and node.domain == "" for node in nodes)


def _nodes(graph: ir.Graph | ir.Function) -> Iterator[ir.Node]:
    return iter(ir.traversal.RecursiveGraphIterator(graph))


def _values(model: ir.Model) -> Iterator[ir.Value]:
    yield from (*model.graph.inputs, *model.graph.initializers.values())
    for node in _nodes(model.graph):
        yield from node.outputs


def _remove_made_up_biases(model: ir.Model) -> None:
    for node in _nodes(model.graph):
        if node.op_type == "Conv" and len(node.inputs) == 3 and _is_expanded_zero(node.inputs[2]):
            node.resize_inputs(2)


def _is_expanded_zero(value: ir.Value | None) -> bool:
    for op_type in ("Expand", "CastLike"):
        producer = value.producer() if value is not None else None
        if producer is None or producer.op_type != op_type:
            return False
        value = producer.inputs[0]
    constant = ir.convenience.get_const_tensor(value) if value is not None else None
    return constant is not None and not constant.numpy().any()


def _make_reshapes_constant(model: ir.Model) -> None:
    """Give every reshape that has a single dynamic dimension a constant target, with -1 in its place.

    Exact: the number of elements and the other dimensions, none of them zero, leave one value for it.
    """
    for node in list(_nodes(model.graph)):
        shape = node.outputs[0].shape if node.op_type == "Reshape" and node.domain == "" else None
        if shape is None:
            continue
        target = [dim if isinstance(dim, int) else -1 for dim in shape]
        if target.count(-1) == 1 and 0 not in target:
            constant = ir.node("Constant", [], {"value": ir.tensor(np.array(target, np.int64))})
            node.prepend(constant)
            node.replace_input_with(1, constant.outputs[0])


def _name_nodes_after_modules(model: ir.Model) -> None:
    for node in _nodes(model.graph):
        # ['', 'layer1', 'layer1.0', 'layer1.0.bn1', 'batch_norm']: modules from the outside in, then the call
        scopes = ast.literal_eval(node.metadata_props.get("pkg.torch.onnx.name_scopes", "[]"))
        module = scopes[-2] if len(scopes) > 1 and scopes[-2] != _NO_MODULE else ""
        node.name = f"{module}/{node.op_type}" if module else node.op_type


def _name_batch_dimension(model: ir.Model) -> None:
    """Call the symbol that is the first dimension of every input ``batch``, wherever it occurs."""
    symbols = {value.shape[0] for value in model.graph.inputs if value.shape}
    symbol = symbols.pop() if len(symbols) == 1 else None
    if not isinstance(symbol, ir.SymbolicDim) or symbol.value is None or not symbol.value.isidentifier():
        return
    word = re.compile(rf"\b{symbol.value}\b")
    for value in _values(model):
        for axis, dim in enumerate(value.shape or ()):
            if isinstance(dim, ir.SymbolicDim) and dim.value is not None and value.shape is not None:
                value.shape[axis] = word.sub("batch", dim.value)


def _remove_metadata(model: ir.Model) -> None:
    """Drop the exporter's notes: source lines and paths of the machine where the program was written."""
    passes.ClearMetadataAndDocStringPass()(model)
    for value in _values(model):
        value.metadata_props.clear()
