"""Models with BatchNorms of every kind, real and made up, and what their BatchNorms read."""

from collections.abc import Mapping
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import onnx_ir as ir
from foldserve.parity.sections import exposed, unoptimised
from foldserve.serving.model_file import read_model
from numpy.typing import NDArray
from running import EXAMPLE_MODELS
from unit.parity import networks

Floats = NDArray[Any]
DTYPES = {"float": np.float32, "double": np.float64, "float16": np.float16, "bfloat16": ml_dtypes.bfloat16}


def digits() -> ir.Model:
    return read_model(EXAMPLE_MODELS / "digits" / "1" / "model.onnx")


def vectors(channels: int, *names: str, seed: int = 5, dtype: Any = np.float32) -> dict[str, Floats]:
    """Positive numbers of the order of 1, by name."""
    generator = np.random.default_rng(seed)
    return {name: generator.uniform(0.5, 2, channels).astype(dtype) for name in names}


def model(text: str, weights: Mapping[str, Floats], opset: int = 18) -> ir.Model:
    """A model from ONNX's text form."""
    return ir.from_proto(onnx.load_from_string(networks.model(text, opset=opset, weights=dict(weights))))


def normed(
    *, shape: str = "n, 4, h, w", kind: str = "float", opset: int = 18, epsilon: float = 1e-3
) -> ir.Model:
    """y = BatchNormalization(2·x), x and y of one shape with 4 channels and one type of element."""
    weights = vectors(4, "gamma", "beta", "mean", "variance", dtype=DTYPES[kind])
    weights["two"] = np.array([2], DTYPES[kind])
    text = f"""g ({kind}[{shape}] x) => ({kind}[{shape}] y) {{
        doubled = Mul(x, two)
        y = BatchNormalization<epsilon = {epsilon}>(doubled, gamma, beta, mean, variance)
    }}"""
    return model(text, weights, opset)


def values(source: ir.Model, names: list[str], feed: Mapping[str, Floats]) -> list[Floats]:
    """Values inside a model."""
    with unoptimised(exposed(source, names)) as session:
        return list(session.run(feed, names))


def read_by_batch_norms(source: ir.Model, feed: Mapping[str, Floats]) -> list[Floats]:
    """What each BatchNormalization of a model reads, in float64."""
    norms = (node for node in source.graph if node.op_type == "BatchNormalization")
    names = [node.inputs[0].name or "" for node in norms if node.inputs[0] is not None]
    return [array.astype(np.float64) for array in values(source, names, feed)]
