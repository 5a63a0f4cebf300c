import pytest
from foldserve.observability.inference import SECONDS, InferenceMetrics, StageSeconds
from foldserve.observability.metrics import Metrics

MODEL = {"model": "digits", "version": "1"}


def _value(metrics: Metrics, name: str, **labels: str) -> float | None:
    return metrics.registry.get_sample_value(name, MODEL | labels)


def test_an_inference_is_counted_by_rows_and_its_stages_in_seconds() -> None:
    metrics = Metrics()
    inference = InferenceMetrics("digits", "1", "folded", lambda: 3)
    metrics.requests.add(inference)
    stages = StageSeconds(queue=0.5, compute_input=0.25, compute_infer=2.0, compute_output=0.125)
    inference.record(rows=8, runs=(9,), stages=stages)
    inference.record(rows=1, runs=(), stages=stages)
    assert _value(metrics, "foldserve_queue_requests") == 3
    assert _value(metrics, "foldserve_inference_count_total") == 9
    assert _value(metrics, "foldserve_inference_exec_count_total") == 1
    assert _value(metrics, "foldserve_inference_queue_duration_seconds_sum") == 1.0
    assert _value(metrics, "foldserve_inference_compute_input_duration_seconds_sum") == 0.5
    assert _value(metrics, "foldserve_inference_compute_infer_duration_seconds_sum", variant="folded") == 4.0
    assert (
        _value(metrics, "foldserve_inference_compute_infer_duration_seconds_count", variant="reference") == 0
    )
    assert _value(metrics, "foldserve_inference_compute_output_duration_seconds_sum") == 0.25


@pytest.mark.parametrize(("seconds", "bucket"), [(0.0, 0), (SECONDS[3], 3), (0.0011, 4), (1e9, len(SECONDS))])
def test_a_duration_is_in_every_bucket_that_reaches_it(seconds: float, bucket: int) -> None:
    metrics = Metrics()
    metrics.requests.record_request("digits", "1", "ModelInfer", "OK", seconds)
    name = "foldserve_request_duration_seconds_bucket"
    counts = [_value(metrics, name, method="ModelInfer", le=le) for le in (*map(str, SECONDS), "+Inf")]
    assert counts == [0] * bucket + [1] * (len(SECONDS) + 1 - bucket)


def test_refused_requests_are_counted_with_their_duration() -> None:
    metrics = Metrics()
    metrics.requests.record_request("digits", "1", "ModelInfer", "INVALID_ARGUMENT", 0.25)
    metrics.requests.record_request("digits", "1", "ModelInfer", "OK", 0.5)
    for code in ("INVALID_ARGUMENT", "OK"):
        assert _value(metrics, "foldserve_requests_total", method="ModelInfer", code=code) == 1
    assert _value(metrics, "foldserve_request_duration_seconds_sum", method="ModelInfer") == 0.75


def test_two_servers_do_not_share_metrics() -> None:
    one, other = Metrics(), Metrics()
    one.requests.record_request("digits", "1", "ModelInfer", "OK", 0.25)
    assert _value(one, "foldserve_requests_total", method="ModelInfer", code="OK") == 1
    assert _value(other, "foldserve_requests_total", method="ModelInfer", code="OK") is None
