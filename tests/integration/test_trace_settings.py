"""Traces of requests over real gRPC: what is written, for whom, how often, and what callers may not set."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from foldserve.errors import ConfigurationError
from foldserve.observability.tracing import Tracer
from foldserve.server import Server
from foldserve_proto import grpc_service_pb2 as pb
from foldserve_proto.grpc_service_pb2_grpc import GRPCInferenceServiceStub
from running import EXAMPLE_MODELS, serving


@pytest.fixture(scope="module")
def traced(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Server, Path]]:
    """A server that serves the digits under two names, and its file of traces."""
    folder = tmp_path_factory.mktemp("traced")
    for name in ("one", "two"):
        (folder / "models" / name).mkdir(parents=True)
        (folder / "models" / name / "1").symlink_to(EXAMPLE_MODELS / "digits" / "1")
    with serving(folder / "models", trace_file=folder / "traces.jsonl") as server:
        yield server, folder / "traces.jsonl"


@pytest.fixture
def stub(traced: tuple[Server, Path]) -> Iterator[GRPCInferenceServiceStub]:
    with grpc.insecure_channel(traced[0].management_address) as channel:
        stub = GRPCInferenceServiceStub(channel)
        yield stub
        for model in ("one", "two", ""):
            _set(stub, model, trace_level=None, trace_rate=None, trace_count=None)
        traced[1].unlink(missing_ok=True)


def _set(stub: GRPCInferenceServiceStub, model: str = "", **values: str | None) -> dict[str, str]:
    """Change trace settings, None takes one back; those that hold then."""
    request = pb.TraceSettingRequest(model_name=model)
    for name, value in values.items():
        request.settings[name].value.extend([] if value is None else [value])
    return {name: value.value[0] for name, value in stub.TraceSetting(request).settings.items()}


def _infer(stub: GRPCInferenceServiceStub, model: str, identity: str) -> None:
    images = np.zeros((2, 1, 8, 8), np.float32)
    request = pb.ModelInferRequest(model_name=model, id=identity, raw_input_contents=[images.tobytes()])
    request.inputs.add(name="images", datatype="FP32", shape=images.shape)
    stub.ModelInfer(request)


def _traces(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def test_nothing_is_traced_unless_asked_for(
    traced: tuple[Server, Path], stub: GRPCInferenceServiceStub
) -> None:
    _infer(stub, "one", "a")
    assert _traces(traced[1]) == []
    assert _set(stub) == {
        "trace_file": str(traced[1]),
        "trace_level": "OFF",
        "trace_rate": "1000",
        "trace_count": "-1",
        "log_frequency": "1",
        "trace_mode": "json lines",
    }


def test_a_trace_has_the_stages_in_order(traced: tuple[Server, Path], stub: GRPCInferenceServiceStub) -> None:
    _set(stub, trace_level="TIMESTAMPS", trace_rate="1")
    _infer(stub, "one", "a")
    (trace,) = _traces(traced[1])
    assert (trace["model_name"], trace["model_version"], trace["request_id"]) == ("one", 1, "a")
    assert [stage["name"] for stage in trace["timestamps"]] == [
        "REQUEST_START",
        "QUEUE_START",
        "COMPUTE_START",
        "COMPUTE_INPUT_END",
        "COMPUTE_OUTPUT_START",
        "COMPUTE_END",
        "REQUEST_END",
    ]
    times = [stage["ns"] for stage in trace["timestamps"]]
    assert times == sorted(times)
    assert times[-1] > times[0] > 0


def test_one_of_every_few_is_traced_until_there_are_enough(
    traced: tuple[Server, Path], stub: GRPCInferenceServiceStub
) -> None:
    _set(stub, trace_level="TIMESTAMPS", trace_rate="3", trace_count="2")
    for index in range(12):
        _infer(stub, "one", str(index))
    assert len(_traces(traced[1])) == 2
    assert _set(stub)["trace_count"] == "0"


def test_a_model_may_have_settings_of_its_own(
    traced: tuple[Server, Path], stub: GRPCInferenceServiceStub
) -> None:
    _set(stub, trace_rate="1")
    assert _set(stub, "two", trace_level="TIMESTAMPS")["trace_rate"] == "1"
    _infer(stub, "one", "a")
    _infer(stub, "two", "b")
    assert [trace["model_name"] for trace in _traces(traced[1])] == ["two"]
    assert _set(stub)["trace_level"] == "OFF"
    assert _set(stub, "two", trace_level=None)["trace_level"] == "OFF"


@pytest.mark.parametrize(
    ("values", "code"),
    [
        ({"trace_file": "/tmp/x"}, "UNIMPLEMENTED"),
        ({"log_frequency": "5"}, "UNIMPLEMENTED"),
        ({"trace_rate": "2", "colour": "red"}, "INVALID_ARGUMENT"),
        ({"trace_rate": "2", "trace_level": "TENSORS"}, "INVALID_ARGUMENT"),
        ({"trace_rate": "0"}, "INVALID_ARGUMENT"),
        ({"trace_rate": "many"}, "INVALID_ARGUMENT"),
        ({"trace_count": "-2"}, "INVALID_ARGUMENT"),
        ({"trace_count": "9" * 5000}, "INVALID_ARGUMENT"),
    ],
    ids=str,
)
def test_what_cannot_be_set_changes_nothing(
    stub: GRPCInferenceServiceStub, values: dict[str, str], code: str
) -> None:
    before = _set(stub)
    with pytest.raises(grpc.RpcError) as failure:
        _set(stub, "", **values)
    assert failure.value.code() is grpc.StatusCode[code]
    assert failure.value.details()
    assert _set(stub) == before


def test_a_model_that_is_not_there_has_no_settings(stub: GRPCInferenceServiceStub) -> None:
    with pytest.raises(grpc.RpcError) as failure:
        _set(stub, "nobody")
    assert failure.value.code() is grpc.StatusCode.NOT_FOUND


def test_without_a_file_there_are_no_traces(management: grpc.Channel) -> None:
    stub = GRPCInferenceServiceStub(management)
    assert _set(stub, trace_rate="10")["trace_file"] == ""
    with pytest.raises(grpc.RpcError) as failure:
        _set(stub, trace_level="TIMESTAMPS")
    assert failure.value.code() is grpc.StatusCode.FAILED_PRECONDITION
    assert "--trace-file" in (failure.value.details() or "")
    _set(stub, trace_rate=None)


def test_a_file_that_goes_away_switches_tracing_off(tmp_path: Path) -> None:
    (tmp_path / "models" / "digits").mkdir(parents=True)
    (tmp_path / "models" / "digits" / "1").symlink_to(EXAMPLE_MODELS / "digits" / "1")
    (tmp_path / "here").mkdir()
    with (
        serving(tmp_path / "models", trace_file=tmp_path / "here" / "traces") as server,
        grpc.insecure_channel(server.management_address) as channel,
    ):
        (tmp_path / "here").rename(tmp_path / "gone")
        stub = GRPCInferenceServiceStub(channel)
        _set(stub, trace_level="TIMESTAMPS", trace_rate="1")
        _infer(stub, "digits", "a")
        assert _set(stub)["trace_level"] == "OFF"
        _infer(stub, "digits", "b")


def test_a_file_that_cannot_be_written_is_refused_at_once(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"cannot be written to .*No such file"):
        Tracer(tmp_path / "nowhere" / "trace.jsonl")
