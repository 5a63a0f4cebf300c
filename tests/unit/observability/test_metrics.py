from foldserve.observability.metrics import Metrics, StageSeconds


def _value(metrics: Metrics, name: str, **labels: str) -> float | None:
    return metrics.registry.get_sample_value(name, labels)


def test_an_inference_is_counted_by_rows_and_its_stages_in_seconds() -> None:
    metrics = Metrics()
    stages = StageSeconds(queue=0.5, compute_input=0.25, compute_infer=2.0, compute_output=0.125)
    metrics.record_inference("digits", "1", "folded", 8, stages)
    metrics.record_inference("digits", "1", "folded", 1, stages)
    labels = {"model": "digits", "version": "1"}
    assert _value(metrics, "foldserve_inference_count_total", **labels) == 9
    assert _value(metrics, "foldserve_inference_exec_count_total", **labels) == 2
    assert _value(metrics, "foldserve_inference_queue_duration_seconds_sum", **labels) == 1.0
    assert _value(metrics, "foldserve_inference_compute_input_duration_seconds_sum", **labels) == 0.5
    assert (
        _value(metrics, "foldserve_inference_compute_infer_duration_seconds_sum", variant="folded", **labels)
        == 4.0
    )
    assert _value(metrics, "foldserve_inference_compute_output_duration_seconds_sum", **labels) == 0.25


def test_refused_requests_are_counted_with_their_duration() -> None:
    metrics = Metrics()
    metrics.record_request("digits", "1", "ModelInfer", "INVALID_ARGUMENT", 0.25)
    labels = {"model": "digits", "version": "1", "method": "ModelInfer"}
    assert _value(metrics, "foldserve_requests_total", code="INVALID_ARGUMENT", **labels) == 1
    assert _value(metrics, "foldserve_request_duration_seconds_sum", **labels) == 0.25


def test_two_servers_do_not_share_metrics() -> None:
    one, other = Metrics(), Metrics()
    one.record_request("digits", "1", "ModelInfer", "OK", 0.25)
    labels = {"model": "digits", "version": "1", "method": "ModelInfer", "code": "OK"}
    assert _value(one, "foldserve_requests_total", **labels) == 1
    assert _value(other, "foldserve_requests_total", **labels) is None
