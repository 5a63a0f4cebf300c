"""Answers compared with the unfolded model in service, and what happens when a fold is wrong after all."""

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import onnx
import pytest
from foldserve.parity.cpu_budget import BURST_S
from foldserve.parity.proof import prove_models
from foldserve.server import Server
from foldserve.serving.ladder import Variant
from foldserve.serving.servable import Servable
from foldserve_client import Client, ClientError
from foldserve_proto import fold_service_pb2 as pb
from foldserve_proto.fold_service_pb2_grpc import FoldServiceStub
from numpy.typing import NDArray
from planted import plant_a_wrong_fold
from running import EXAMPLE_MODELS, of_digits, scraped
from small_models import add_model, batch_norm, chain, convolution
from watching import ALWAYS, until, watching

Digits = tuple[NDArray[np.float32], NDArray[np.int64]]


@pytest.fixture
def pair() -> Iterator[tuple[Server, Client]]:
    with watching() as pair:
        yield pair


@pytest.fixture
def watched(pair: tuple[Server, Client]) -> Server:
    return pair[0]


@pytest.fixture
def client(pair: tuple[Server, Client]) -> Client:
    return pair[1]


def servable(server: Server) -> Servable:
    return server._manager.servable("digits")


def live(client: Client) -> pb.LiveParity:
    return client.parity("digits").live


def test_right_answers_are_found_right(watched: Server, client: Client, digits: Digits) -> None:
    for image in digits[0][:12]:
        client.infer("digits", {"images": image[np.newaxis]})
    until(lambda: sum(live(client).checks.values()) == 12, "every answer is compared, or dropped and counted")
    found = live(client)
    assert found.checks["ok"] == 12 - found.checks["dropped"] > 0
    assert found.window_checks == found.checks["ok"]
    (output,) = found.outputs
    assert 0 < output.relative_l2 < 1e-5
    assert (output.output, output.top1_agreement, output.within_budget) == ("logits", 1, True)
    assert found.reference_bytes > 0
    assert not found.HasField("last_breach")
    metrics = scraped(watched)
    assert metrics[of_digits("foldserve_parity_checks_total", result="ok")] == found.checks["ok"]
    assert metrics[of_digits("foldserve_parity_check_relative_l2_bucket", le="1e-05", output="logits")] > 0
    assert metrics[of_digits("foldserve_parity_reference_rows_total")] == found.checks["ok"]
    assert metrics[of_digits("foldserve_fallback_active")] == 0
    assert of_digits("foldserve_parity_last_breach_timestamp_seconds") not in metrics


def test_a_wrong_fold_under_load_is_replaced_and_no_request_fails(
    watched: Server, client: Client, digits: Digits
) -> None:
    images = digits[0]
    right = client.infer("digits", {"images": images})["logits"]
    failures: list[Exception] = []
    stop = threading.Event()

    def load(start: int) -> None:
        with Client(f"127.0.0.1:{watched.grpc_port}") as own:
            while not stop.is_set():
                try:
                    own.infer("digits", {"images": images[start : start + 1]})
                except ClientError as error:
                    failures.append(error)

    callers = [threading.Thread(target=load, args=(index,)) for index in range(8)]
    for caller in callers:
        caller.start()
    until(lambda: live(client).checks["ok"] > 3, "right answers are compared under load")
    plant_a_wrong_fold(watched)
    until(lambda: client.parity("digits").HasField("fallback"), "the unfolded model takes over")
    answered = client.infer("digits", {"images": images})["logits"]
    until(lambda: live(client).window_checks > 0, "checks go on")
    stop.set()
    for caller in callers:
        caller.join()

    assert failures == []
    assert np.linalg.norm(answered - right) <= 1e-5 * np.linalg.norm(right)
    parity = client.parity("digits")
    assert (parity.variant, parity.fallback.reason) == ("unfolded", "parity_breach")
    assert "'logits': relative L2" in parity.fallback.evidence
    assert parity.live.checks["breach"] >= 3
    metrics = scraped(watched)
    assert metrics[of_digits("foldserve_fallback_total", reason="parity_breach")] == 1
    assert metrics[of_digits("foldserve_fallback_active")] == 1
    assert metrics[of_digits("foldserve_variant_info", variant="unfolded")] == 1
    assert metrics[of_digits("foldserve_inference_exec_seconds_total", variant="unfolded")] > 0
    properties = client.model_metadata("digits").properties
    assert (properties["foldserve.variant"], properties["foldserve.fallback"]) == (
        "unfolded",
        "parity_breach",
    )
    assert properties["foldserve.batchnorms_folded"] == "0"
    assert client.ready("digits")


