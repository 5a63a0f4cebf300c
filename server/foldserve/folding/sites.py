"""Sites: the affines of a graph that folding tries to remove.

At inference a BatchNormalization is one:

    y_c = s_c·x_c + t_c        s = γ / √(σ² + ε)        t = β − s·μ

computed in float64 from the stored parameters. ``Mul``, ``Add``, ``Sub`` and ``Div`` by a constant are
affines too; exporters and frozen models write BatchNorms that way. ``c / x`` is not an affine, and the
``Add`` behind a MatMul is that MatMul's bias: neither is a site.

BatchNormalization through the operator sets: it normalises by the statistics of the batch if it has more
than one output (7 to 13), or if ``training_mode`` is 1 (from 14 on). ``spatial=0`` (7 and 8) has
parameters for every element of a sample instead of every channel. ``epsilon`` is 1e-5 where missing.
"""

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from foldserve.errors import InvalidModel
from foldserve.folding.affine import Affine, Array
from foldserve.folding.evaluate import Constants
from foldserve.folding.report import BATCH_NORMALIZATION, Reason, SiteWarning
from foldserve.folding.shapes import dims, rank
from foldserve.folding.steps import Refusal, name_of, refuse

EPSILON = float(np.float32(1e-5))
"""The default of the attribute, which ONNX stores as a float32."""

_HUGE_SCALE = 1e4
_LARGEST_OPERAND = 1 << 20
"""Elements; a larger constant in a Mul or Add is no per-channel constant."""


@dataclass(frozen=True, eq=False)
class Site:
    """One affine y = affine(x) and the node that computes it."""

    node: ir.Node
    affine: Affine
    x: ir.Value
    y: ir.Value
    channels: int
    """Number of parameters of each kind."""

    warnings: tuple[SiteWarning, ...] = ()

    @property
    def is_batch_norm(self) -> bool:
        """Whether it is a BatchNormalization rather than arithmetic with a constant."""
        return self.node.op_type == BATCH_NORMALIZATION


def find_site(node: ir.Node, constants: Constants, opset: int) -> Site | Refusal | None:
    """The affine that ``node`` computes.

    Returns a refusal for a BatchNormalization that is no affine with known parameters, and None for a
    node that is no affine at all.

    Raises InvalidModel where parameters are NaN or infinite, or a variance + epsilon is not positive.
    """
    if node.domain != "":
        return None
    if node.op_type == BATCH_NORMALIZATION:
        return _batch_norm(node, constants, opset)
    if node.op_type in ("Mul", "Add", "Sub", "Div"):
        return _arithmetic(node, constants)
    return None


def uses_batch_statistics(node: ir.Node, opset: int) -> bool:
    """Whether a BatchNormalization normalises by the statistics of the batch (training mode)."""
    if opset >= 14:
        return node.attributes.get_int("training_mode", 0) != 0
    return any(output.name for output in node.outputs[1:])


def _batch_norm(node: ir.Node, constants: Constants, opset: int) -> Site | Refusal:
    x, y = node.inputs[0], node.outputs[0]
    if uses_batch_statistics(node, opset):
        return refuse(node, Reason.TRAINING_MODE, "normalises by the statistics of the batch")
    parameters: list[Array] = []
    for value in node.inputs[1:5]:
        constant = constants.of(value)
        if constant is None:
            name = value.name if value is not None else ""
            return refuse(
                node,
                Reason.RUNTIME_PARAMETERS,
                f"has the parameter '{name}', which is computed, or can be overridden, at run time",
            )
        parameters.append(constant.exact())
    gamma, beta, mean, variance = parameters
    epsilon = node.attributes.get_float("epsilon", EPSILON)
    _check(node, gamma, beta, mean, variance + epsilon)
    value_rank = rank(x) or rank(y)
    if x is None or value_rank is None:
        return refuse(node, Reason.UNKNOWN_SHAPE, "reads a value of unknown rank")
    scale = gamma / np.sqrt(variance + epsilon)
    shift = beta - scale * mean
    if scale.ndim == 1:
        affine = Affine.along(scale, shift, axis=min(1, value_rank - 1), rank=value_rank)
    else:
        affine = Affine.of(scale[np.newaxis], shift[np.newaxis])
    return Site(node, affine, x, y, gamma.size, _warnings(scale, mean, variance, epsilon))


def _check(node: ir.Node, gamma: Array, beta: Array, mean: Array, denominator: Array) -> None:
    for what, numbers in (("scale", gamma), ("bias", beta), ("mean", mean), ("variance", denominator)):
        if not np.isfinite(numbers).all():
            raise InvalidModel(
                f"BatchNormalization '{name_of(node)}' has a {what} that is NaN or infinite; export the "
                "model again, from a checkpoint whose training did not diverge"
            )
    if not (denominator > 0).all():
        raise InvalidModel(
            f"BatchNormalization '{name_of(node)}' has a variance + epsilon of {float(denominator.min()):g}, "
            "which must be positive; export the model again, from a checkpoint with sound statistics"
        )


def _warnings(scale: Array, mean: Array, variance: Array, epsilon: float) -> tuple[SiteWarning, ...]:
    found = {
        SiteWarning.UNTRAINED: bool(np.all(mean == 0) and np.all(variance == 1)),
        SiteWarning.DEAD_CHANNELS: bool(np.any(scale == 0)),
        SiteWarning.HUGE_SCALE: bool(np.any(np.abs(scale) > _HUGE_SCALE)),
        SiteWarning.EPSILON_DOMINATES: bool(np.any(variance < epsilon)),
    }
    return tuple(warning for warning, applies in found.items() if applies)


def _arithmetic(node: ir.Node, constants: Constants) -> Site | None:
    for index in (0, 1):
        constant, x = constants.of(node.inputs[1 - index]), node.inputs[index]
        if constant is None or x is None or not constant.is_float or constant.size > _LARGEST_OPERAND:
            continue
        if constants.of(x) is not None or _is_matmul_bias(node, x, constants):
            return None
        operand = _broadcast_operand(constant.exact(), dims(x))
        affine = None if operand is None else _affine_of(node.op_type, operand, x_first=index == 0)
        return None if affine is None else Site(node, affine, x, node.outputs[0], constant.size)
    return None


def _affine_of(operator: str, operand: Array, *, x_first: bool) -> Affine | None:
    """The affine of ``x ∘ operand``, or of ``operand ∘ x``; None where it is none, or not a finite one."""
    one, zero = np.ones_like(operand), np.zeros_like(operand)
    if not np.isfinite(operand).all():
        return None
    if operator == "Mul":
        return Affine.of(operand, zero)
    if operator == "Add":
        return Affine.of(one, operand)
    if operator == "Sub":
        return Affine.of(one, -operand) if x_first else Affine.of(-one, operand)
    return Affine.of(1 / operand, zero) if x_first and operand.all() else None


def _broadcast_operand(operand: Array, shape: tuple[int | str | None, ...] | None) -> Array | None:
    """``operand`` with the rank of x; None where it may make the result larger than x is."""
    if shape is None or operand.ndim > len(shape):
        return None
    aligned = operand.reshape((1,) * (len(shape) - operand.ndim) + operand.shape)
    fits = all(size in (1, known) for size, known in zip(aligned.shape, shape, strict=True))
    return aligned if fits else None


def _is_matmul_bias(node: ir.Node, x: ir.Value, constants: Constants) -> bool:
    producer = x.producer()
    return (
        node.op_type == "Add"
        and producer is not None
        and producer.op_type == "MatMul"
        and any(constants.of(operand) is not None for operand in producer.inputs)
    )
