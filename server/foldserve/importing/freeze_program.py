"""Batch norms of a ``torch.export`` program as fixed affines. Imports torch: for the child and for training.

In an exported program modules and functional calls are the same: each batch norm is a call that names its
parameters and statistics. The call is replaced by a product and a sum, and γ' and β' take the place of what
it read. Everything else of the program stays as it was exported, its dynamic dimensions included.
"""

import copy
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import nn
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind, InputSpec, TensorArgument
from torch.fx import Node

from foldserve.importing.freeze import affine
from foldserve.importing.torch_program import count_program_batch_norms

BATCH_NORM = torch.ops.aten.batch_norm.default


class FrozenProgram(NamedTuple):
    """A program and what became of its batch norms."""

    program: ExportedProgram

    frozen: int
    """Batch norms that are affines now."""

    kept: int
    """Batch norms without running statistics, or in the body of a branch or a loop."""


def freeze_program(program: ExportedProgram, *, learnable: bool = False) -> FrozenProgram:
    """:func:`~foldserve.importing.freeze.freeze_batchnorm` for an exported program, which is not changed.

    The new program takes and gives the same tensors. Its γ' and β' are called ``<module>.scale`` and
    ``<module>.shift``: parameters if ``learnable``, else buffers.
    """
    freezing = _Freezing(program, learnable)
    calls = [node for node in freezing.graph.nodes if node.target is BATCH_NORM]
    frozen = sum(freezing.replace(call) for call in calls)
    result = freezing.result()
    return FrozenProgram(result, frozen, count_program_batch_norms(result))


@dataclass
class _Freezing:
    """A copy of a program at work."""

    program: ExportedProgram
    learnable: bool
    added: dict[tuple[object, ...], tuple[Node, Node]] = field(default_factory=dict)
    """γ' and β' by what they were computed from: a module that is called twice has one of each."""

    specs: list[InputSpec] = field(default_factory=list)
    state: dict[str, torch.Tensor | nn.Parameter] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.module = copy.deepcopy(self.program.graph_module)
        self.graph = self.module.graph
        for node, original in zip(self.graph.nodes, self.program.graph.nodes, strict=True):
            node.name = original.name  # a copy renames what is called like a builtin; signatures go by name
        self.first: Node = next(iter(self.graph.nodes))
        self.signature = copy.deepcopy(self.program.graph_signature)
        inputs = self.signature.input_specs
        self.targets = {spec.arg.name: spec.target for spec in inputs if spec.target is not None}
        self.stored = {**self.program.constants, **self.program.state_dict}

    def replace(self, call: Node) -> bool:
        """Put the affine of a batch norm in its place; False where it has none."""
        x, *parameters = call.args[:5]
        mean = parameters[2]
        if not isinstance(x, Node) or not isinstance(mean, Node):
            return False
        key = (*parameters, call.args[7], x.meta["val"].ndim, x.meta["val"].dtype)
        if key not in self.added:
            weight, bias, mu, variance = (self._tensor(node) for node in parameters)
            given = zip(parameters[:2], (weight, bias), strict=True)
            computed = any(node is not None and tensor is None for node, tensor in given)
            if mu is None or variance is None or computed or not isinstance(call.args[7], float):
                return False
            self.added[key] = self._operands(x, mean, affine(weight, bias, mu, variance, call.args[7]))
        scale, shift = self.added[key]
        with self.graph.inserting_before(call):
            scaled = self.graph.call_function(torch.ops.aten.mul.Tensor, (x, scale))
            shifted = self.graph.call_function(torch.ops.aten.add.Tensor, (scaled, shift))
        scaled.meta, shifted.meta = call.meta.copy(), call.meta.copy()
        call.replace_all_uses_with(shifted)
        self.signature.replace_all_uses(call.name, shifted.name)
        self.graph.erase_node(call)
        return True

    def result(self) -> ExportedProgram:
        """The new program, without the state that nobody reads any more."""
        read = {node.name for node in self.graph.nodes if node.op == "placeholder" and _is_read(node)}
        dropped: set[str] = set()
        for node in list(self.graph.nodes):
            if node.op == "placeholder" and node.name in self.targets and node.name not in read:
                for count in list(node.users):  # num_batches_tracked is counted up, and read by nobody
                    self.graph.erase_node(count)
                self.graph.erase_node(node)
                dropped.add(node.name)
        remaining = [spec for spec in self.signature.input_specs if spec.arg.name not in dropped]
        self.signature.input_specs = self.specs + remaining
        kept = {spec.target for spec in self.signature.input_specs}
        self.graph.lint()
        self.module.recompile()
        return ExportedProgram(
            root=self.module,
            graph=self.graph,
            graph_signature=self.signature,
            state_dict={
                name: tensor
                for name, tensor in {**self.program.state_dict, **self.state}.items()
                if name in kept
            },
            range_constraints=copy.deepcopy(self.program.range_constraints),
            module_call_graph=copy.deepcopy(self.program.module_call_graph),
            example_inputs=self.program.example_inputs,
            constants={name: value for name, value in self.program.constants.items() if name in kept},
            verifiers=self.program.verifiers,
        )

    def _tensor(self, node: object) -> torch.Tensor | None:
        target = self.targets.get(node.name) if isinstance(node, Node) else None
        return self.stored.get(target) if target is not None else None

    def _operands(
        self, x: Node, mean: Node, scale_and_shift: tuple[torch.Tensor, torch.Tensor]
    ) -> tuple[Node, Node]:
        """γ' and β' as new state of the program, shaped to be broadcast along axis 1 of ``x``."""
        value = x.meta["val"]
        stem = (self.targets[mean.name] or "").removesuffix("running_mean")
        nodes = []
        for name, numbers in zip(("scale", "shift"), scale_and_shift, strict=True):
            target = stem + name
            while target in self.state or target in self.stored:
                target += "_"
            shaped = numbers.to(value.dtype).reshape(-1, *[1] * (value.ndim - 2))
            self.state[target] = nn.Parameter(shaped) if self.learnable else shaped
            with self.graph.inserting_before(self.first):
                node = self.graph.placeholder(f"{'p' if self.learnable else 'b'}_{target.replace('.', '_')}")
            node.meta["val"] = value.fake_mode.from_tensor(self.state[target], static_shapes=True)
            kind = InputKind.PARAMETER if self.learnable else InputKind.BUFFER
            persistent = None if self.learnable else True
            self.specs.append(InputSpec(kind, TensorArgument(node.name), target, persistent))
            nodes.append(node)
        return nodes[0], nodes[1]


def _is_read(placeholder: Node) -> bool:
    """Whether anything but its own counting up uses a stored tensor."""
    return any(user.target is not torch.ops.aten.add_.Tensor or user.users for user in placeholder.users)
