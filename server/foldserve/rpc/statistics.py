"""Triton's ModelStatistics, read from the same counts as the metrics.

*success* counts answered requests and sums their four stages; *fail* counts the others, from arrival to
refusal. A request of 8 rows that shared a run with one of 4 makes inference_count 12, execution_count 1,
success.count 2, and one batch_stats entry of batch_size 12. Durations are in nanoseconds.
"""

from collections.abc import Iterable

from foldserve_proto import grpc_service_pb2 as pb

from foldserve.observability.histogram import Histogram
from foldserve.observability.inference import InferenceMetrics, RequestMetrics


def model_statistics(inference: InferenceMetrics, requests: Iterable[RequestMetrics]) -> pb.ModelStatistics:
    """The statistics of one model version; ``requests`` are its inferences by method."""
    model, version = inference.labels
    fail = _failures(requests)
    with inference.lock:
        infer = inference.compute_infer.values()
        stages = (inference.queue, inference.compute_input, *infer, inference.compute_output)
        statistics = pb.ModelStatistics(
            name=model,
            version=version,
            last_inference=inference.last_inference_ms,
            inference_count=inference.inferences,
            execution_count=inference.executions,
            inference_stats=pb.InferStatistics(
                success=_duration(inference.queue.count, sum(stage.sum for stage in stages)),
                fail=fail,
                queue=_stage(inference.queue),
                compute_input=_stage(inference.compute_input),
                compute_infer=_stage(*infer),
                compute_output=_stage(inference.compute_output),
            ),
        )
        for rows, batch in sorted(inference.batches.items()):
            statistics.batch_stats.add(
                batch_size=rows,
                compute_input=_duration(batch.count, batch.compute_input),
                compute_infer=_duration(batch.count, batch.compute_infer),
                compute_output=_duration(batch.count, batch.compute_output),
            )
    return statistics


def _failures(requests: Iterable[RequestMetrics]) -> pb.StatisticDuration:
    count, seconds = 0, 0.0
    for method in requests:
        with method.lock:
            count, seconds = count + method.failed, seconds + method.failed_s
    return _duration(count, seconds)


def _stage(*durations: Histogram) -> pb.StatisticDuration:
    return _duration(sum(one.count for one in durations), sum(one.sum for one in durations))


def _duration(count: int, seconds: float) -> pb.StatisticDuration:
    return pb.StatisticDuration(count=count, ns=int(seconds * 1e9))
