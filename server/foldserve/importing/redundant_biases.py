"""Biases that a BatchNorm behind them cancels. Imports torch: for training scripts.

    BN(Wx + b):  batch statistics contain b, so they cancel it;  running statistics cancel it with μ' = μ − b

In training mode the two networks walk the same way: the gradient of b is zero, and the running mean, an
average of Wx + b, stays b above the average of Wx. So ``bias=None`` and μ' = μ − b change nothing, neither in
training nor in eval mode, but save the parameter, its optimiser state and an addition.

"Followed by" is read from the graphs that ``torch.export`` captures in training and in eval mode, not from
the order of modules: what forward really does with the value, and with the bias, decides. A graph needs
inputs, and the number of dimensions decides what a Linear's channels are, so examples must be given.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.fx import Node

Layer = nn.modules.conv._ConvNd | nn.Linear

BATCH_NORM = torch.ops.aten.batch_norm.default
LINEAR = torch.ops.aten.linear.default
BIASED = frozenset(
    {
        LINEAR,
        torch.ops.aten.conv1d.default,
        torch.ops.aten.conv1d.padding,
        torch.ops.aten.conv2d.default,
        torch.ops.aten.conv2d.padding,
        torch.ops.aten.conv3d.default,
        torch.ops.aten.conv3d.padding,
        torch.ops.aten.conv_transpose1d.default,
        torch.ops.aten.conv_transpose2d.input,
        torch.ops.aten.conv_transpose3d.input,
    }
)
"""Operators that take (input, weight, bias, …) and add the bias per channel of their output."""


@dataclass(frozen=True)
class BiasFinding:
    """A convolution or Linear with a bias, and what was done about it."""

    layer: str
    """Name of the module."""

    norms: tuple[str, ...]
    """Names of the BatchNorms whose running means absorbed the bias; empty if it stays, or they keep none."""

    reason: str
    """Why the bias stays; empty if it was stripped."""

    @property
    def stripped(self) -> bool:
        """Whether the layer has lost its bias."""
        return not self.reason


def strip_redundant_biases(module: nn.Module, example_inputs: tuple[Any, ...]) -> tuple[BiasFinding, ...]:
    """Set ``bias=None`` on every convolution and Linear whose output only BatchNorms read.

    The function of ``module`` stays the same in training and in eval mode, running statistics included up to
    the bias that they no longer contain. Parameters change, so make the optimiser afterwards.

    Args:
        module: Changed in place; its modes, and everything else in it, are left alone.
        example_inputs: Arguments that ``module`` takes in training mode too, with two rows or more.

    Returns:
        A finding for each convolution and Linear that had a bias, in the order of ``module.named_modules()``.

    Raises:
        torch.export's exceptions: the module cannot be captured as a graph.
    """
    captured = [_Captured(module, example_inputs, training=mode) for mode in (True, False)]
    findings = []
    planned: list[tuple[Layer, Sequence[torch.Tensor]]] = []
    for name, layer in module.named_modules():
        if not isinstance(layer, Layer) or layer.bias is None:
            continue
        try:
            means = _means_that_absorb(layer, captured)
        except _Stays as stays:
            findings.append(BiasFinding(name, (), str(stays)))
        else:
            findings.append(BiasFinding(name, tuple(captured[0].norm_of(mean) for mean in means), ""))
            planned.append((layer, means))
    for layer, absorbing in planned:
        _strip(layer, absorbing)
    return tuple(findings)


class _Stays(Exception):
    """Why a bias stays."""


class _Captured:
    """The graph of a module in one mode, and which of the module's own tensors its nodes are."""

    def __init__(self, module: nn.Module, inputs: tuple[Any, ...], *, training: bool) -> None:
        modes = {part: part.training for part in module.modules()}
        norms = (part for part in modes if isinstance(part, nn.modules.batchnorm._BatchNorm))
        counting = [norm for norm in norms if norm.momentum is None]
        try:
            for norm in counting:  # a factor that depends on a counter cannot be captured, and is no matter
                norm.momentum = 0.1
            program = torch.export.export(module.train(training), inputs)
        finally:
            for norm in counting:
                norm.momentum = None
            for part, mode in modes.items():
                part.training = mode
        self._names: dict[str, torch.Tensor] = dict(module.named_parameters(remove_duplicate=False))
        self._names |= dict(module.named_buffers(remove_duplicate=False))
        placeholders = {node.name: node for node in program.graph.nodes if node.op == "placeholder"}
        self._stored = {
            placeholders[spec.arg.name]: self._names[spec.target]
            for spec in program.graph_signature.input_specs
            if spec.target in self._names
        }

    def readers(self, tensor: torch.Tensor) -> list[tuple[Node, Node]]:
        """Every node that reads ``tensor``, and the node as which it does."""
        return [
            (user, node) for node, stored in self._stored.items() if stored is tensor for user in node.users
        ]

    def tensor(self, node: object) -> torch.Tensor | None:
        """What the module stores under ``node``; None if it is computed."""
        return self._stored.get(node) if isinstance(node, Node) else None

    def norm_of(self, mean: torch.Tensor) -> str:
        """Name of the BatchNorm with this running mean."""
        name = next(name for name, tensor in self._names.items() if tensor is mean)
        return name.removesuffix(".running_mean")


