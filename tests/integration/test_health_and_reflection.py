"""What load balancers and generic gRPC tools see."""

import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import grpc
import pytest
from foldserve.rpc import server as server_module
from foldserve.rpc.server import FOLD_SERVICE, INFERENCE_SERVICE
from foldserve.server import Server
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase
from running import EXAMPLE_MODELS, serving

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
SERVICE_UNKNOWN = health_pb2.HealthCheckResponse.SERVICE_UNKNOWN


def _stub(channel: grpc.Channel) -> Any:  # its type has no methods
    return health_pb2_grpc.HealthStub(channel)


@pytest.mark.parametrize("name", ["", INFERENCE_SERVICE, "digits", "digits_pt2"])
def test_server_and_models_are_serving(channel: grpc.Channel, name: str) -> None:
    answer = _stub(channel).Check(health_pb2.HealthCheckRequest(service=name))
    assert answer.status == SERVING


def test_an_unknown_model_is_not_found(channel: grpc.Channel) -> None:
    with pytest.raises(grpc.RpcError) as failure:
        _stub(channel).Check(health_pb2.HealthCheckRequest(service="nobody"))
    assert failure.value.code() is grpc.StatusCode.NOT_FOUND


def test_a_server_whose_grpc_is_silent_is_not_live(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    url = f"http://127.0.0.1:{server.http_port}/livez"
    with urllib.request.urlopen(url, timeout=10) as answer:
        assert answer.status == 200
    monkeypatch.setattr(server_module, "LONGEST_SILENCE_S", 0.0)
    with pytest.raises(urllib.error.HTTPError) as failure, urllib.request.urlopen(url, timeout=10):
        pass
    with failure.value as answered:
        assert answered.status == 503
        assert b"gRPC has read nothing for" in answered.read()


def test_a_model_that_failed_is_known_and_not_serving(tmp_path: Path) -> None:
    (tmp_path / "torn" / "1").mkdir(parents=True)
    (tmp_path / "torn" / "1" / "model.onnx").write_bytes(b"garbage")
    with serving(tmp_path) as server, grpc.insecure_channel(f"127.0.0.1:{server.grpc_port}") as channel:
        answer = _stub(channel).Check(health_pb2.HealthCheckRequest(service="torn"))
        assert answer.status == NOT_SERVING
        with urllib.request.urlopen(f"http://127.0.0.1:{server.http_port}/metrics", timeout=10) as metrics:
            assert 'foldserve_model_ready{model="torn",version="1"} 0.0' in metrics.read().decode()


def test_a_watcher_sees_the_server_stop_and_does_not_delay_it(tmp_path: Path) -> None:
    (tmp_path / "digits").symlink_to(EXAMPLE_MODELS / "digits")
    with serving(tmp_path) as server:
        channel = grpc.insecure_channel(f"127.0.0.1:{server.grpc_port}")
        watch = _stub(channel).Watch(health_pb2.HealthCheckRequest(service="digits"))
        assert next(watch).status == SERVING
        unknown = _stub(channel).Watch(health_pb2.HealthCheckRequest(service="nobody"))
        assert next(unknown).status == SERVICE_UNKNOWN
    assert [answer.status for answer in watch] == [NOT_SERVING]
    channel.close()


def test_reflection_shows_every_service_and_message(channel: grpc.Channel) -> None:
    database = ProtoReflectionDescriptorDatabase(channel)
    assert {INFERENCE_SERVICE, FOLD_SERVICE, "grpc.health.v1.Health"} <= set(database.get_services())
    file = database.FindFileContainingSymbol("inference.ModelConfig")
    assert "ModelConfig" in {message.name for message in file.message_type}
