"""Planning: find a way to make one affine vanish.

The affine y = s·x + t vanishes if x and y become one tensor: x is held as x′, y as y′, and x′ = y′. Three
choices:

    up      x′ = s·x + t, y′ = y            everything goes to the producer of x
    down    x′ = x, y = s·y′ + t            everything goes to the readers of y
    both    x′ = x + t/s, y = s·y′          the shift goes up, the scale down

From there the change spreads: the producer of a changed value must make it, every reader must take it,
and each answers by the tables of :mod:`foldserve.folding.steps`, absorbing the change or passing it on. A
plan stands when nothing is left to settle. It is refused as a whole when one operator refuses, when an
input or output of the graph would have to change, or when two paths ask for different changes of one
value.
"""

from collections.abc import Iterator

import numpy as np
import onnx_ir as ir

from foldserve.folding.affine import Affine, Reparametrisation
from foldserve.folding.constants import Constant
from foldserve.folding.evaluate import Constants
from foldserve.folding.operators import DOWN, UP
from foldserve.folding.plan import Plan, Task
from foldserve.folding.report import Direction, Reason
from foldserve.folding.sites import Site
from foldserve.folding.steps import Answer, Front, Refusal, Step, refuse

_REACH = 64
"""Operators that one search may ask; it keeps the time for a model linear in its size."""


class Planner:
    """Searches plans over one graph whose constants are ``constants``."""

    def __init__(self, constants: Constants) -> None:
        self._constants = constants
        self._left = 0

    def plan(self, site: Site, max_tier: int) -> Plan | Refusal:
        """A complete plan for ``site`` of at most ``max_tier``, or why there is none."""
        if site.y.is_graph_output() and site.x.graph is not site.y.graph:
            return refuse(
                site.node, Reason.GRAPH_OUTPUT, "makes an output of its graph from a value outside it"
            )
        refusals: dict[Direction, Refusal] = {}
        for plan, x, y in _choices(site, max_tier):
            changes = [(site.x, Reparametrisation.by_make(x)), (site.y, Reparametrisation.by_read(y))]
            found = self._started(plan, changes, site.node)
            if isinstance(found, Plan):
                return found
            refusals.setdefault(plan.direction, found)
        # Where nothing lies above, the way down tells more.
        telling = refusals[Direction.UP]
        if telling.reason is Reason.GRAPH_INPUT:
            telling = refusals.get(Direction.DOWN, telling)
        ways = "; ".join(f"{direction}: {refusal.detail}" for direction, refusal in refusals.items())
        return Refusal(telling.reason, ways)

    def plan_shift(self, node: ir.Node, shift: Affine) -> Plan | Refusal:
        """A plan in which output 0 of ``node`` changes by ``shift``, and its readers make up for it."""
        plan = Plan(Direction.DOWN, max_tier=2)
        return self._started(plan, [(node.outputs[0], Reparametrisation.by_make(shift))], node)

    def _started(
        self, plan: Plan, changes: list[tuple[ir.Value, Reparametrisation]], origin: ir.Node
    ) -> Plan | Refusal:
        self._left = _REACH
        tasks = plan.change_all(changes, origin)
        found = tasks if isinstance(tasks, Refusal) else self._searched(plan, tasks)
        return found if isinstance(found, Refusal) else _checked(found)

    def _searched(self, plan: Plan, tasks: list[Task]) -> Plan | Refusal:
        """``plan`` with all tasks settled."""
        tasks = list(tasks)
        while tasks:
            task = tasks.pop()
            if task.node in plan.settled:
                continue
            self._left -= 1
            if self._left < 0:
                return refuse(
                    task.node, Reason.TOO_FAR, "is where the search gave up, too far from the affine"
                )
            answer = self._asked(plan, task)
            if isinstance(answer, Refusal):
                return task.refusal(answer)
            if isinstance(answer, tuple):
                return self._tried(plan, task, answer, tasks)
            more = plan.take(task, answer)
            if isinstance(more, Refusal):
                return more
            tasks += more
        return plan

    def _tried(self, plan: Plan, task: Task, steps: tuple[Step, ...], tasks: list[Task]) -> Plan | Refusal:
        """``plan`` continued with the first of ``steps`` that leads to a complete one."""
        refusals: list[Refusal] = []
        for step in steps:
            attempt = plan.copy()
            more = attempt.take(task, step)
            found = more if isinstance(more, Refusal) else self._searched(attempt, tasks + more)
            if isinstance(found, Plan):
                return found
            refusals.append(found)
        return refusals[0]

    def _asked(self, plan: Plan, task: Task) -> Answer:
        change = plan.values[task.value]
        affine = change.make if task.upward else change.read
        if affine is None:
            return refuse(task.node, Reason.DEAD_CHANNEL, "would have to undo a scale of zero")
        rule = (UP if task.upward else DOWN).get(task.node.op_type) if task.node.domain == "" else None
        if rule is None:
            return refuse(task.node, Reason.OPERATOR, "carries no affine")
        return rule(Front(task.node, task.index, affine, _View(self._constants, plan)))


class _View:
    """Operands and attributes as they stand after the steps that a plan has taken."""

    def __init__(self, constants: Constants, plan: Plan) -> None:
        self._constants = constants
        self._plan = plan

    @property
    def opset(self) -> int:
        return self._constants.opset

    def constant(self, node: ir.Node, index: int) -> Constant | None:
        if (node, index) in self._plan.operands:
            return self._plan.operands[node, index]
        return self._constants.operand(node, index)

    def has_input(self, node: ir.Node, index: int) -> bool:
        if (node, index) in self._plan.operands:
            return self._plan.operands[node, index] is not None
        return index < len(node.inputs) and node.inputs[index] is not None

    def number(self, node: ir.Node, attribute: str, default: float) -> float:
        known = self._plan.attributes.get((node, attribute))
        return node.attributes.get_float(attribute, default) if known is None else float(known)


def _choices(site: Site, max_tier: int) -> Iterator[tuple[Plan, Affine, Affine]]:
    """The ways to make x and y one tensor: an empty plan, f with x′ = f(x), g with y = g(y′)."""
    affine = site.affine
    identity = Affine.identity(affine.rank)
    scale = affine.without_shift()
    up = Plan(Direction.UP, max_tier), affine, identity
    if max_tier < 2:
        yield up
    if max_tier > 0:
        yield Plan(Direction.DOWN, max_tier, tier=1), identity, affine
        if affine.has_scale and affine.has_shift and (undo := scale.inverse()) is not None:
            shift = Affine.of(np.ones_like(affine.scale), affine.shift * undo.scale)
            yield Plan(Direction.BOTH, max_tier, tier=1), shift, scale
    if max_tier > 1:
        # Last, because where bystanders make up for it a scale spreads over a whole residual trunk.
        yield up
    if site.is_batch_norm:
        yield Plan(Direction.UP, max_tier, may_append=True), affine, identity


def _checked(plan: Plan) -> Plan | Refusal:
    """The plan, unless one of its constants cannot be written in its element type."""
    for (node, _), constant in plan.operands.items():
        if constant is not None and not constant.fits:
            return refuse(
                node, Reason.OVERFLOW, f"would need numbers that {constant.dtype.name} does not hold"
            )
    return plan
