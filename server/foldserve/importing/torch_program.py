"""A ``torch.export`` program as an ONNX model. Imports torch: only for the import's child process and for training.

``torch.onnx.export(..., dynamo=True)`` folds BatchNorm silently by default; ``optimize=False`` keeps all of them.
"""

import re
from collections.abc import Iterator
from typing import Any

import onnx_ir as ir
import torch
from torch._ops import OpOverload
from torch.export import ExportedProgram
from torch.export.graph_signature import ConstantArgument
from torch.utils import _pytree as pytree

from foldserve.errors import ImportFailed
from foldserve.importing.tidy import count_batch_norms, tidy


def to_onnx(program: ExportedProgram) -> ir.Model:
    """Translate ``program`` into an ONNX model with all its BatchNorms, dynamic dimensions and input names.

    Outputs are called ``output`` (a single tensor), ``output_0``, ``output_1``, … (a tuple) or by their
    dictionary keys; the keys of nested outputs are joined with ``_``.

    Raises:
        ImportFailed: the program was exported in training mode, or a BatchNorm got lost on the way.
        torch.onnx.errors.OnnxExporterError: an operator has no ONNX counterpart.
    """
    _refuse_training_mode(program)
    exported = torch.onnx.export(program, (), dynamo=True, optimize=False, verbose=False)
    assert exported is not None  # None belongs to the exporter before dynamo
    model = exported.model
    expected, found = count_program_batch_norms(program), count_batch_norms(model)
    if found != expected:
        raise ImportFailed(f"the program has {expected} batch norms, but the ONNX model written from it {found}")
    tidy(model, _output_names(program))
    return model


def count_program_batch_norms(program: ExportedProgram) -> int:
    """Number of batch norm calls in the program, its sub-graphs included."""
    return sum("batch_norm" in node.target.name() for node in _operators(program))


def _operators(program: ExportedProgram) -> Iterator[torch.fx.Node]:
    for module in program.graph_module.modules():
        if isinstance(module, torch.fx.GraphModule):
            yield from (n for n in module.graph.nodes if isinstance(n.target, OpOverload))


def _argument(node: torch.fx.Node, name: str) -> Any:
    """The value that ``node`` passes for the operator's parameter ``name``; None if it has no such parameter."""
    for position, parameter in enumerate(node.target._schema.arguments):
        if parameter.name == name:
            given = node.args[position] if position < len(node.args) else parameter.default_value
            return node.kwargs.get(name, given)
    return None


def _refuse_training_mode(program: ExportedProgram) -> None:
    for node in _operators(program):
        operator = node.target.name()
        # without running statistics a batch norm uses the batch's own in eval mode too: that is the model's function
        if "batch_norm" in operator and _argument(node, "training") and _argument(node, "running_mean") is not None:
            why = "its answers would depend on what else is in the batch"
        elif operator == "aten::dropout" and _argument(node, "train"):
            why = "its answers would be random"
        else:
            continue
        raise ImportFailed(
            f"{node.name} ({operator}) is in training mode: {why}. "
            "Call model.eval() before torch.export.export and save the program again"
        )


def _output_names(program: ExportedProgram) -> list[str]:
    """One name for each output that is a tensor, from its place in what the module returns."""
    tree = program.call_spec.out_spec
    paths, _ = pytree.tree_flatten_with_path(pytree.tree_unflatten(range(tree.num_leaves), tree))
    outputs = [spec for spec in program.graph_signature.output_specs if spec.kind.name == "USER_OUTPUT"]
    taken = set(program.graph_signature.user_inputs)
    names = []
    for (path, _), output in zip(paths, outputs, strict=True):
        if isinstance(output.arg, ConstantArgument):
            continue  # a number or None that the module returns: not a tensor, so not in the ONNX model
        name = "_".join(re.sub(r"\W+", "_", str(key)).strip("_") for key in path)
        if not name or name[0].isdigit():
            name = f"output_{name}".rstrip("_")
        while name in taken:
            name += "_output"
        taken.add(name)
        names.append(name)
    return names
