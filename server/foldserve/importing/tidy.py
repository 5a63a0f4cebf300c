"""From what torch's exporter writes to the graph its user drew: same function, every BatchNormalization kept.

Asked not to optimise (the only way to keep every BatchNormalization), the exporter leaves three kinds of dirt:

- a convolution without a bias gets one, ``Expand(CastLike(0, x), …)``; for ``Conv3d`` it even has two dimensions,
  which no runtime accepts. Such a bias is removed again;
- shapes, axes and default weights are computed by chains of nodes that end in constants. They are evaluated;
- nodes are called after the operator, not after the module that they came from. A BatchNormalization of the
  module ``layer1.0.bn1`` is called ``layer1.0.bn1/BatchNormalization``.
"""

import ast
import re
from collections.abc import Sequence

import onnx_ir as ir
import onnx_ir.passes.common as passes
from onnxscript import optimizer

BATCH_NORM = "BatchNormalization"


def tidy(model: ir.Model, output_names: Sequence[str]) -> None:
    """Clean an exported model in place and give its outputs, nodes and batch dimension readable names.

    ``output_names`` has one name per graph output, all different.
    """
    passes.InlinePass()(model)
    _remove_made_up_biases(model)
    optimizer.fold_constants(model)
    optimizer.remove_unused_nodes(model)
    passes.OutputFixPass()(model)
    for value, name in zip(model.graph.outputs, output_names, strict=True):
        value.name = name
    _name_nodes_after_modules(model)
    _name_batch_dimension(model)
    passes.ClearMetadataAndDocStringPass()(model)
    passes.NameFixPass()(model)
    for value in _values(model):
        value.metadata_props.clear()


def count_batch_norms(model: ir.Model) -> int:
    """Number of BatchNormalization nodes in the graph, its bodies and its functions."""
    graphs = (model.graph, *model.functions.values())
    nodes = (node for graph in graphs for node in ir.traversal.RecursiveGraphIterator(graph))
    return sum(node.op_type == BATCH_NORM and node.domain == "" for node in nodes)


def _remove_made_up_biases(model: ir.Model) -> None:
    for node in ir.traversal.RecursiveGraphIterator(model.graph):
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


def _name_nodes_after_modules(model: ir.Model) -> None:
    for node in ir.traversal.RecursiveGraphIterator(model.graph):
        # ['', 'layer1', 'layer1.0', 'layer1.0.bn1', 'batch_norm']: modules from the outside in, then the call
        scopes = ast.literal_eval(node.metadata_props.get("pkg.torch.onnx.name_scopes", "[]"))
        module = scopes[-2] if len(scopes) > 1 else ""
        node.name = f"{module}/{node.op_type}" if module else node.op_type


def _name_batch_dimension(model: ir.Model) -> None:
    """Call the symbol that is the first dimension of every input ``batch``, wherever it occurs."""
    symbols = {str(value.shape[0]) for value in model.graph.inputs if value.shape}
    if len(symbols) != 1 or not (symbol := symbols.pop()).isidentifier():
        return
    for value in _values(model):
        if value.shape is not None:
            names = [re.sub(rf"\b{symbol}\b", "batch", str(dim)) for dim in value.shape]
            value.shape = ir.Shape([int(name) if name.isdigit() else name for name in names])


def _values(model: ir.Model) -> list[ir.Value]:
    nodes = ir.traversal.RecursiveGraphIterator(model.graph)
    return [*model.graph.inputs, *model.graph.initializers.values(), *(v for n in nodes for v in n.outputs)]
