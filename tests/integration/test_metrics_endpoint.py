"""/metrics of a serving server, parsed by Prometheus's own text parser."""

from pathlib import Path

import numpy as np
import pytest
from foldserve.server import Server
from foldserve_client import Client, InvalidArgument, NotFound
from running import EXAMPLE_MODELS, of_digits, scraped, serving


def test_requests_are_counted_by_outcome_and_stage(server: Server) -> None:
    images = np.zeros((3, 1, 8, 8), np.float32)
    before = scraped(server)
    with Client(f"127.0.0.1:{server.grpc_port}") as client:
        client.infer("digits", images)
        with pytest.raises(InvalidArgument):
            client.infer("digits", images, outputs=["logits", "logits"])
    after = scraped(server)

    def grown(name: str, **labels: str) -> float:
        return after[of_digits(name, **labels)] - before.get(of_digits(name, **labels), 0)

    assert grown("foldserve_requests_total", method="ModelInfer", code="OK") == 1
    assert grown("foldserve_requests_total", method="ModelInfer", code="INVALID_ARGUMENT") == 1
    assert grown("foldserve_request_duration_seconds_count", method="ModelInfer") == 2
    assert grown("foldserve_inference_count_total") == 3
    assert grown("foldserve_inference_exec_count_total") == 1
    assert grown("foldserve_inference_compute_infer_duration_seconds_count", variant="folded") == 1
    assert grown("foldserve_inference_queue_duration_seconds_count") == 1
    assert grown("foldserve_inference_compute_input_duration_seconds_sum") > 0
    assert grown("foldserve_inference_compute_output_duration_seconds_sum") > 0


def test_loading_leaves_its_facts(server: Server) -> None:
    samples = scraped(server)
    assert samples[of_digits("foldserve_model_ready")] == 1
    assert samples[of_digits("foldserve_provider_info", requested="auto", actual="cpu")] == 1
    assert samples[of_digits("foldserve_variant_info", variant="folded")] == 1
    assert samples[of_digits("foldserve_batchnorms", outcome="folded", reason="")] == 4
    assert samples[of_digits("foldserve_biases_stripped")] >= 1
    assert 0 < samples[of_digits("foldserve_parity_relative_l2", output="logits")] < 1e-5
    assert 0 < samples[of_digits("foldserve_parity_scaled_max", output="logits")] < 1e-4
    assert samples[of_digits("foldserve_parity_top1_agreement", output="logits")] == 1
    for stage in ("loading", "warming"):
        assert samples[of_digits("foldserve_load_duration_seconds", stage=stage)] > 0


def test_preparing_leaves_what_each_stage_took(tmp_path: Path) -> None:
    with serving(EXAMPLE_MODELS, cache_dir=tmp_path) as server:
        samples = scraped(server)
    for stage in ("loading", "folding", "proving", "warming", "tuning"):
        assert samples[of_digits("foldserve_load_duration_seconds", stage=stage)] > 0


def test_callers_cannot_make_up_label_values(server: Server) -> None:
    with Client(f"127.0.0.1:{server.grpc_port}") as client:
        for index in range(5):
            with pytest.raises(NotFound):
                client.model_metadata(f"made-up-{index}")
    labels = {value for _, pairs in scraped(server) for _, value in pairs}
    assert not [value for value in labels if "made-up" in value]
