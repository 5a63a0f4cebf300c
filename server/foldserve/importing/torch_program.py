"""A ``torch.export`` program as an ONNX model. Imports torch: only for the child process and for training.

``torch.onnx.export(..., dynamo=True)`` folds BatchNorm silently; with ``optimize=False`` it keeps them all.
"""

import re
from collections.abc import Iterator
from typing import Any, NamedTuple

import onnx_ir as ir
import torch
from torch._ops import OpOverload
from torch.export import ExportedProgram
from torch.export.graph_signature import ConstantArgument
from torch.utils import _pytree as pytree

from foldserve.errors import ImportFailed
from foldserve.importing.tidy import count_batch_norms, tidy

OPSET = 18
"""The operator set of torch's own translations; runtimes lack GPU kernels for operators of later ones."""

BFLOAT16_OPSET = 22
"""The first operator set whose convolutions and pools take bfloat16."""


def to_onnx(program: ExportedProgram) -> ir.Model:
    """Translate ``program`` into an ONNX model with all its BatchNorms, dynamic dimensions and input names.

    Outputs are called ``output`` (a single tensor), ``output_0``, ``output_1``, … (a tuple) or by their
    dictionary keys; the keys of nested outputs are joined with ``_``.

    Raises:
        ImportFailed: the program is in training mode or changes its buffers, or a BatchNorm got lost.
        torch.onnx.errors.OnnxExporterError: an operator has no ONNX counterpart.
    """
    _refuse_training_mode(program)
    opset = BFLOAT16_OPSET if _holds_bfloat16(program) else OPSET
    exported = torch.onnx.export(program, (), dynamo=True, optimize=False, verbose=False, opset_version=opset)
    assert exported is not None  # None is what the exporter before dynamo returns
    assert exported.exported_program is not None
    _refuse_state(exported.exported_program)
    model = exported.model
    expected, found = count_program_batch_norms(program), count_batch_norms(model)
    if found != expected:
        raise ImportFailed(
            f"the program has {expected} batch norms, the ONNX model that torch wrote has {found}. "
            "Please report this with the program"
        )
    tidy(model, _output_names(program))
    return model


def count_program_batch_norms(program: ExportedProgram) -> int:
    """Number of batch norm calls in the program, its sub-graphs included."""
    return sum(_is_batch_norm(call) for call in _calls(program))


class _Call(NamedTuple):
    """A call of a torch operator."""

    node: str
    operator: str  # as in aten::batch_norm
    arguments: dict[str, Any]


def _calls(program: ExportedProgram) -> Iterator[_Call]:
    for module in program.graph_module.modules():
        for node in module.graph.nodes if isinstance(module, torch.fx.GraphModule) else ():
            if isinstance(node.target, OpOverload):
                defaults = {p.name: p.default_value for p in node.target._schema.arguments}
                given = dict(zip(defaults, node.args, strict=False))  # a call may leave out the last ones
                yield _Call(node.name, node.target._schema.name, defaults | given | node.kwargs)


def _is_batch_norm(call: _Call) -> bool:
    # instance norm with running statistics is the same function, and torch decomposes it into a batch norm
    return "batch_norm" in call.operator or (
        call.operator == "aten::instance_norm" and not call.arguments["use_input_stats"]
    )


def _refuse_training_mode(program: ExportedProgram) -> None:
    for call in _calls(program):
        # without running statistics a batch norm uses the batch's own in eval mode too: that is its function
        tracked = call.arguments.get("running_mean") is not None
        if _is_batch_norm(call) and call.arguments.get("training") and tracked:
            why = "its answers would depend on what else is in the batch"
        elif "dropout" in call.operator and call.arguments.get("train"):
            why = "its answers would be random"
        else:
            continue
        raise ImportFailed(
            f"{call.node} ({call.operator}) is in training mode: {why}. "
            "Call model.eval() before torch.export.export and save the program again"
        )


def _refuse_state(decomposed: ExportedProgram) -> None:
    if changed := sorted(decomposed.graph_signature.buffers_to_mutate.values()):
        raise ImportFailed(
            f"the model changes its buffers as it runs ({', '.join(changed)}); ONNX would lose the changes. "
            "Make them inputs and outputs of the model, or remove them, and export it again"
        )


def _holds_bfloat16(program: ExportedProgram) -> bool:
    return any(tensor.dtype == torch.bfloat16 for tensor in program.state_dict.values())


def _output_names(program: ExportedProgram) -> list[str]:
    """One name for each output that is a tensor, from its place in what the module returns."""
    tree = program.call_spec.out_spec
    assert tree is not None
    paths, _ = pytree.tree_flatten_with_path(pytree.tree_unflatten(range(tree.num_leaves), tree))
    outputs = [spec for spec in program.graph_signature.output_specs if spec.kind.name == "USER_OUTPUT"]
    names: list[str] = []
    for (path, _), output in zip(paths, outputs, strict=True):
        if isinstance(output.arg, ConstantArgument):
            continue  # None: not a tensor, so not in the ONNX model
        name = "_".join(re.sub(r"\W+", "_", str(key)).strip("_") for key in path)
        if not name or name[0].isdigit():
            name = f"output_{name}".rstrip("_")
        while name in names or name in program.graph_signature.user_inputs:
            name += "_output"
        names.append(name)
    return names
