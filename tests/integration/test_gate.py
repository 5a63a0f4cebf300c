"""The gate at load, with folds that are wrong on purpose."""

import json
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
from foldserve.folding import FoldResult, fold
from foldserve.serving import fold_tier
from foldserve_client import Client
from numpy.typing import NDArray
from running import EXAMPLE_MODELS, serving


def _wrong_by(factor: float) -> object:
    """A fold that multiplies one output channel of the first convolution."""

    def wrong_fold(model: ir.Model, *, max_tier: int) -> FoldResult:
        result = fold(model, max_tier=max_tier)
        convolution = next(node for node in result.model.graph if node.op_type == "Conv")
        weight = convolution.inputs[1]
        assert weight is not None
        assert weight.const_value is not None
        changed = weight.const_value.numpy().copy()
        changed[0] *= factor
        weight.const_value = ir.tensor(changed)
        return result

    return wrong_fold


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    (tmp_path / "digits").symlink_to(EXAMPLE_MODELS / "digits")
    return tmp_path


@pytest.mark.parametrize("factor", [1.001, 0.0, float("nan")])
def test_a_wrong_fold_is_caught_and_the_unfolded_model_serves(
    repository: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    digits: tuple[NDArray[np.float32], NDArray[np.int64]],
    factor: float,
) -> None:
    images, labels = digits
    monkeypatch.setattr(fold_tier, "fold", _wrong_by(factor))
    with serving(repository) as server, Client(f"127.0.0.1:{server.grpc_port}") as client:
        assert client.model_metadata("digits").properties["foldserve.variant"] == "unfolded"
        report = client.parity("digits").report
        assert report.verdict == "breach"
        assert not report.outputs[0].within_budget
        assert (client.infer("digits", images).output.argmax(axis=1) == labels).mean() >= 0.98
    records = [json.loads(line) for line in capfd.readouterr().err.splitlines()]
    fallbacks = [record for record in records if record["event"] == "parity breach at load: falling back"]
    assert [(fallback["level"], fallback["candidate"]) for fallback in fallbacks] == [("error", "folded")] * 2
    assert "'logits'" in fallbacks[0]["evidence"]


def test_a_right_fold_passes_the_same_gate(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fold_tier, "fold", _wrong_by(1.0))
    with serving(repository) as server, Client(f"127.0.0.1:{server.grpc_port}") as client:
        assert client.model_metadata("digits").properties["foldserve.variant"] == "folded"
        assert client.parity("digits").report.verdict == "within_budget"


def test_a_budget_below_the_noise_is_refused_with_evidence(repository: Path) -> None:
    budget = {"relative_l2": 1e-12, "scaled_max": 1e-12}
    with serving(repository, parity=budget) as server, Client(f"127.0.0.1:{server.grpc_port}") as client:
        report = client.parity("digits").report
        assert report.budget.relative_l2 == 1e-12
        assert report.verdict in ("breach", "original_inaccurate")
        assert "disagree by more than the budget" in report.explanation


def test_a_wrong_optimisation_of_the_runtime_is_left_out(tmp_path: Path) -> None:
    """ONNX Runtime fuses Pad with zeros into MaxPool as if it padded with minus infinity."""
    weight = np.full((1, 1, 1, 1), 1.0, np.float32)
    x = ir.val("x", ir.DataType.FLOAT, ["batch", 1, 6, 6])
    negative = ir.node("Neg", [x])
    positive = ir.node("Abs", [negative.outputs[0]])
    below_zero = ir.node("Neg", [positive.outputs[0]])
    pads = ir.val("pads", const_value=ir.tensor(np.array([0, 0, 1, 1, 0, 0, 1, 1], np.int64)))
    padded = ir.node("Pad", [below_zero.outputs[0], pads])
    pooled = ir.node("MaxPool", [padded.outputs[0]], {"kernel_shape": [3, 3], "strides": [3, 3]})
    kernel = ir.val("kernel", const_value=ir.tensor(weight))
    convolved = ir.node("Conv", [pooled.outputs[0], kernel])
    convolved.outputs[0].name, convolved.outputs[0].dtype = "y", ir.DataType.FLOAT
    nodes = [negative, positive, below_zero, padded, pooled, convolved]
    graph = ir.Graph(
        [x], convolved.outputs, nodes=nodes, initializers=[pads, kernel], opset_imports={"": 18}, name="g"
    )
    folder = tmp_path / "pooled" / "1"
    folder.mkdir(parents=True)
    ir.save(ir.Model(graph, ir_version=9), folder / "model.onnx")
    with serving(tmp_path) as server, Client(f"127.0.0.1:{server.grpc_port}") as client:
        facts = client.model_metadata("pooled").properties
        assert facts["foldserve.runtime_optimisation"] == "without Pad_Fusion"
        assert client.parity("pooled").report.verdict == "within_budget"
        answer = client.infer("pooled", np.ones((1, 1, 6, 6), np.float32)).output
        np.testing.assert_array_equal(answer[0, 0], [[0, 0], [0, -1]])  # the last window reaches no padding
