"""Steps: what one operator does when a value beside it is re-parametrised.

A value v may be held as v' instead (see :class:`~foldserve.folding.affine.Reparametrisation`) if every
operator that touches it plays along. Two tables say how:

- ``UP``: the operator's output v is to become v' = affine(v). The rule answers with new constants (the
  operator absorbs the affine), or with what its inputs must become (it passes the affine on), or both.
- ``DOWN``: an input of the operator arrives as v' where v = affine(v'). The rule answers with new constants,
  or with how its outputs are to be read (they become v' of their own), or both.

A rule knows one operator and nothing of the rest of the graph. It gets a :class:`Front` and changes
nothing: its answer is a :class:`Step`, or a :class:`Refusal` with a reason, or several steps to try in
this order.

An operator without an entry carries nothing. To teach folding a new operator, write one function in the
module of its family, register it with ``@carry_up("Name")`` or ``@carry_down("Name")``, and test it.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

import onnx_ir as ir

from foldserve.folding.affine import Affine, Array
from foldserve.folding.constants import Constant
from foldserve.folding.report import Reason


@dataclass(frozen=True)
class Refusal:
    """Why an affine cannot go this way."""

    reason: Reason
    detail: str
    """One sentence that names the node."""


@dataclass(frozen=True)
class Step:
    """What one operator does about a re-parametrised value; with nothing in it, nothing needs to be done."""

    inputs: Mapping[int, Affine] = field(default_factory=dict)
    """What inputs must become, by index: v' = affine(v)."""

    outputs: Mapping[int, Affine] = field(default_factory=dict)
    """How outputs are to be read from now on, by index: v = affine(v')."""

    constants: Mapping[int, Constant | None] = field(default_factory=dict)
    """New constant operands, by input index; None removes an optional one."""

    operator: str | None = None
    """The operator that takes the node's place, where another one is needed."""

    attributes: Mapping[str, float | int] = field(default_factory=dict)
    """New values of attributes."""

    appended_shift: Array | None = None
    """A shift that the operator has no operand for: an Add of it must follow. Broadcasts against output 0."""

    tier: int | None = None
    """The least tier that allows it; None for 1 where it passes something on, 0 where it absorbs all."""

    @property
    def carries(self) -> bool:
        """Whether it passes something on to values beside it."""
        return bool(self.inputs or self.outputs)

    @property
    def is_empty(self) -> bool:
        """Whether the operator need not do anything."""
        return not (self.carries or self.constants) and self.appended_shift is None

    @property
    def least_tier(self) -> int:
        """The least tier that allows it."""
        return self.tier if self.tier is not None else int(self.carries)


Answer = Step | Refusal | tuple[Step, ...]


class View(Protocol):
    """What a rule may look at: operands and attributes, as they stand after the steps taken so far."""

    @property
    def opset(self) -> int:
        """Version of the default operator set."""

    def constant(self, node: ir.Node, index: int) -> Constant | None:
        """The constant operand at ``index``; None where there is none, or where it is not constant."""

    def has_input(self, node: ir.Node, index: int) -> bool:
        """Whether the optional input ``index`` is given."""

    def number(self, node: ir.Node, attribute: str, default: float) -> float:
        """The value of a floating-point attribute."""


@dataclass(frozen=True)
class Front:
    """An affine that has arrived at an operator: all that a rule is given."""

    node: ir.Node
    index: int
    """Of the output (going up) or input (coming down) that it concerns."""

    affine: Affine
    view: View

    @property
    def opset(self) -> int:
        """Version of the default operator set."""
        return self.view.opset

    def constant(self, index: int) -> Constant | None:
        """The constant operand at ``index``; None where there is none, or where it is not constant."""
        return self.view.constant(self.node, index)

    def has_input(self, index: int) -> bool:
        """Whether the optional input ``index`` is given."""
        return self.view.has_input(self.node, index)

    def number(self, attribute: str, default: float) -> float:
        """The value of a floating-point attribute."""
        return self.view.number(self.node, attribute, default)

    def is_computed(self, index: int) -> bool:
        """Whether the input ``index`` is given, but is not constant."""
        return self.has_input(index) and self.constant(index) is None

    def integers(self, attribute: str, index: int) -> tuple[int, ...] | None:
        """A list of integers that older operator sets keep in an attribute and newer ones in an input.

        None where there is none, or where it is computed at run time.
        """
        if attribute in self.node.attributes:
            return tuple(self.node.attributes.get_ints(attribute))
        constant = self.constant(index)
        return None if constant is None else tuple(int(number) for number in constant.raw().ravel())

    def refuse(self, reason: Reason, detail: str) -> Refusal:
        """The refusal of this operator; ``detail`` goes on where "Conv 'name'" left off."""
        return refuse(self.node, reason, detail)

    def not_per_channel(self) -> Refusal:
        """The refusal of a weight that has no axis along which the affine varies."""
        return self.refuse(Reason.CHANNELS, "has no weight axis for the axis along which the affine varies")

    def runtime_weight(self) -> Refusal:
        """The refusal of a weight or bias that is not constant."""
        return self.refuse(
            Reason.RUNTIME_WEIGHT, "has an operand that is computed, or can be overridden, at run time"
        )


Rule = Callable[[Front], Answer]

UP: dict[str, Rule] = {}
"""How each operator takes a re-parametrised output."""

DOWN: dict[str, Rule] = {}
"""How each operator takes a re-parametrised input."""


def carry_up(*operators: str) -> Callable[[Rule], Rule]:
    """Register a rule for a re-parametrised output of ``operators``."""
    return _register(UP, operators)


def carry_down(*operators: str) -> Callable[[Rule], Rule]:
    """Register a rule for a re-parametrised input of ``operators``."""
    return _register(DOWN, operators)


def name_of(node: ir.Node) -> str:
    """The node's name, or its first output's where it has none."""
    return node.name or next((output.name for output in node.outputs if output.name), node.op_type)


def refuse(node: ir.Node, reason: Reason, detail: str) -> Refusal:
    """The refusal of ``node``; ``detail`` goes on where "Conv 'name'" left off."""
    return Refusal(reason, f"{node.op_type} '{name_of(node)}' {detail}")


def _register(table: dict[str, Rule], operators: tuple[str, ...]) -> Callable[[Rule], Rule]:
    def register(rule: Rule) -> Rule:
        for operator in operators:
            if operator in table:
                raise ValueError(f"{operator} has a rule already")
            table[operator] = rule
        return rule

    return register
