"""Small networks with lively BatchNorm statistics, exported with dynamic dimensions, and their answers."""

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx_ir as ir
import torch
from numpy.typing import NDArray
from onnxruntime import GraphOptimizationLevel, InferenceSession, SessionOptions
from torch import nn
from torch.utils import _pytree as pytree

Arrays = list[NDArray[Any]]


class Function(nn.Module):
    """A function as a module; keyword arguments become sub-modules and are passed to it first."""

    def __init__(self, function: Callable[..., Any], *modules: nn.Module) -> None:
        super().__init__()
        self.function = function
        self.parts = nn.ModuleList(modules)

    def forward(self, *inputs: Any) -> Any:
        return self.function(*self.parts, *inputs)


def enliven(module: nn.Module) -> nn.Module:
    """Give every BatchNorm statistics and parameters that a wrong import cannot hide behind; eval mode."""
    torch.manual_seed(7)
    for norm in module.modules():
        if isinstance(norm, nn.modules.batchnorm._NormBase):
            for tensor in (norm.running_mean, norm.weight, norm.bias):
                if tensor is not None:
                    nn.init.normal_(tensor)
            if norm.running_var is not None:
                nn.init.uniform_(norm.running_var, 0.2, 3)
    return module.eval()


def export(module: nn.Module, *inputs: Any, axes: tuple[int, ...] = (0,)) -> torch.export.ExportedProgram:
    """Export ``module`` with the given axes of every input tensor dynamic."""
    dynamic = dict.fromkeys(axes, torch.export.Dim.DYNAMIC)
    shapes = pytree.tree_map(lambda leaf: dynamic if isinstance(leaf, torch.Tensor) else None, inputs)
    return torch.export.export(
        module, inputs, dynamic_shapes=(shapes,) if isinstance(module, Function) else shapes
    )


def torch_answers(module: nn.Module, *inputs: Any) -> Arrays:
    """Every tensor that ``module`` returns."""
    with torch.inference_mode():
        leaves = pytree.tree_leaves(module(*inputs))
    return [leaf.numpy() for leaf in leaves if isinstance(leaf, torch.Tensor)]


def onnx_answers(model: ir.Model, *inputs: Any) -> Arrays:
    """Every output of ``model``, computed as it stands: with graph optimisation ONNX Runtime would fold."""
    options = SessionOptions()
    options.graph_optimization_level = GraphOptimizationLevel.ORT_DISABLE_ALL
    proto = ir.to_proto(model).SerializeToString()
    session = InferenceSession(proto, options, providers=["CPUExecutionProvider"])
    tensors = [leaf.numpy() for leaf in pytree.tree_leaves(inputs) if isinstance(leaf, torch.Tensor)]
    names = [value.name for value in session.get_inputs()]
    return list(session.run(None, dict(zip(names, tensors, strict=True))))


def relative_l2(found: Arrays, expected: Arrays) -> float:
    """The largest ‖found − expected‖ / ‖expected‖ of any output."""
    pairs = zip(found, expected, strict=True)
    wide = [(a.astype(np.float64), b.astype(np.float64)) for a, b in pairs]
    return max(float(np.linalg.norm(a - b) / np.linalg.norm(b)) for a, b in wide)
