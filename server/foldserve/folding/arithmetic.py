"""Sums, products and extrema of two values, or of a value and a constant.

For y′ = s·y + t going up, and x = s·x′ + t coming down:

    y = ±a ± b     up    s goes to both terms, t to one of them
                   down  y = s·y′ + t, and the other term is divided by s; or the other term takes t
    y = a·b        up    s goes to one factor; a shift goes nowhere
                   down  y = s·y′; only where t = 0
    y = k·x        up    k′ = s·k, or x′ = s·x + t/k
                   down  k′ = s·k, or y = s·y′ + k·t
    y = max(a, b)  s > 0: passes everything, a constant c becomes s·c + t going up and (c − t)/s coming down;
                   s < 0: max and min change places
"""

import numpy as np
import onnx_ir as ir

from foldserve.folding.affine import Affine, Array
from foldserve.folding.constants import Constant
from foldserve.folding.report import Reason
from foldserve.folding.shapes import lifted, lowered, rank
from foldserve.folding.steps import Answer, Front, Refusal, Step, carry_down, carry_up


@carry_up("Add", "Sub", "Sum")
def sum_up(front: Front) -> Answer:
    """The scale goes to every term, the shift to one: a constant if there is one, else any that takes it."""
    answers = [_sum_up(front, taker) for taker in _takers(front)]
    return tuple(step for step in answers if isinstance(step, Step)) or answers[0]


def _sum_up(front: Front, taker: int) -> Step | Refusal:
    affine = front.affine
    shares = {
        index: Affine.of(affine.scale, affine.shift * (_sign(front, index) if index == taker else 0))
        for index in range(len(front.node.inputs))
    }
    step = _distributed(front, shares)
    if isinstance(step, Step) and step.constants and _is_bias_of_matmul(front.node):
        return Step(step.inputs, constants=step.constants, tier=0)
    return step


@carry_down("Add", "Sub", "Sum")
def sum_down(front: Front) -> Answer:
    """y = ±(s·x′ + t) ± w: t joins w or travels on; s travels on and w is divided by it."""
    if (affine := _on_output(front)) is None:
        return front.refuse(Reason.UNKNOWN_SHAPE, "makes a value of unknown rank")
    affine = Affine.of(affine.scale, affine.shift * _sign(front, front.index))
    answers = [_sum_down(front, affine, taker) for taker in _takers(front) if taker != front.index]
    answers.append(_sum_down(front, affine, None))
    return tuple(step for step in answers if isinstance(step, Step)) or answers[0]


def _sum_down(front: Front, affine: Affine, taker: int | None) -> Step | Refusal:
    """y = s·y′ + t where the shift travels on, y = s·y′ where the term ``taker`` takes it."""
    undo = affine.without_shift().inverse()
    if undo is None:
        return front.refuse(Reason.DEAD_CHANNEL, "would have to divide a term by a scale of zero")
    shares = {
        index: Affine.of(
            undo.scale, undo.scale * affine.shift * (_sign(front, index) if index == taker else 0)
        )
        for index in range(len(front.node.inputs))
        if index != front.index
    }
    step = _distributed(front, {index: share for index, share in shares.items() if not share.is_identity})
    if isinstance(step, Refusal):
        return step
    passed_on = affine if taker is None else affine.without_shift()
    absorbed = passed_on.is_identity and not step.inputs
    return Step(step.inputs, {} if absorbed else {0: passed_on}, step.constants)


@carry_up("Mul", "Div")
def product_up(front: Front) -> Answer:
    """A constant factor takes the scale; a computed factor takes the scale where there is no shift."""
    if (operand := _constant_operand(front)) is not None:
        return _constant_product(front, operand, front.affine, upward=True)
    if front.affine.has_shift:
        return front.refuse(Reason.SHIFT, "multiplies computed values: a scale passes, a shift does not")
    factors = [0] if front.node.op_type == "Div" else [0, 1]
    answers = [_distributed(front, {factor: front.affine}) for factor in factors]
    return tuple(step for step in answers if isinstance(step, Step)) or answers[0]


@carry_down("Mul", "Div")
def product_down(front: Front) -> Answer:
    """A constant factor takes the scale, or it travels on; past a computed factor only a scale travels on."""
    if (affine := _on_output(front)) is None:
        return front.refuse(Reason.UNKNOWN_SHAPE, "makes a value of unknown rank")
    if (operand := _constant_operand(front)) is not None:
        return _constant_product(front, operand, affine, upward=False)
    if affine.has_shift:
        return front.refuse(Reason.SHIFT, "multiplies computed values: a scale passes, a shift does not")
    passed_on = affine.inverse() if front.node.op_type == "Div" and front.index == 1 else affine
    if passed_on is None:
        return front.refuse(Reason.DEAD_CHANNEL, "would have to divide by a scale of zero")
    return Step(outputs={0: passed_on})


