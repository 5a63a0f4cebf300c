import numpy as np
import onnx_ir as ir
import pytest
from foldserve.runtime.onnxruntime_session import OnnxRuntimeSession
from foldserve.serving.fold_tier import fastest, folded_forms, median_seconds
from running import EXAMPLE_MODELS

DIGITS = EXAMPLE_MODELS / "digits" / "1" / "model.onnx"


@pytest.mark.parametrize(
    ("seconds", "chosen"),
    [
        ([1.0], 0),
        ([1.0, 1.0], 0),
        ([1.0, 0.98], 0),
        ([1.0, 0.9], 1),
        ([1.0, 2.0, 0.9], 2),
        ([1.0, 0.9, 0.89], 1),
        ([1.0, 0.9, 0.8], 2),
    ],
)
def test_a_higher_tier_has_to_earn_its_place(seconds: list[float], chosen: int) -> None:
    assert fastest(seconds) == chosen


def _preactivated() -> ir.Model:
    """BatchNorm → Relu → padded Conv: only tier 3 carries the affine through the Relu."""
    generator = np.random.default_rng(1)
    constants = {
        "scale": generator.uniform(0.5, 2, 4),
        "bias": generator.normal(size=4),
        "mean": generator.normal(size=4),
        "variance": generator.uniform(0.5, 2, 4),
        "weight": generator.normal(size=(4, 4, 1, 1)),
    }
    values = {
        name: ir.val(name, const_value=ir.tensor(array.astype(np.float32), name=name))
        for name, array in constants.items()
    }
    x = ir.val("x", ir.DataType.FLOAT, ["batch", 4, 8, 8])
    norm = ir.node(
        "BatchNormalization", [x, *(values[name] for name in ("scale", "bias", "mean", "variance"))]
    )
    relu = ir.node("Relu", norm.outputs)
    convolution = ir.node("Conv", [relu.outputs[0], values["weight"]])
    y = convolution.outputs[0]
    y.name, y.dtype, y.shape = "y", ir.DataType.FLOAT, ir.Shape(["batch", 4, 8, 8])
    graph = ir.Graph(
        [x],
        [y],
        nodes=[norm, relu, convolution],
        initializers=list(values.values()),
        opset_imports={"": 18},
        name="g",
    )
    return ir.Model(graph, ir_version=9)


def test_only_forms_that_fold_more_are_worth_measuring() -> None:
    assert len(folded_forms(ir.load(DIGITS), most=3)) == 1
    forms = folded_forms(_preactivated(), most=3)
    assert [form.report.batch_norms_folded for form in forms] == [0, 1]
    assert len(folded_forms(_preactivated(), most=1)) == 1


def test_sessions_are_timed_one_by_one() -> None:
    sessions = [OnnxRuntimeSession(DIGITS, optimise=optimise) for optimise in (True, False)]
    seconds = median_seconds(sessions, {"images": np.zeros((1, 1, 8, 8), np.float32)})
    assert len(seconds) == 2
    assert all(spent > 0 for spent in seconds)
