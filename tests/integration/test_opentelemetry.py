"""Spans of real requests at a real collector, and exemplars that lead to them."""

import json
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from concurrent import futures
from contextlib import contextmanager
from typing import Any

import grpc
import numpy as np
import pytest
from foldserve.errors import ConfigurationError
from foldserve.observability.span_export import spans_to
from foldserve.server import Server
from foldserve.settings import ServerSettings
from foldserve_proto import grpc_service_pb2 as pb
from foldserve_proto.grpc_service_pb2_grpc import GRPCInferenceServiceStub
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status
from prometheus_client.openmetrics import parser
from pydantic import ValidationError
from running import EXAMPLE_MODELS, serving

TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
STAGES = ("decode", "queue", "compute", "encode")


class Collector(trace_service_pb2_grpc.TraceServiceServicer):
    """Keeps what it is sent."""

    def __init__(self) -> None:
        self.spans: list[Span] = []
        self.resources: list[dict[str, Any]] = []

    def Export(self, request: Any, _context: grpc.ServicerContext) -> Any:  # noqa: N802  # gRPC names it
        for one in request.resource_spans:
            self.resources.append(_values(one.resource.attributes))
            self.spans += [span for scope in one.scope_spans for span in scope.spans]
        return trace_service_pb2.ExportTraceServiceResponse()

    def calls(self) -> list[Span]:
        """The spans of requests, in the order in which they began."""
        calls = [span for span in self.spans if span.kind == Span.SPAN_KIND_SERVER]
        return sorted(calls, key=lambda span: span.start_time_unix_nano)

    def stages(self, call: Span) -> list[Span]:
        """The spans within one of a request, in the order in which they began."""
        stages = [span for span in self.spans if span.parent_span_id == call.span_id]
        return sorted(stages, key=lambda span: (span.start_time_unix_nano, STAGES.index(span.name)))


def _values(attributes: Any) -> dict[str, Any]:
    return {one.key: getattr(one.value, one.value.WhichOneof("value")) for one in attributes}


