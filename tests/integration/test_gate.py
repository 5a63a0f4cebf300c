"""The gate at load, with folds that are wrong on purpose."""

import json
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
from foldserve.folding import FoldResult, fold
from foldserve.serving import loader
from foldserve_client import Client
from numpy.typing import NDArray
from running import EXAMPLE_MODELS, serving


def _wrong_by(factor: float) -> object:
    """A fold that multiplies one output channel of the first convolution."""

    def wrong_fold(model: ir.Model) -> FoldResult:
        result = fold(model)
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
    monkeypatch.setattr(loader, "fold", _wrong_by(factor))
    with serving(repository) as server, Client(f"127.0.0.1:{server.grpc_port}") as client:
        assert client.model_metadata("digits").properties["foldserve.variant"] == "unfolded"
        report = client.parity("digits").report
        assert report.verdict == "breach"
        assert not report.outputs[0].within_budget
        assert (client.infer("digits", images).output.argmax(axis=1) == labels).mean() >= 0.98
    records = [json.loads(line) for line in capfd.readouterr().err.splitlines()]
    (fallback,) = [record for record in records if record["event"] == "parity breach at load: falling back"]
    assert (fallback["level"], fallback["candidate"]) == ("error", "folded")
    assert "'logits'" in fallback["evidence"]


def test_a_right_fold_passes_the_same_gate(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loader, "fold", _wrong_by(1.0))
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
