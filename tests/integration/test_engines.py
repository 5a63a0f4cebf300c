"""Engines that are not the baseline: chosen at load, told of everywhere, watched, given up one at a time."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
from foldserve.runtime.openvino_module import installed
from foldserve.server import Server
from foldserve.serving import engine_choice
from foldserve.serving.servable import Servable
from foldserve_client import Client
from numpy.typing import NDArray
from planted import plant_a_wrong_fold
from running import EXAMPLE_DATA, EXAMPLE_MODELS, of_digits, scraped, serving
from unit.serving.openers import ends_while_opening
from watching import until, watching

BASELINE = "onnxruntime-cpu-float32"
RULINGS = ("wrong", "right", "undecided")
INT8 = {"onnxruntime-cpu-int8", "openvino-cpu-int8"}
REQUIRED_ACCURACY = 0.98
WIDE = {"precisions": ["int8"], "parity": {"relative_l2": 0.05, "top1_agreement": 0.9}}


@pytest.fixture(autouse=True)
def _whatever_is_allowed_serves(monkeypatch: pytest.MonkeyPatch) -> None:
    """Which engine is faster depends on the machine; here the fastest rival serves even if it is slower."""
    monkeypatch.setattr(engine_choice, "WORTH", 0.0)


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    shutil.copytree(EXAMPLE_MODELS / "digits", tmp_path / "models" / "digits")
    return tmp_path / "models"


@pytest.fixture
def watched(repository: Path, tmp_path: Path) -> Iterator[tuple[Server, Client]]:
    with watching(repository, cache_dir=tmp_path / "cache", **WIDE) as pair:
        yield pair


def _servable(server: Server) -> Servable:
    return server._manager.servable("digits")


def _held_out() -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    with np.load(EXAMPLE_DATA / "digits_test.npz") as data:
        return data["images"], data["labels"]


def _accuracy(client: Client) -> float:
    images, labels = _held_out()
    return float((client.infer("digits", images)["logits"].argmax(axis=1) == labels).mean())


def test_int8_within_the_budget_serves_digits_and_is_told_of(watched: tuple[Server, Client]) -> None:
    server, client = watched
    own = _servable(server)
    assert own.engine in INT8
    assert _accuracy(client) >= REQUIRED_ACCURACY
    assert scraped(server)[of_digits("foldserve_engine_info", engine=own.engine)] == 1
    report = client.fold_report("digits")
    assert report.engine == report.engines.engine == own.engine
    trials = {trial.engine: trial for trial in report.engines.trials}
    assert trials.keys() == {BASELINE, *INT8}
    chosen = trials[own.engine]
    assert 1e-4 < chosen.relative_l2 <= 0.05
    assert chosen.top1_agreement >= 0.9
    assert chosen.rows_per_s > 0
    assert trials[BASELINE].relative_l2 < 1e-5
    assert report.engines.why_not.keys() == trials.keys() - {own.engine}


def test_with_the_default_budget_the_answer_is_the_float32_one(
    repository: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with serving(repository, cache_dir=tmp_path / "cache", precisions=["int8"]) as server:
        own = _servable(server)
        assert own.engine == BASELINE
        assert all("relative L2" in reason for reason in own.provenance.engines.why_not.values())
        assert not list((tmp_path / "cache").rglob("*int8*"))
    assert "set parity: {relative_l2: " in capfd.readouterr().err


@pytest.mark.skipif(not installed(), reason="OpenVINO is not installed")
def test_openvino_in_float32_needs_no_wider_budget(repository: Path, tmp_path: Path) -> None:
    with (
        serving(repository, cache_dir=tmp_path / "cache", precisions=["float32"]) as server,
        Client(f"127.0.0.1:{server.grpc_port}") as client,
    ):
        own = _servable(server)
        assert own.engine == "openvino-cpu-float32"
        execution = own._session.execution
        assert execution.runtime.startswith("openvino ")
        assert set(execution.layers) == {"f32"}
        assert _accuracy(client) >= REQUIRED_ACCURACY


def test_a_restart_finds_the_choice_in_the_cache(repository: Path, tmp_path: Path) -> None:
    def served() -> tuple[str, bool]:
        with serving(repository, cache_dir=tmp_path / "cache", **WIDE) as server:
            own = _servable(server)
            return own.engine, own.provenance.from_cache

    engine, from_cache = served()
    assert engine in INT8
    assert not from_cache
    assert served() == (engine, True)
    (quantised,) = (tmp_path / "cache" / "models").rglob("model.int8.onnx")
    quantised.write_bytes(quantised.read_bytes()[:-1])
    again, from_cache = served()
    assert again in INT8
    assert not from_cache


def test_a_model_that_a_process_ended_with_is_served_without_trying_engines(
    repository: Path, tmp_path: Path
) -> None:
    """ONNX Runtime runs it: an engine that does not survive it must not keep it from being served."""
    with serving(repository, cache_dir=tmp_path / "cache", **WIDE) as server:
        key = _servable(server).provenance.artefact_key
    shutil.rmtree(tmp_path / "cache" / "models")
    ends_while_opening(tmp_path / "cache" / "opening" / key)
    with serving(repository, cache_dir=tmp_path / "cache", **WIDE) as server:
        own = _servable(server)
        assert own.engine == BASELINE
        assert own.provenance.engines.why_not.keys() == INT8
        assert all(reason.startswith("not tried") for reason in own.provenance.engines.why_not.values())


def test_without_samples_there_is_no_int8(repository: Path, tmp_path: Path) -> None:
    (repository / "digits" / "samples.npz").unlink()
    with serving(repository, cache_dir=tmp_path / "cache", **WIDE) as server:
        own = _servable(server)
        assert own.engine == BASELINE
        assert all("samples.npz" in reason for reason in own.provenance.engines.why_not.values())


def test_parity_that_breaks_gives_up_one_engine_at_a_time(watched: tuple[Server, Client]) -> None:
    server, client = watched
    own, images = _servable(server), _held_out()[0][:8]
    first = own.engine
    steps: list[tuple[str, str]] = []

    def fallbacks() -> float:
        return scraped(server).get(of_digits("foldserve_fallback_total", reason="parity_breach"), 0)

    def another_fallback() -> bool:
        client.infer("digits", images)
        until(lambda: not server._manager._shadowing._worker._waiting, "the check ends")
        return fallbacks() > len(steps)

    for _ in range(2):
        plant_a_wrong_fold(server, factor=3.0)  # a budget for int8 does not excuse that either
        until(another_fallback, "a step down")
        steps.append((own.variant, own.engine))
    assert steps == [("folded", BASELINE), ("unfolded", BASELINE)]
    # The engine was given up without asking; the fold, which was proven, only after float64 was asked.
    told = scraped(server)
    asked = {one: told.get(of_digits("foldserve_parity_disputes_total", verdict=one), 0) for one in RULINGS}
    assert sum(asked.values()) >= 1
    assert asked["right"] == 0
    assert scraped(server)[of_digits("foldserve_engine_info", engine=BASELINE)] == 1
    fallback = client.parity("digits").fallback
    assert (fallback.variant, fallback.engine) == ("unfolded", BASELINE)
    assert client.reset_fallback("digits").was_active
    assert (own.variant, own.engine) == ("folded", first)
    assert _accuracy(client) >= REQUIRED_ACCURACY


def test_the_budget_that_half_precision_widens_is_not_for_other_precisions(
    repository: Path, tmp_path: Path
) -> None:
    """One float16 constant makes the default budget 1,600 times as wide: nobody asked for int8 by that."""
    file = repository / "digits" / "1" / "model.onnx"
    model = onnx.load(file)
    (output,) = model.graph.output
    inner = f"{output.name}_before"
    for node in model.graph.node:
        node.output[:] = [inner if name == output.name else name for name in node.output]
    one = onnx.numpy_helper.from_array(np.ones(1, np.float16), "half")
    model.graph.initializer.append(one)
    model.graph.node.extend(
        [
            onnx.helper.make_node("Cast", ["half"], ["whole"], to=onnx.TensorProto.FLOAT),
            onnx.helper.make_node("Mul", [inner, "whole"], [output.name]),
        ]
    )
    onnx.save(model, file)
    with serving(repository, cache_dir=tmp_path / "cache", precisions=["int8"]) as server:
        own = _servable(server)
        assert own.provenance.parity_report.budget.relative_l2 > 1e-3
        assert own.engine == BASELINE
        assert all("own half precision" in why for why in own.provenance.engines.why_not.values())