def _means_that_absorb(layer: Layer, captured: Sequence[_Captured]) -> list[torch.Tensor]:
    """The running means that can absorb the bias of ``layer``; raises :class:`_Stays`."""
    bias = layer.bias
    assert bias is not None
    means: dict[int, torch.Tensor] = {}
    called = False
    for graph in captured:
        for call, node in graph.readers(bias):
            called = True
            for norm in _norms_behind(call, node, graph):
                mean = graph.tensor(norm.args[3])
                if norm.args[3] is not None and mean is None:
                    raise _Stays(f"the running mean of {norm.name} is computed")
                if mean is not None and id(mean) not in means:
                    _check_sources(mean, bias, captured)
                    means[id(mean)] = mean
    if not called:
        raise _Stays("it is never called")
    return list(means.values())


def _norms_behind(call: Node, bias: Node, graph: _Captured) -> list[Node]:
    """The calls of batch norm that alone read the output of ``call``, in which the bias is a bias."""
    if call.target not in BIASED or len(call.args) < 3 or call.args[2] is not bias:
        raise _Stays(f"{call.name} reads the bias for something else")
    for reader in call.users:
        if reader.target is not BATCH_NORM or reader.args[0] is not call:
            what = "is an output of the model" if reader.op == "output" else f"is read by {reader.name}"
            raise _Stays(f"the value {call.name} {what}, which sees the bias")
    weight = graph.tensor(call.args[1])
    rank_with_channels_on_axis_1 = 2 if call.target is LINEAR or weight is None else weight.ndim
    if call.meta["val"].ndim != rank_with_channels_on_axis_1:
        raise _Stays(f"the channels of {call.name} are not on axis 1, which a BatchNorm normalises")
    return list(call.users)


def _check_sources(mean: torch.Tensor, bias: torch.Tensor, captured: Sequence[_Captured]) -> None:
    """Make sure that everything that goes into the running ``mean`` contains this bias, and no other."""
    for graph in captured:
        for norm, _ in graph.readers(mean):
            source = norm.args[0]
            if norm.target is not BATCH_NORM:
                raise _Stays(f"{norm.name} reads the running mean of {graph.norm_of(mean)}")
            if not isinstance(source, Node) or source.target not in BIASED:
                raise _Stays(f"{graph.norm_of(mean)} also normalises another value")
            if len(source.args) < 3 or graph.tensor(source.args[2]) is not bias:
                raise _Stays(f"{graph.norm_of(mean)} also normalises the output of another layer")


def _strip(layer: Layer, means: Sequence[torch.Tensor]) -> None:
    assert layer.bias is not None
    with torch.no_grad():
        for mean in means:
            mean.copy_(mean.double() - layer.bias.double())
    layer.bias = None