def test_a_reset_brings_the_fold_back(watched: Server, client: Client, digits: Digits) -> None:
    plant_a_wrong_fold(watched)
    image = {"images": digits[0][:1]}

    def has_fallen_back() -> bool:
        client.infer("digits", image)
        return client.parity("digits").HasField("fallback")

    until(has_fallen_back, "the unfolded model takes over")
    with grpc.insecure_channel(watched.management_address) as channel:
        stub = FoldServiceStub(channel)
        response = stub.ResetFallback(pb.ResetFallbackRequest(name="digits"))
        assert (response.was_active, response.variant) == (True, "folded")
        assert not stub.ResetFallback(pb.ResetFallbackRequest(name="digits")).was_active
    assert servable(watched).variant is Variant.FOLDED
    parity = client.parity("digits")
    assert (parity.variant, parity.HasField("fallback")) == ("folded", False)
    assert scraped(watched)[of_digits("foldserve_fallback_active")] == 0
    assert client.infer("digits", image)["logits"].shape == (1, 10)
    until(lambda: live(client).window_checks > 0, "checks go on with the fold")
    assert live(client).window_breaches == 0


def test_breaking_inputs_are_kept_for_verify(digits: Digits, tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    with watching(breach_dir=kept, breach_max_files=2) as (server, client):
        plant_a_wrong_fold(server)

        def has_fallen_back() -> bool:
            client.infer("digits", {"images": digits[0][:2]})
            return client.parity("digits").HasField("fallback")

        until(has_fallen_back, "the unfolded model takes over")
    files = sorted(kept.iterdir())
    assert len(files) == 2
    with np.load(files[0]) as archive:
        assert any(np.array_equal(archive["images"], image[np.newaxis]) for image in digits[0][:2])
        served, reference = archive["served/logits"], archive["reference/logits"]
    assert 1e-5 < np.linalg.norm(served - reference) / np.linalg.norm(reference) < 0.5
    model = EXAMPLE_MODELS / "digits" / "1" / "model.onnx"
    assert prove_models(model, model, inputs=files[0]).passed


@pytest.mark.parametrize("shadow", [{"reference": "off"}, {"sample_rate": 0.0}])
def test_where_nothing_is_compared_nothing_is_told(shadow: dict[str, Any], digits: Digits) -> None:
    with watching(shadow=shadow) as (server, client):
        client.infer("digits", {"images": digits[0]})
        assert not client.parity("digits").HasField("live")
        assert not [name for name, _ in scraped(server) if name.startswith("foldserve_parity_checks")]


def small_model(repository: Path) -> Path:
    """A model of one convolution and one BatchNorm; its file."""
    model = chain(["batch", 3, 8, 8], convolution(3), batch_norm())
    return add_model(repository, "small", model) / "model.onnx"


IMAGE = np.random.default_rng(3).normal(size=(1, 3, 8, 8)).astype(np.float32)


def test_a_model_file_that_changed_since_is_no_reference(tmp_path: Path) -> None:
    """An original that was not the one loaded would break parity, and nothing would be wrong."""
    file = small_model(tmp_path / "repository")
    shadow = ALWAYS | {"reference": "on_demand"}
    with watching(tmp_path / "repository", shadow=shadow, cache_dir=tmp_path / "cache") as (_, client):
        model = onnx.load(file)
        model.doc_string = "another one"
        file.write_bytes(model.SerializeToString())
        client.infer("small", IMAGE)
        until(lambda: client.parity("small").live.checks["error"], "the check fails")
        assert "its files were changed since it was loaded" in client.parity("small").live.reference_failure
        assert not client.parity("small").HasField("fallback")


def test_a_restart_finds_the_original_in_the_cache(tmp_path: Path) -> None:
    small_model(tmp_path / "repository")

    def compare_one() -> None:
        with watching(tmp_path / "repository", cache_dir=tmp_path / "cache") as (_, client):
            client.infer("small", IMAGE)
            until(lambda: client.parity("small").live.checks["ok"], "it is compared")

    compare_one()
    compare_one()
    (entry,) = (tmp_path / "cache" / "originals").iterdir()
    assert {file.name for file in entry.iterdir()} >= {"model.onnx", "reference.onnx", "model.onnx.data"}


def test_without_a_cache_answers_are_compared_all_the_same(tmp_path: Path) -> None:
    small_model(tmp_path / "repository")
    (tmp_path / "cache").write_text("a file where the folder should be")
    with watching(tmp_path / "repository", cache_dir=tmp_path / "cache") as (_, client):
        client.infer("small", IMAGE)
        until(lambda: client.parity("small").live.checks["ok"], "it is compared")


def test_an_unloaded_model_is_compared_and_told_of_no_more(tmp_path: Path) -> None:
    small_model(tmp_path / "repository")
    explicit = {"model_control": "explicit", "load_models": ["small"]}
    with watching(tmp_path / "repository", **explicit) as (server, client):
        client.infer("small", IMAGE)
        until(lambda: client.parity("small").live.checks["ok"], "it is compared")
        client.unload_model("small")
        told = "foldserve_parity_checks_total"
        until(lambda: not [name for name, _ in scraped(server) if name == told], "its series go")


def test_with_everything_sampled_under_overload_no_request_fails(digits: Digits) -> None:
    """The worker cannot keep up: it drops and counts, and nobody waits for it."""
    with watching(shadow_cpu_share=0.001) as (server, client):
        images = digits[0]
        server._manager._shadowing._worker._budget.spend(BURST_S)  # what was saved up is gone

        def load(start: int) -> None:
            for index in range(start, start + 40):
                client.infer("digits", {"images": images[index : index + 1]})

        with ThreadPoolExecutor(8) as pool:
            list(pool.map(load, range(0, 320, 40)))
        until(lambda: sum(live(client).checks.values()) == 320, "every request is compared or counted")
        assert live(client).checks["dropped"] > 0
        assert live(client).checks["breach"] == live(client).checks["error"] == 0


def test_drift_of_the_inputs_is_scored_window_by_window(digits: Digits) -> None:
    """Real digits are like those of training; the same ones without normalisation are far away."""
    with watching(shadow=ALWAYS | {"drift_window": 64}) as (server, client):
        images, asked = digits[0], 0

        def are_compared() -> bool:
            return client.drift("digits").drift.rows == asked

        def ask(factor: float, images: NDArray[np.float32]) -> None:
            nonlocal asked
            for start in range(0, len(images), 8):
                rows = images[start : start + 8]
                asked += len(rows)
                client.infer("digits", {"images": rows * np.float32(factor)})
                until(are_compared, "all are compared")

        assert not client.drift("digits").drift.HasField("overall")
        assert not [name for name, _ in scraped(server) if name == "foldserve_drift_overall"]
        ask(1, images[:1])  # the first check is of one row, whatever comes
        ask(1, images[:320])
        like_training = client.drift("digits").drift
        assert (like_training.windows, like_training.rows, len(like_training.layers)) == (5, 321, 4)
        assert like_training.overall.mean < 0.3
        assert like_training.HasField("baseline")
        ask(16, images[:64])
        far = client.drift("digits").drift
        assert far.overall.mean > 10 * like_training.overall.mean
        assert far.baseline == like_training.baseline
        samples = scraped(server)
        assert samples[of_digits("foldserve_drift_overall", measure="mean")] == far.overall.mean
        assert samples[of_digits("foldserve_drift_baseline", measure="variance")] == far.baseline.variance
        assert samples[of_digits("foldserve_drift_windows_total")] == 6
        layer = far.layers[0]
        assert samples[of_digits("foldserve_drift_score", layer=layer.layer, measure="mean")] == layer.mean


def test_a_model_without_batchnorms_has_no_drift_and_says_so(tmp_path: Path) -> None:
    add_model(tmp_path / "repository", "small", chain(["batch", 3, 8, 8], convolution(3)))
    with watching(tmp_path / "repository") as (_, client):
        client.infer("small", IMAGE)
        until(lambda: client.parity("small").live.checks["ok"], "it is compared")
        response = client.drift("small")
        assert not response.HasField("drift")
        assert "no BatchNorm" in response.unavailable
