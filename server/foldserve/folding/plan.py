"""Plans: the changes that make one affine vanish, collected while nothing in the graph is touched.

A value changes because some operator wishes it so. Then everyone else beside the value must be asked what
they do about it: its producer, which must make it, and its other readers, which must take it. These
questions are the :class:`Task`s that a change leaves behind; a plan is complete when none is left.

How far a plan reaches is its tier: 0 next to the affine, 1 carried through other operators, 2 with
bystanders making up for a change, 3 with a Relu turned into a Max.
"""

from dataclasses import dataclass, field, replace

import onnx_ir as ir

from foldserve.folding.affine import Affine, Reparametrisation
from foldserve.folding.constants import Constant
from foldserve.folding.report import Direction, Reason
from foldserve.folding.steps import Refusal, Step, name_of, refuse

_UNCHANGED = Reparametrisation.by_make(Affine.identity(0))


@dataclass(frozen=True)
class Task:
    """A node to be asked about a value that has changed beside it."""

    node: ir.Node
    index: int
    value: ir.Value
    upward: bool
    """Whether the value is the node's output ``index``, rather than its input."""

    bystander: bool
    """Whether the node is another reader of a value that changed for someone else's sake."""

    def refusal(self, refusal: Refusal) -> Refusal:
        """``refusal`` of this node, as seen by the affine: a bystander's makes the value a shared one."""
        if not self.bystander:
            return refusal
        reader = f"{self.node.op_type} '{name_of(self.node)}'"
        return Refusal(
            Reason.SHARED_VALUE, f"value '{self.value.name}' is also read by {reader} ({refusal.detail})"
        )


@dataclass
class Plan:
    """The changes that make one affine vanish."""

    direction: Direction
    max_tier: int
    may_append: bool = False
    """Whether one Add may take the place of the affine."""

    tier: int = 0

    values: dict[ir.Value, Reparametrisation] = field(default_factory=dict)
    """How each value is held; the identity where a step relies on the value staying as it is."""

    operands: dict[tuple[ir.Node, int], Constant | None] = field(default_factory=dict)
    """New constant operands by node and input index; None removes one."""

    operators: dict[ir.Node, str] = field(default_factory=dict)
    """Operators that take another's place."""

    attributes: dict[tuple[ir.Node, str], float | int] = field(default_factory=dict)
    appended: dict[ir.Node, Constant] = field(default_factory=dict)
    """Shifts that an Add behind a node must make."""

    settled: set[ir.Node] = field(default_factory=set)
    """Operators that have passed a change on, and so rely on every value beside them."""

    absorbed_by: dict[ir.Node, None] = field(default_factory=dict)
    """Operators whose constants change, in the order in which they were asked."""

    made_by: dict[ir.Node, None] = field(default_factory=dict)
    """Those among them that make a changed value: an affine went into their output."""

    def copy(self) -> "Plan":
        """A plan that can be continued in another way."""
        return replace(
            self,
            values=self.values.copy(),
            operands=self.operands.copy(),
            operators=self.operators.copy(),
            attributes=self.attributes.copy(),
            appended=self.appended.copy(),
            settled=self.settled.copy(),
            absorbed_by=self.absorbed_by.copy(),
            made_by=self.made_by.copy(),
        )

    def change(self, value: ir.Value, change: Reparametrisation, origin: ir.Node) -> list[Task] | Refusal:
        """Hold ``value`` differently at the wish of ``origin``; everyone else beside it is to be asked."""
        if value in self.values:
            if self.values[value].equals(change):
                return []
            return Refusal(
                Reason.CONFLICT, f"value '{value.name}' would have to change in two different ways"
            )
        self.values[value] = change
        if change.is_identity:
            return []
        if value.is_graph_output():
            return Refusal(Reason.GRAPH_OUTPUT, f"value '{value.name}' is an output of the graph")
        producer = value.producer()
        if producer is None:
            return Refusal(Reason.GRAPH_INPUT, f"value '{value.name}' is an input of the graph")
        wished_by_reader = producer is not origin
        # Tasks are settled from the end: bystanders, who refuse most often, before the long way up.
        tasks = [Task(producer, value.index() or 0, value, upward=True, bystander=False)]
        tasks *= wished_by_reader
        tasks += [
            Task(node, index, value, upward=False, bystander=wished_by_reader)
            for node, index in value.uses()
            if node is not origin
        ]
        return tasks

    def take(self, task: Task, step: Step) -> list[Task] | Refusal:
        """Enter the ``step`` that answers ``task``; the tasks that follow from it, or why it is too much."""
        node = task.node
        makes_up = (task.bystander and not step.is_empty) or (not task.upward and bool(step.inputs))
        self.tier = max(self.tier, step.least_tier, 2 if makes_up else 0)
        if self.tier > self.max_tier:
            return task.refusal(refuse(node, Reason.TIER, f"can take it, but only in tier {self.tier}"))
        if step.appended_shift is not None:
            dtype = node.outputs[0].dtype
            if not self.may_append or self.appended or dtype is None:
                return refuse(
                    node, Reason.ADDED_WORK, "has no operand for the shift, so an Add would have to follow"
                )
            self.appended[node] = Constant.of(step.appended_shift, dtype)
        if step.constants or step.appended_shift is not None:
            self.absorbed_by[node] = None
            if task.upward:
                self.made_by[node] = None
        self.operands.update({(node, index): constant for index, constant in step.constants.items()})
        self.attributes.update({(node, name): number for name, number in step.attributes.items()})
        if step.operator is not None:
            self.operators[node] = step.operator
        return self._spread(task, step) if step.carries else []

    def _spread(self, task: Task, step: Step) -> list[Task] | Refusal:
        """Change the values that the step names; hold every other value beside the node to what it is."""
        node = task.node
        self.settled.add(node)
        changes: list[tuple[ir.Value, Reparametrisation]] = []
        for index, value in enumerate(node.inputs):
            if value is not None and (task.upward or index != task.index):
                made = step.inputs.get(index)
                changes.append((value, _UNCHANGED if made is None else Reparametrisation.by_make(made)))
        for index, value in enumerate(node.outputs):
            if not task.upward or index != task.index:
                read = step.outputs.get(index)
                changes.append((value, _UNCHANGED if read is None else Reparametrisation.by_read(read)))
        return self.change_all(changes, node)

    def change_all(
        self, changes: list[tuple[ir.Value, Reparametrisation]], origin: ir.Node
    ) -> list[Task] | Refusal:
        """:meth:`change` for several values."""
        tasks: list[Task] = []
        for value, change in changes:
            more = self.change(value, change, origin)
            if isinstance(more, Refusal):
                return more
            tasks += more
        return tasks
