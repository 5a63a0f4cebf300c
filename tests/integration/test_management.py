"""Where a server is managed: on a port or a socket of its own, or on the public port."""

import socket
import stat
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from foldserve.errors import ConfigurationError
from foldserve.server import Server
from foldserve.serving.manager import ModelManager
from foldserve_proto import fold_service_pb2 as fold_pb
from foldserve_proto import grpc_service_pb2 as pb
from foldserve_proto.fold_service_pb2_grpc import FoldServiceStub
from foldserve_proto.grpc_service_pb2_grpc import GRPCInferenceServiceStub
from grpc_health.v1 import health_pb2, health_pb2_grpc
from integration.repositories import EXPLICIT, ONE_CPU, load
from running import EXAMPLE_MODELS, scraped, serving
from small_models import plus, put


def _changed_settings(request: Any) -> Any:
    request.settings["nothing"].SetInParent()
    return request


CHANGES: dict[str, Callable[[grpc.Channel], Any]] = {
    "RepositoryModelLoad": lambda channel: GRPCInferenceServiceStub(channel).RepositoryModelLoad(
        pb.RepositoryModelLoadRequest(model_name="plus")
    ),
    "RepositoryModelUnload": lambda channel: GRPCInferenceServiceStub(channel).RepositoryModelUnload(
        pb.RepositoryModelUnloadRequest(model_name="plus")
    ),
    "ResetFallback": lambda channel: FoldServiceStub(channel).ResetFallback(
        fold_pb.ResetFallbackRequest(name="plus")
    ),
    "LogSettings": lambda channel: GRPCInferenceServiceStub(channel).LogSettings(
        _changed_settings(pb.LogSettingsRequest())
    ),
    "TraceSetting": lambda channel: GRPCInferenceServiceStub(channel).TraceSetting(
        _changed_settings(pb.TraceSettingRequest())
    ),
}


@pytest.fixture(scope="module")
def managed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    repository = tmp_path_factory.mktemp("models")
    put(repository, 1, plus(1))
    with serving(repository, **EXPLICIT) as server:
        yield server


@pytest.fixture
def public(managed: Server) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(f"127.0.0.1:{managed.grpc_port}") as channel:
        yield channel


def _code(call: Callable[[grpc.Channel], Any], channel: grpc.Channel) -> tuple[str, str]:
    try:
        call(channel)
    except grpc.RpcError as error:
        return error.code().name, str(error.details())
    return "OK", ""


@pytest.mark.parametrize("method", CHANGES)
def test_the_public_port_refuses_to_be_managed_and_says_where(
    managed: Server, public: grpc.Channel, method: str
) -> None:
    code, text = _code(CHANGES[method], public)
    assert code == "PERMISSION_DENIED"
    assert f"{method} is answered at {managed.management_address}" in text
    assert "management_address" in text
    assert "'public'" in text


def test_the_public_port_answers_what_changes_nothing(public: grpc.Channel) -> None:
    stub = GRPCInferenceServiceStub(public)
    assert stub.LogSettings(pb.LogSettingsRequest()).settings
    assert stub.TraceSetting(pb.TraceSettingRequest()).settings
    assert stub.RepositoryIndex(pb.RepositoryIndexRequest()).models


def test_a_method_that_nobody_has_is_still_unimplemented(public: grpc.Channel) -> None:
    call: Any = public.unary_unary("/inference.GRPCInferenceService/Nothing")
    assert call.future(b"").code() is grpc.StatusCode.UNIMPLEMENTED


def test_the_management_port_answers_everything(managed: Server) -> None:
    with grpc.insecure_channel(managed.management_address) as channel:
        stub = GRPCInferenceServiceStub(channel)
        load(stub)
        assert stub.ModelReady(pb.ModelReadyRequest(name="plus")).ready
        assert _code(CHANGES["ResetFallback"], channel) == ("OK", "")
        assert _code(CHANGES["LogSettings"], channel)[0] == "INVALID_ARGUMENT"
        assert _code(CHANGES["TraceSetting"], channel)[0] == "INVALID_ARGUMENT"
        health: Any = health_pb2_grpc.HealthStub(channel)
        assert health.Check(health_pb2.HealthCheckRequest()).status == health_pb2.HealthCheckResponse.SERVING
        assert _code(CHANGES["RepositoryModelUnload"], channel) == ("OK", "")


