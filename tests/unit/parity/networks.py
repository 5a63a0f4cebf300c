"""Small networks with BatchNorms, folded by hand: rightly, and wrongly in the ways that folds go wrong."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from foldserve.runtime.onnxruntime_session import OnnxRuntimeSession
from foldserve.settings import ProviderChoice
from numpy.typing import NDArray
from onnx import numpy_helper

Floats = NDArray[Any]

EPSILON = float(np.float32(1e-5))
CHANNELS = 8
SIZE = 16


def model(text: str, *, opset: int = 17, weights: dict[str, Floats] | None = None) -> bytes:
    """A serialised model from ONNX's text form, with ``weights`` as initialisers."""
    parsed = onnx.parser.parse_model(f'<ir_version: 10, opset_import: ["": {opset}]> {text}')
    named = weights or {}
    parsed.graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in named.items())
    return bytes(parsed.SerializeToString())


def session(source: Path | bytes, *, optimise: bool = True) -> OnnxRuntimeSession:
    return OnnxRuntimeSession(source, provider=ProviderChoice.CPU, optimise=optimise, intra_op_threads=1)


@dataclass(frozen=True)
class Layer:
    """A 3×3 convolution, weight [out, in, 3, 3], with bias and the BatchNorm behind it; vectors are [out]."""

    weight: Floats
    bias: Floats
    gamma: Floats
    beta: Floats
    mean: Floats
    variance: Floats

    def affine(self) -> tuple[Floats, Floats]:
        """s = γ / √(σ² + ε) and t = β − s · μ, in float64."""
        scale = self.gamma.astype(np.float64) / np.sqrt(self.variance.astype(np.float64) + EPSILON)
        return scale, self.beta - scale * self.mean

    def folded(self) -> "Layer":
        """The layer with its BatchNorm in ``weight`` and ``bias``, rounded once."""
        scale, shift = self.affine()
        weight = self.weight * scale[:, None, None, None]
        bias = self.bias * scale + shift
        return replace(self, weight=weight.astype(self.weight.dtype), bias=bias.astype(self.bias.dtype))


def layers(*, depth: int = 3, seed: int = 0, dtype: str = "float32") -> list[Layer]:
    """Layers with the statistics of a trained network."""
    generator = np.random.default_rng(seed)

    def vector(low: float, high: float) -> Floats:
        return generator.uniform(low, high, CHANNELS).astype(dtype)

    return [
        Layer(
            weight=(0.12 * generator.standard_normal((CHANNELS, CHANNELS, 3, 3))).astype(dtype),
            bias=vector(-1, 1),
            gamma=vector(0.5, 1.5),
            beta=vector(0.5, 1.5),  # no channel may be dead: a fault there moves no answer
            mean=vector(-1, 1),
            variance=vector(0.5, 1.5),
        )
        for _ in range(depth)
    ]


def original(network: Sequence[Layer], *, outside: str = "") -> bytes:
    """(Conv → BatchNormalization → Relu) for each layer: [n, 8, 16, 16] in and out; values c1, n1, r1, …

    Inputs and outputs are of the weights' type, unless ``outside`` names another.
    """
    lines = []
    weights: dict[str, Floats] = {}
    for index, layer in enumerate(network, start=1):
        names = [f"{name}{index}" for name in ("w", "b", "gamma", "beta", "mean", "variance")]
        arrays = (layer.weight, layer.bias, layer.gamma, layer.beta, layer.mean, layer.variance)
        weights |= dict(zip(names, arrays, strict=True))
        lines.append(f"c{index} = Conv<pads = [1, 1, 1, 1]>(r{index - 1}, w{index}, b{index})")
        lines.append(f"n{index} = BatchNormalization<epsilon = 1e-5>(c{index}, {', '.join(names[2:])})")
        lines.append(f"r{index} = Relu(n{index})")
    return _between_casts(lines, len(network), weights, outside)


def folded(
    network: Sequence[Layer],
    plant: Callable[[Layer], Layer] = lambda layer: layer,
    *,
    site: int = 1,
    outside: str = "",
) -> bytes:
    """(Conv → Relu) for each layer, values n1, r1, n2, …; ``plant`` spoils the layer number ``site``."""
    lines = []
    weights: dict[str, Floats] = {}
    for index, layer in enumerate(network, start=1):
        merged = plant(layer.folded()) if index == site else layer.folded()
        weights |= {f"w{index}": merged.weight, f"b{index}": merged.bias}
        lines.append(f"n{index} = Conv<pads = [1, 1, 1, 1]>(r{index - 1}, w{index}, b{index})")
        lines.append(f"r{index} = Relu(n{index})")
    return _between_casts(lines, len(network), weights, outside)


def _between_casts(lines: Sequence[str], depth: int, weights: dict[str, Floats], outside: str) -> bytes:
    """Layers that lead from r0 to r``depth``, between casts from and to the element type ``outside``."""
    inside = {"float32": "float"}.get(weights["w1"].dtype.name, weights["w1"].dtype.name)
    outer = outside or inside
    image = f"{outer}[n, {CHANNELS}, {SIZE}, {SIZE}]"
    into, back = (onnx.TensorProto.DataType.Value(name.upper()) for name in (inside, outer))
    body = "\n".join([f"r0 = Cast<to = {into}>(x)", *lines, f"y = Cast<to = {back}>(r{depth})"])
    return model(f"g ({image} x) => ({image} y) {{ {body} }}", weights=weights)


def scaled_channel(layer: Layer) -> Layer:
    """One output channel is a thousandth too large."""
    weight = layer.weight.copy()
    weight[3] *= 1 + 1e-3
    return replace(layer, weight=weight)


def shifted_channel(layer: Layer) -> Layer:
    """One bias is a thousandth off."""
    bias = layer.bias.copy()
    bias[3] += 1e-3
    return replace(layer, bias=bias)


def wrong_epsilon(layer: Layer) -> Layer:
    """The fold took 1e-3 for ε."""
    ratio = np.sqrt((layer.variance + EPSILON) / (layer.variance + 1e-3)).astype(layer.weight.dtype)
    return replace(layer, weight=layer.weight * ratio[:, None, None, None])


def wrong_axis(layer: Layer) -> Layer:
    """The scale went to the input channels: the shapes agree, for there are as many."""
    scale, _ = layer.affine()
    back = layer.weight / scale[:, None, None, None]
    return replace(layer, weight=(back * scale[None, :, None, None]).astype(layer.weight.dtype))


def forgotten_bias(layer: Layer) -> Layer:
    """The convolution's own bias was dropped instead of being scaled."""
    _, shift = layer.affine()
    return replace(layer, bias=shift.astype(layer.bias.dtype))


PLANTS = (scaled_channel, shifted_channel, wrong_epsilon, wrong_axis, forgotten_bias)
"""Wrong folds, each of which every numerical test must catch."""


def cancelling(network: Sequence[Layer]) -> list[Layer]:
    """The network with one channel that hardly varied in training and whose mean sits in the bias.

    The original computes (b + small) − μ in float32, with b ≈ μ, and scales what is left by γ / √(σ² + ε).
    """
    first = network[0]
    weight, bias, mean, variance = (
        array.copy() for array in (first.weight, first.bias, first.mean, first.variance)
    )
    weight[0] *= 3e-3
    bias[0] = mean[0] = 400
    variance[0] = 1e-9
    return [replace(first, weight=weight, bias=bias, mean=mean, variance=variance), *network[1:]]
