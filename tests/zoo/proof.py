"""How far a model of the zoo is from the truth before and after folding, and what folding removed.

The truth is torch's own answer in float64. Both the original and the folded model run in float32 in ONNX
Runtime with all graph optimisation off, so that nothing but our folding stands between them.
"""

import copy
import functools
import os
from collections.abc import Sequence
from dataclasses import dataclass

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import torch
from foldserve.folding import FoldResult, fold
from foldserve.importing.torch_program import to_onnx
from numpy.typing import NDArray
from torch import nn
from torch.utils import _pytree as pytree

from zoo.architecture import Architecture, batch_norms, trained

Array = NDArray[np.float64]
TIERS = range(4)
INPUTS = 6


@dataclass(frozen=True)
class Proof:
    """What one architecture shows."""

    batch_norms: int
    left: tuple[int, ...]
    """BatchNormalizations that stayed, by tier."""

    reasons: tuple[dict[str, int], ...]
    error_before: float
    """Relative L2 error of the original float32 model, over all inputs."""

    errors_after: tuple[float, ...]
    """The same of the folded models, by tier."""

    @property
    def ratios(self) -> tuple[float, ...]:
        """Error after folding as a multiple of the error before, by tier."""
        return tuple(after / self.error_before for after in self.errors_after)


@functools.cache
def exported(architecture: Architecture) -> tuple[nn.Module, ir.Model]:
    """The trained module and its ONNX model, all BatchNorms kept; do not change either."""
    module = trained(architecture)
    example = architecture.inputs(0)
    program = torch.export.export(module, (example,), dynamic_shapes=({0: torch.export.Dim.DYNAMIC},))
    return module, to_onnx(program)


def with_mixed_signs(architecture: Architecture) -> tuple[nn.Module, ir.Model]:
    """As :func:`exported`, with some negative γ: the same graph with other BatchNorm parameters."""
    _, model = exported(architecture)
    module, model = trained(architecture, mixed_signs=True), model.clone()
    for name, norm in batch_norms(module).items():
        for part in ("weight", "bias", "running_mean", "running_var"):
            if (tensor := getattr(norm, part)) is not None:
                value = model.graph.initializers[f"{name}.{part}"]
                value.const_value = ir.tensor(tensor.detach().numpy(), name=value.name)
    return module, model


@functools.cache
def prove(architecture: Architecture, *, mixed_signs: bool = False) -> Proof:
    """Fold in every tier and measure."""
    module, model = (with_mixed_signs if mixed_signs else exported)(architecture)
    inputs = [architecture.inputs(architecture.seed + i, batch=1 + i % 2).numpy() for i in range(INPUTS)]
    truth = answers_in_float64(module, inputs)
    results = [fold(model, max_tier=tier) for tier in TIERS]
    return Proof(
        batch_norms=results[0].report.batch_norms,
        left=tuple(result.report.operators_after.get("BatchNormalization", 0) for result in results),
        reasons=tuple({str(k): v for k, v in result.report.reasons().items()} for result in results),
        error_before=relative_error(answers(ir.to_proto(model), inputs), truth),
        errors_after=tuple(relative_error(answers(checked(result), inputs), truth) for result in results),
    )


def checked(result: FoldResult) -> onnx.ModelProto:
    """The folded model, which must pass onnx's checker."""
    proto = ir.to_proto(result.model)
    onnx.checker.check_model(proto, full_check=True)
    return proto


def answers_in_float64(module: nn.Module, inputs: Sequence[NDArray[np.float32]]) -> list[Array]:
    """All outputs for each input as one vector, computed by torch in float64."""
    exact = copy.deepcopy(module).double()
    with torch.inference_mode():
        outputs = [pytree.tree_leaves(exact(torch.from_numpy(x).double())) for x in inputs]
    return [_joined([tensor.numpy() for tensor in leaves]) for leaves in outputs]


def answers(proto: onnx.ModelProto, inputs: Sequence[NDArray[np.float32]]) -> list[Array]:
    """All outputs for each input as one vector, computed by ONNX Runtime as the graph stands."""
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    session = ort.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
    (name,) = (value.name for value in session.get_inputs())
    return [_joined(session.run(None, {name: x})) for x in inputs]


def relative_error(found: Sequence[Array], truth: Sequence[Array]) -> float:
    """L2 distance relative to the truth, the inputs pooled with equal weight."""
    each = [np.linalg.norm(a - b) / np.linalg.norm(b) for a, b in zip(found, truth, strict=True)]
    return float(np.sqrt(np.mean(np.square(each))))


def _joined(arrays: Sequence[NDArray[np.generic]]) -> Array:
    return np.concatenate([np.asarray(array, np.float64).ravel() for array in arrays])
