"""The judge's own operators against the runtime: in every operator set and for every number of groups."""

import numpy as np
import onnx_ir as ir
import pytest
from foldserve.parity.float64_reference import evaluate
from foldserve.parity.measures import distance
from foldserve.runtime.onnxruntime_session import OnnxRuntimeSession

CHANNELS = 4


def _model(opset: int, groups: int, *, bias: bool) -> bytes:
    """x [batch, 4, 6, 6] → ConvTranspose → BatchNormalization → y."""
    generator = np.random.default_rng(opset)
    arrays = {"weight": generator.normal(size=(CHANNELS, CHANNELS // groups, 3, 3)).astype(np.float32)}
    for name in (*(["offset"] if bias else []), "scale", "shift", "mean", "variance"):
        arrays[name] = generator.uniform(0.5, 2, CHANNELS).astype(np.float32)
    constants = [ir.val(name, const_value=ir.tensor(array, name=name)) for name, array in arrays.items()]
    x = ir.val("x", ir.DataType.FLOAT, ["batch", CHANNELS, 6, 6])
    convolution = ir.node("ConvTranspose", [x, *constants[:-4]], {"group": groups, "strides": [2, 2]})
    norm = ir.node("BatchNormalization", [*convolution.outputs, *constants[-4:]])
    y = norm.outputs[0]
    y.name, y.dtype = "y", ir.DataType.FLOAT
    graph = ir.Graph(
        [x], [y], nodes=[convolution, norm], initializers=constants, opset_imports={"": opset}, name="g"
    )
    return ir.to_proto(ir.Model(graph, ir_version=8)).SerializeToString()


@pytest.mark.parametrize("opset", [7, 8, 9, 11, 13, 14, 15, 18])
@pytest.mark.parametrize(("groups", "bias"), [(1, False), (2, True), (4, False)])
def test_the_judge_agrees_with_the_runtime(opset: int, groups: int, bias: bool) -> None:
    model = _model(opset, groups, bias=bias)
    x = np.random.default_rng(1).normal(size=(2, CHANNELS, 6, 6)).astype(np.float32)
    (truth,) = evaluate(model, {"x": x})
    (answer,) = OnnxRuntimeSession(model, optimise=False).run({"x": x})
    assert truth.dtype == np.float64
    assert distance(truth, answer).relative_l2 < 1e-6