def test_refusals_are_counted_and_reach_no_model(managed: Server, public: grpc.Channel) -> None:
    refused = "foldserve_rejected_calls_total", frozenset({("reason", "management_port")})
    before = scraped(managed)[refused]
    for call in CHANGES.values():
        _code(call, public)
    after = scraped(managed)
    assert after[refused] == before + len(CHANGES)
    counted = {
        dict(labels)["method"]
        for (name, labels) in after
        if name == "foldserve_requests_total" and dict(labels)["code"] == "PERMISSION_DENIED"
    }
    assert counted == set(CHANGES)


def test_a_server_is_managed_while_its_public_port_is_full(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(tmp_path, 1, plus(1))
    asked, answer = threading.Event(), threading.Event()

    def wait(*_: object) -> bool:
        asked.set()
        return answer.wait(30)

    with (
        serving(tmp_path, **EXPLICIT, grpc_workers=1, max_streams=0) as server,
        grpc.insecure_channel(f"127.0.0.1:{server.grpc_port}") as full,
        grpc.insecure_channel(server.management_address) as channel,
    ):
        monkeypatch.setattr(ModelManager, "is_ready", wait)
        public = GRPCInferenceServiceStub(full)
        waits = public.ModelReady.future(pb.ModelReadyRequest(name="plus"))
        assert asked.wait(30)
        refused = public.ServerLive.future(pb.ServerLiveRequest())
        assert refused.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        load(GRPCInferenceServiceStub(channel))
        answer.set()
        assert waits.result().ready


def test_a_unix_socket_is_for_its_owner_only_and_goes_when_the_server_stops(tmp_path: Path) -> None:
    put(tmp_path / "models", 1, plus(1))
    path = tmp_path / "management.sock"
    with serving(tmp_path / "models", **EXPLICIT, management_address=f"unix:{path}") as server:
        assert server.management_address == f"unix:{path}"
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        with grpc.insecure_channel(f"unix:{path}") as channel:
            load(GRPCInferenceServiceStub(channel))
        another = serving(tmp_path / "models", **EXPLICIT, management_address=f"unix:{path}")
        with pytest.raises(ConfigurationError, match="is the socket of a server that runs"), another:
            pass
        with grpc.insecure_channel(f"unix:{path}") as channel:
            assert _code(CHANGES["RepositoryModelUnload"], channel) == ("OK", "")
    assert not path.exists()


def test_the_public_port_may_be_the_one(tmp_path: Path) -> None:
    put(tmp_path, 1, plus(1))
    with serving(tmp_path, **EXPLICIT, management_address="public") as server:
        assert server.management_address == f"127.0.0.1:{server.grpc_port}"
        with grpc.insecure_channel(server.management_address) as channel:
            load(GRPCInferenceServiceStub(channel))


def test_a_management_port_that_is_taken_is_named_with_a_way_out(managed: Server) -> None:
    another = serving(EXAMPLE_MODELS, management_address=managed.management_address)
    with pytest.raises(ConfigurationError) as failure, another:
        pass
    assert f"gRPC cannot listen on {managed.management_address}: Address already in use" in str(failure.value)
    assert "management_address: 127.0.0.1:0 picks a free port" in str(failure.value)


def test_http_listens_where_it_is_told(tmp_path: Path) -> None:
    put(tmp_path, 1, plus(1))
    with serving(tmp_path, **ONE_CPU, http_host="127.0.0.2") as server:
        socket.create_connection(("127.0.0.2", server.http_port), timeout=10).close()
        socket.create_connection(("127.0.0.1", server.grpc_port), timeout=10).close()
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", server.http_port), timeout=10)


@pytest.mark.parametrize(
    ("settings", "is_open"),
    [
        ({"management_address": "0.0.0.0:0"}, True),
        ({"management_address": "public", "host": "0.0.0.0"}, True),
        ({"management_address": "127.0.0.1:0", "host": "0.0.0.0"}, False),
        ({"management_address": "public"}, False),
    ],
)
def test_what_is_open_to_strangers_is_told_at_the_start(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], settings: dict[str, str], is_open: bool
) -> None:
    put(tmp_path, 1, plus(1))
    capsys.readouterr()
    with serving(tmp_path, **EXPLICIT, **settings):
        assert ("whoever reaches the management address" in capsys.readouterr().err) is is_open