def _constant_product(front: Front, operand: int, affine: Affine, *, upward: bool) -> Answer:
    """y = k·x with k = c, or 1/c for a Div; the new constant is c·s, or c/s."""
    constant, x = front.constant(operand), front.node.inputs[1 - operand]
    divides = front.node.op_type == "Div"
    if constant is None or x is None or (divides and operand == 0):
        return front.refuse(Reason.OPERATOR, "divides a constant by the value, which is not linear")
    stored = constant.exact()
    stored = stored.reshape((1,) * (affine.rank - stored.ndim) + stored.shape)
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        factor = 1 / stored if divides else stored
        absorbed = stored / affine.scale if divides else stored * affine.scale
        passed = affine.shift / factor if upward else affine.shift * factor
    steps: list[Step] = []
    if not affine.has_shift and np.isfinite(absorbed).all():
        steps.append(Step(constants={operand: Constant.of(absorbed, constant.dtype)}))
    if np.isfinite(passed).all():
        whole = Affine.of(affine.scale, passed)
        if not upward:
            steps.append(Step(outputs={0: whole}))
        elif (own := lowered(whole, x)) is not None:
            steps.append(Step(inputs={1 - operand: own}))
    return tuple(steps) or front.refuse(Reason.DEAD_CHANNEL, "multiplies by a constant of zero")


@carry_up("Max", "Min")
def extremum_up(front: Front) -> Answer:
    """s·max(a, b) + t = max(s·a + t, s·b + t) for s ≥ 0, and the min of these for s ≤ 0."""
    if (operator := _extremum(front)) is None:
        return front.refuse(Reason.SIGN, "carries scales of one sign only")
    step = _distributed(front, dict.fromkeys(range(len(front.node.inputs)), front.affine))
    return (
        step if isinstance(step, Refusal) else Step(step.inputs, constants=step.constants, operator=operator)
    )


@carry_down("Max", "Min")
def extremum_down(front: Front) -> Answer:
    """max(s·x′ + t, c) = s·max(x′, (c − t)/s) + t for s > 0, and with min for s < 0."""
    affine, operator = _on_output(front), _extremum(front)
    undo = None if affine is None else affine.inverse()
    if affine is None or undo is None or operator is None:
        return front.refuse(Reason.SIGN, "carries scales of one sign only")
    others = [index for index in range(len(front.node.inputs)) if index != front.index]
    step = _distributed(front, dict.fromkeys(others, undo))
    return step if isinstance(step, Refusal) else Step(step.inputs, {0: affine}, step.constants, operator)


def _distributed(front: Front, shares: dict[int, Affine]) -> Step | Refusal:
    """The step in which each operand in ``shares`` takes its share: constants at once, values on request."""
    inputs: dict[int, Affine] = {}
    constants: dict[int, Constant | None] = {}
    for index, share in shares.items():
        value, constant = front.node.inputs[index], front.constant(index)
        if constant is not None:
            constants[index] = Constant.of(share.scale * constant.exact() + share.shift, constant.dtype)
        elif value is None or (own := lowered(share, value)) is None:
            return front.refuse(
                Reason.CHANNELS, "broadcasts an operand along the axis on which the affine varies"
            )
        else:
            inputs[index] = own
    return Step(inputs, constants=constants)


def _on_output(front: Front) -> Affine | None:
    """The affine in the rank of the output, to which its own operand may be broadcast."""
    output_rank = rank(front.node.outputs[0])
    return None if output_rank is None else lifted(front.affine, output_rank)


def _extremum(front: Front) -> str | None:
    """The operator that the node becomes; None for scales of both signs."""
    scale: Array = front.affine.scale
    if np.all(scale >= 0):
        return front.node.op_type
    return {"Max": "Min", "Min": "Max"}[front.node.op_type] if np.all(scale <= 0) else None


def _takers(front: Front) -> list[int]:
    """The terms in the order in which they are asked to take the shift: constant, unshared, shared ones."""

    def difficulty(index: int) -> int:
        value = front.node.inputs[index]
        if front.constant(index) is not None:
            return 0
        return 2 if value is not None and len(value.uses()) > 1 else 1

    return sorted(range(len(front.node.inputs)), key=difficulty)


def _sign(front: Front, index: int) -> int:
    return -1 if front.node.op_type == "Sub" and index == 1 else 1


def _is_bias_of_matmul(node: ir.Node) -> bool:
    producers = [value.producer() for value in node.inputs if value is not None]
    return any(producer is not None and producer.op_type == "MatMul" for producer in producers)


def _constant_operand(front: Front) -> int | None:
    return next((index for index in (1, 0) if front.constant(index) is not None), None)