@contextmanager
def collecting() -> Iterator[tuple[Collector, str]]:
    """A collector, and its address."""
    collector = Collector()
    server = grpc.server(futures.ThreadPoolExecutor(2))
    add: Any = trace_service_pb2_grpc.add_TraceServiceServicer_to_server
    add(collector, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield collector, f"http://127.0.0.1:{port}"
    server.stop(None).wait()


@contextmanager
def traced(sample_rate: float) -> Iterator[tuple[Collector, Server, GRPCInferenceServiceStub]]:
    """A server that is traced; at the end all spans are at the collector."""
    with collecting() as (collector, endpoint):
        settings: dict[str, Any] = {"otlp_endpoint": endpoint, "otlp_sample_rate": sample_rate}
        with (
            serving(EXAMPLE_MODELS, **settings) as server,
            grpc.insecure_channel(f"127.0.0.1:{server.grpc_port}") as channel,
        ):
            yield collector, server, GRPCInferenceServiceStub(channel)


def request(model: str = "digits", rows: int = 3, identity: str = "one") -> pb.ModelInferRequest:
    images = np.zeros((rows, 1, 8, 8), np.float32)
    tensor = pb.ModelInferRequest.InferInputTensor(name="images", datatype="FP32", shape=images.shape)
    return pb.ModelInferRequest(
        model_name=model, id=identity, inputs=[tensor], raw_input_contents=[images.tobytes()]
    )


def context(flag: str) -> tuple[tuple[str, str], ...]:
    return ("traceparent", f"00-{TRACE}-{PARENT}-{flag}"), ("tracestate", "vendor=1")


def test_a_request_is_a_span_with_its_stages_in_the_callers_trace() -> None:
    with traced(sample_rate=0.0) as (collector, _, stub):
        stub.ModelInfer(request(), metadata=context("01"))
        stub.ModelInfer(request(identity="not sampled"), metadata=context("00"))
        stub.ModelInfer(request(identity="nobody's"))
    (call,) = collector.calls()
    assert (call.trace_id.hex(), call.parent_span_id.hex()) == (TRACE, PARENT)
    assert (call.name, call.trace_state) == ("inference.GRPCInferenceService/ModelInfer", "vendor=1")
    assert call.status.code == Status.STATUS_CODE_UNSET
    assert _values(call.attributes) == {
        "rpc.system.name": "grpc",
        "rpc.method": "inference.GRPCInferenceService/ModelInfer",
        "rpc.response.status_code": "OK",
        "foldserve.model.name": "digits",
        "foldserve.model.version": "1",
        "foldserve.model.variant": "folded",
        "foldserve.request.id": "one",
        "foldserve.rows": 3,
    }
    assert collector.resources[0]["service.name"] == "foldserve"
    stages = collector.stages(call)
    assert tuple(stage.name for stage in stages) == STAGES
    assert {stage.trace_id.hex() for stage in stages} == {TRACE}
    moments = [
        moment for stage in stages for moment in (stage.start_time_unix_nano, stage.end_time_unix_nano)
    ]
    assert moments == sorted(moments)
    assert call.start_time_unix_nano == moments[0] < moments[-1] <= call.end_time_unix_nano


def test_failures_carry_their_code_and_only_the_servers_own_are_errors() -> None:
    elsewhere = request(identity="elsewhere")
    elsewhere.inputs[0].parameters["shared_memory_region"].string_param = "region"
    with traced(sample_rate=1.0) as (collector, _, stub):
        for wrong, code in ((request("other"), "NOT_FOUND"), (elsewhere, "UNIMPLEMENTED")):
            with pytest.raises(grpc.RpcError) as failure:
                stub.ModelInfer(wrong)
            assert failure.value.code() is grpc.StatusCode[code]
    unknown, not_offered = collector.calls()
    attributes = _values(unknown.attributes)
    assert attributes["rpc.response.status_code"] == attributes["error.type"] == "NOT_FOUND"
    assert "no model is named 'other'" in attributes["foldserve.error"]
    assert attributes["foldserve.model.name"] == "", "only names that the server knows are told as such"
    assert unknown.status.code == Status.STATUS_CODE_UNSET
    assert not_offered.status.code == Status.STATUS_CODE_ERROR
    assert "shared memory" in not_offered.status.message
    assert _values(not_offered.attributes)["rpc.response.status_code"] == "UNIMPLEMENTED"
    assert collector.stages(unknown) == collector.stages(not_offered) == []


def test_every_request_of_a_stream_is_traced() -> None:
    with traced(sample_rate=0.0) as (collector, _, stub):
        requests = [request(identity="a"), request("other", identity="b")]
        list(stub.ModelStreamInfer(iter(requests), metadata=context("01")))
    found = {_values(call.attributes)["foldserve.request.id"]: call for call in collector.calls()}
    assert set(found) == {"a", "b"}
    assert {call.parent_span_id.hex() for call in found.values()} == {PARENT}
    assert (len(collector.stages(found["a"])), len(collector.stages(found["b"]))) == (4, 0)


def test_the_latency_histogram_has_exemplars_that_name_traces() -> None:
    with traced(sample_rate=0.0) as (_, server, stub):
        stub.ModelInfer(request(), metadata=context("01"))
        parse: Any = parser.text_string_to_metric_families
        openmetrics = "application/openmetrics-text; version=1.0.0"
        ask = urllib.request.Request(
            f"http://127.0.0.1:{server.http_port}/metrics", headers={"Accept": openmetrics}
        )

        def exemplars() -> list[Any]:
            with urllib.request.urlopen(ask, timeout=10) as answer:
                families = parse(answer.read().decode())
            return [
                (sample.name, sample.exemplar)
                for family in families
                for sample in family.samples
                if sample.exemplar is not None
            ]

        # A request is traced once it has its answer, by another thread than ours.
        while not (found := exemplars()):
            pass
    ((name, exemplar),) = found
    assert name == "foldserve_request_duration_seconds_bucket"
    assert exemplar.labels == {"trace_id": TRACE}
    assert 0 < exemplar.value < 10


@pytest.mark.parametrize("traceparent", ["", "garbage", f"00-{'0' * 32}-{PARENT}-01", "ff-" + "x" * 5000])
def test_a_context_that_is_none_begins_a_trace_of_its_own(traceparent: str) -> None:
    with traced(sample_rate=1.0) as (collector, _, stub):
        stub.ModelInfer(request(), metadata=(("traceparent", traceparent),))
    (call,) = collector.calls()
    assert call.parent_span_id == b""


def test_nobody_waits_for_a_collector_that_is_not_there(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with (
        serving(EXAMPLE_MODELS, otlp_endpoint="http://127.0.0.1:9", otlp_sample_rate=1.0) as server,
        grpc.insecure_channel(f"127.0.0.1:{server.grpc_port}") as channel,
    ):
        assert GRPCInferenceServiceStub(channel).ModelInfer(request(), timeout=10).id == "one"
    lines = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    assert lines[-1]["event"] == "stopped"
    assert len([line for line in lines if line["event"] == "spans are not sent as they should be"]) <= 1


def test_without_the_packages_the_server_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "foldserve.observability.otlp", raising=False)
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.resources", None)
    with pytest.raises(ConfigurationError, match=r"install foldserve\[otel\]"):
        spans_to("http://127.0.0.1:9", 1.0)


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"otlp_endpoint": "localhost:4317"}, "otlp_endpoint"),
        ({"otlp_sample_rate": 0.5}, "otlp_endpoint is not"),
        ({"otlp_endpoint": "http://localhost:4317", "otlp_sample_rate": 1.5}, "otlp_sample_rate"),
    ],
)
def test_settings_that_cannot_work_are_refused(settings: dict[str, Any], text: str) -> None:
    with pytest.raises(ValidationError, match=text):
        ServerSettings.model_validate({"repository": "models", **settings})


def test_nothing_of_opentelemetry_is_imported_where_it_is_off() -> None:
    script = "import sys, foldserve.server; print([one for one in sys.modules if one.startswith('opentel')])"
    printed = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert printed.stdout == "[]\n"
