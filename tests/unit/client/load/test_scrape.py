"""What is read from the server's metrics."""

import math

import pytest
from foldserve_client.load.errors import LoadTestError
from foldserve_client.load.scrape import Samples, default_url, fetch, parity, quantile, server_view

TEXT = """\
# TYPE foldserve_request_duration_seconds histogram
foldserve_request_duration_seconds_bucket{{le="0.001",method="ModelInfer",model="m",version="1"}} {fast}
foldserve_request_duration_seconds_bucket{{le="0.01",method="ModelInfer",model="m",version="1"}} {all}
foldserve_request_duration_seconds_bucket{{le="+Inf",method="ModelInfer",model="m",version="1"}} {all}
foldserve_request_duration_seconds_sum{{method="ModelInfer",model="m",version="1"}} {seconds}
foldserve_request_duration_seconds_count{{method="ModelInfer",model="m",version="1"}} {all}
foldserve_request_duration_seconds_count{{method="ModelInfer",model="other",version="1"}} 1000
# TYPE foldserve_inference_queue_duration_seconds histogram
foldserve_inference_queue_duration_seconds_sum{{model="m",version="1"}} {queue}
foldserve_inference_queue_duration_seconds_count{{model="m",version="1"}} {all}
# TYPE foldserve_inference_compute_infer_duration_seconds histogram
foldserve_inference_compute_infer_duration_seconds_sum{{model="m",variant="folded",version="1"}} {infer}
foldserve_inference_compute_infer_duration_seconds_count{{model="m",variant="folded",version="1"}} {all}
foldserve_inference_compute_infer_duration_seconds_sum{{model="m",variant="reference",version="1"}} {seconds}
foldserve_inference_compute_infer_duration_seconds_count{{model="m",variant="reference",version="1"}} {all}
# TYPE foldserve_inference_count counter
foldserve_inference_count_total{{model="m",version="1"}} {all}
# TYPE foldserve_inference_exec_count counter
foldserve_inference_exec_count_total{{model="m",version="1"}} {runs}
# TYPE foldserve_variant_info gauge
foldserve_variant_info{{model="m",version="1",variant="folded"}} 1
# TYPE foldserve_parity_checks counter
foldserve_parity_checks_total{{model="m",version="1",result="ok"}} {fast}
foldserve_parity_checks_total{{model="m",version="1",result="dropped"}} 3
# TYPE foldserve_parity_relative_l2 gauge
foldserve_parity_relative_l2{{model="m",version="1",output="a"}} 1e-7
foldserve_parity_relative_l2{{model="m",version="1",output="b"}} 3e-7
# TYPE foldserve_parity_window_top1_agreement gauge
foldserve_parity_window_top1_agreement{{model="m",version="1",output="a"}} 1
foldserve_parity_window_top1_agreement{{model="m",version="1",output="b"}} 0.5
# TYPE foldserve_fallback_active gauge
foldserve_fallback_active{{model="m",version="1"}} 0
"""
BEFORE = Samples.parse(TEXT.format(fast=10, all=10, seconds=0.01, queue=0.001, infer=0.005, runs=10))
AFTER = Samples.parse(TEXT.format(fast=60, all=110, seconds=0.51, queue=0.101, infer=0.205, runs=35))


def test_a_step_is_what_grew_between_two_scrapes() -> None:
    found = server_view(BEFORE, AFTER, ["m"])
    assert found is not None
    assert found.requests == 100
    assert found.mean_ms == pytest.approx(5)
    assert found.p50_ms == pytest.approx(1)
    assert found.p99_ms == pytest.approx(1 + 9 * 49 / 50)
    assert found.mean_batch == 4
    assert {stage.name: stage.mean_ms for stage in found.stages} == pytest.approx(
        {"queue": 1, "compute input": 0, "compute infer": 2, "compute output": 0}
    )


def test_a_server_that_was_not_asked_has_no_view() -> None:
    assert server_view(BEFORE, BEFORE, ["m"]) is None
    assert server_view(BEFORE, AFTER, ["unknown"]) is None


def test_parity_counts_the_checks_of_the_step_and_shows_the_worst_output() -> None:
    (found,) = parity(BEFORE, AFTER, ["m", "m"])
    assert found.checks == {"ok": 50, "dropped": 0}
    assert (found.at_load, found.in_service, found.top1_agreement) == (3e-7, None, 0.5)
    assert (found.variant, found.fallback) == ("folded", False)


@pytest.mark.parametrize(("share", "value"), [(0.0, 0.0), (0.25, 0.5), (0.5, 1.0), (0.75, 2.0), (1.0, 3.0)])
def test_quantiles_are_linear_within_a_bucket(share: float, value: float) -> None:
    assert quantile([("1.0", 50), ("3.0", 100), ("+Inf", 100)], share) == pytest.approx(value)


def test_a_quantile_beyond_the_last_edge_is_that_edge() -> None:
    assert quantile([("1.0", 10), ("+Inf", 100)], 0.99) == 1.0
    assert not math.isinf(quantile([("+Inf", 5)], 0.5))


@pytest.mark.parametrize(
    ("address", "host"),
    [
        ("localhost:8001", "localhost"),
        ("10.0.0.1:9", "10.0.0.1"),
        ("dns:///serve:8001", "serve"),
        ("[::1]:8001", "[::1]"),
    ],
)
def test_metrics_are_looked_for_beside_the_server(address: str, host: str) -> None:
    assert default_url(address) == f"http://{host}:8002/metrics"


def test_no_metrics_are_named() -> None:
    with pytest.raises(LoadTestError, match="no metrics at"):
        fetch("http://127.0.0.1:1/metrics")
