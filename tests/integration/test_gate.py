"""The gate at load, with folds that are wrong on purpose."""

import json
from collections.abc import Callable, Collection
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from foldserve.folding import FoldResult, fold
from foldserve.server import Server
from foldserve.serving import fold_tier, preparation
from foldserve.serving.ladder import MOST_UNFOLDINGS
from foldserve_client import Client
from numpy.typing import NDArray
from running import EXAMPLE_MODELS, serving
from small_models import Operator, add_model, batch_norm, chain

FIRST_SITE = "features.1/BatchNormalization"


def _wrong_by(factor: float, *, whenever: bool = False) -> Callable[..., FoldResult]:
    """A fold that multiplies one output channel of the first convolution where it folds into it.

    ``whenever``: even where it leaves that convolution alone.
    """

    def wrong_fold(model: ir.Model, *, max_tier: int, keep: Collection[str] = ()) -> FoldResult:
        result = fold(model, max_tier=max_tier, keep=keep)
        if FIRST_SITE in keep and not whenever:
            return result
        convolution = next(node for node in result.model.graph if node.op_type == "Conv")
        weight = convolution.inputs[1]
        assert weight is not None
        assert weight.const_value is not None
        changed = weight.const_value.numpy().copy()
        changed[0] *= factor
        weight.const_value = ir.tensor(changed)
        return result

    return wrong_fold


def _plant(monkeypatch: pytest.MonkeyPatch, wrong_fold: Callable[..., FoldResult]) -> None:
    for module in (fold_tier, preparation):
        monkeypatch.setattr(module, "fold", wrong_fold)


def _fallbacks(capfd: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    records = [json.loads(line) for line in capfd.readouterr().err.splitlines()]
    return [record for record in records if record["event"] == "parity breach at load: falling back"]


def _serving(repository: Path, **settings: object) -> AbstractContextManager[Server]:
    """A server that knows nothing of what other tests loaded: their folds were planted."""
    return serving(repository, cache_dir=repository.parent / "cache", **settings)


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    models = tmp_path / "models"
    models.mkdir()
    (models / "digits").symlink_to(EXAMPLE_MODELS / "digits")
    return models


@pytest.mark.parametrize("factor", [1.001, 0.0, float("nan")])
def test_a_wrong_site_is_unfolded_and_the_rest_serves_folded(
    repository: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    digits: tuple[NDArray[np.float32], NDArray[np.int64]],
    factor: float,
) -> None:
    images, labels = digits
    _plant(monkeypatch, _wrong_by(factor))
    with _serving(repository) as server, Client(f"127.0.0.1:{server.grpc_port}") as client:
        assert client.model_metadata("digits").properties["foldserve.variant"] == "folded"
        sites = client.fold_report("digits").report.sites
        assert [site.name for site in sites if site.reason == "excluded"] == [FIRST_SITE]
        assert sum(site.outcome == "folded" for site in sites) == 3
        report = client.parity("digits").report
        assert report.verdict == "within_budget"
        assert len(report.sites) >= 3
        assert all(site.within_budget for site in report.sites)
        assert (client.infer("digits", images).output.argmax(axis=1) == labels).mean() >= 0.98
    (fallback,) = _fallbacks(capfd)
    assert (fallback["level"], fallback["candidate"]) == ("error", "folded")
    assert fallback["wrong_sites"] == [FIRST_SITE]
    assert "'logits'" in fallback["evidence"]
    assert "site by site 1 of 5 values are wrong" in fallback["evidence"]


def test_a_fold_that_stays_wrong_is_caught_and_the_unfolded_model_serves(
    repository: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    digits: tuple[NDArray[np.float32], NDArray[np.int64]],
) -> None:
    images, labels = digits
    _plant(monkeypatch, _wrong_by(1.001, whenever=True))
    with _serving(repository) as server, Client(f"127.0.0.1:{server.grpc_port}") as client:
        assert client.model_metadata("digits").properties["foldserve.variant"] == "unfolded"
        response = client.parity("digits")
        assert (response.variant, response.report.verdict) == ("unfolded", "breach")
        assert not response.report.outputs[0].within_budget
        assert [site.within_budget for site in response.report.sites].count(False) == 1
        assert (client.infer("digits", images).output.argmax(axis=1) == labels).mean() >= 0.98
    fallbacks = _fallbacks(capfd)
    assert 2 <= len(fallbacks) <= MOST_UNFOLDINGS + 1
    assert {fallback["candidate"] for fallback in fallbacks} == {"folded"}
    assert fallbacks[0]["wrong_sites"] == [FIRST_SITE]


def test_a_fault_that_moves_no_answer_is_found(
    repository: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """So small that the answers stay within their budget; the site does not."""
    budget = {"relative_l2": 1e-3, "scaled_max": 1e-3}
    _plant(monkeypatch, _wrong_by(1.001))
    with _serving(repository, parity=budget) as server, Client(f"127.0.0.1:{server.grpc_port}") as client:
        assert client.parity("digits").report.verdict == "within_budget"
        assert client.fold_report("digits").report.sites[0].reason == "excluded"
    (fallback,) = _fallbacks(capfd)
    assert fallback["evidence"].startswith("every output is within the budget; site by site 1 of 5")


def test_a_right_fold_passes_the_same_gate(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _plant(monkeypatch, _wrong_by(1.0))
    with _serving(repository) as server, Client(f"127.0.0.1:{server.grpc_port}") as client:
        assert client.model_metadata("digits").properties["foldserve.variant"] == "folded"
        report = client.parity("digits").report
        assert report.verdict == "within_budget"
        assert [site.original_value for site in report.sites][-1] == "logits"
        assert all(site.within_budget and site.relative_l2 < 1e-6 for site in report.sites)


def test_a_budget_below_the_noise_is_refused_with_evidence(repository: Path) -> None:
    budget = {"relative_l2": 1e-12, "scaled_max": 1e-12}
    with _serving(repository, parity=budget) as server, Client(f"127.0.0.1:{server.grpc_port}") as client:
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


def test_an_imprecise_kernel_of_the_runtime_costs_neither_the_fold_nor_the_rest(tmp_path: Path) -> None:
    """Average pooling of large maps in ONNX Runtime's blocked layout adds up in plain float32."""
    weights = np.random.default_rng(7).normal(size=(2, 16, 16, 3, 3)).astype(np.float32)
    layers: list[Operator] = [
        ("Tile", [np.array([1, 1, 14, 14])], {}),
        ("Conv", [weights[0, :, :3]], {}),
        batch_norm(16),
        ("Relu", [], {}),
        ("Conv", [weights[1]], {}),
        ("Relu", [], {}),
        ("GlobalAveragePool", [], {}),
    ]
    add_model(tmp_path / "models", "pooled", chain(["batch", 3, 8, 8], *layers))
    budget = {"relative_l2": 2e-6, "scaled_max": 4e-6}
    served = _serving(tmp_path / "models", parity=budget)
    with served as server, Client(f"127.0.0.1:{server.grpc_port}") as client:
        facts = client.model_metadata("pooled").properties
        assert facts["foldserve.variant"] == "folded"
        assert facts["foldserve.runtime_optimisation"] == "without Pad_Fusion, NchwcTransformer"
        assert client.parity("pooled").report.verdict == "within_budget"
