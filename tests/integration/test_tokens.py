"""Tokens of a real server: what they open, how they change, and that they show nowhere."""

import hashlib
import json
import os
import queue
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
import yaml
from certificates import TOKEN_RECIPE, Pki, run
from foldserve.observability.logging import configure_logging
from foldserve.rpc import reader, renewal
from foldserve.rpc.message_first import SMALL_BYTES
from foldserve.rpc.rights import RIGHTS
from foldserve.rpc.server import INFERENCE_SERVICE
from foldserve.server import Server
from foldserve.settings import LogFormat, LogLevel, Right
from foldserve_proto import fold_service_pb2 as fold_pb
from foldserve_proto import grpc_service_pb2 as pb
from foldserve_proto.fold_service_pb2_grpc import FoldServiceStub
from foldserve_proto.grpc_service_pb2_grpc import GRPCInferenceServiceStub
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from integration.repositories import EXPLICIT, eventually
from running import EXAMPLE_MODELS, scraped, serving
from small_models import plus, put

SECRETS = {right: f"{right}-0123456789-abcdef" for right in Right}
OK, UNAUTHENTICATED, DENIED = "OK", "UNAUTHENTICATED", "PERMISSION_DENIED"
Method = Callable[..., Any]


def _request() -> pb.ModelInferRequest:
    x = np.zeros((1, 2), np.float32)
    request = pb.ModelInferRequest(model_name="plus", raw_input_contents=[x.tobytes()])
    request.inputs.add(name="x", datatype="FP32", shape=x.shape)
    return request


def _with(token: str | None) -> tuple[tuple[str, str | bytes], ...]:
    return () if token is None else (("authorization", f"Bearer {token}"),)


def _write(file: Path, tokens: Mapping[Right, str]) -> None:
    """A file in which each token is named like its right, and known by its hash."""
    entries = [
        {
            "name": f"who has {right}",
            "rights": [str(right)],
            "token_sha256": hashlib.sha256(token.encode()).hexdigest(),
        }
        for right, token in tokens.items()
    ]
    file.write_text(yaml.safe_dump(entries))


@pytest.fixture(scope="module")
def token_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("tokens") / "tokens.yaml"
    _write(file, SECRETS)
    return file


@pytest.fixture(scope="module", params=[True, False], ids=["by the reader", "from the pool"])
def server(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, token_file: Path
) -> Iterator[Server]:
    """With calls begun by our own reader, and as gRPC begins them."""
    repository = put(tmp_path_factory.mktemp("models"), 1, plus(1)).parents[2]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reader, "HAS_PARTS", request.param)
        patch.setattr(renewal, "LOOK_EVERY_S", 0.05)
        with serving(repository, **EXPLICIT, load_models=["plus"], token_file=token_file) as server:
            yield server


def _asking(channel: grpc.Channel) -> dict[str, tuple[Method, Any]]:
    """A method of each kind: deferred, from the pool, streams."""
    inference, fold = GRPCInferenceServiceStub(channel), FoldServiceStub(channel)
    questions = reflection_pb2_grpc.ServerReflectionStub(channel).ServerReflectionInfo
    return {
        "ModelInfer": (inference.ModelInfer, _request()),
        "ModelStreamInfer": (_first_of(inference.ModelStreamInfer), _request()),
        "ModelMetadata": (inference.ModelMetadata, pb.ModelMetadataRequest(name="plus")),
        "ModelStatistics": (inference.ModelStatistics, pb.ModelStatisticsRequest()),
        "GetFoldReport": (fold.GetFoldReport, fold_pb.GetFoldReportRequest(name="plus")),
        "ServerReflectionInfo": (
            _first_of(questions),
            reflection_pb2.ServerReflectionRequest(list_services=""),
        ),
        "RepositoryIndex": (inference.RepositoryIndex, pb.RepositoryIndexRequest()),
        "LogSettings": (inference.LogSettings, pb.LogSettingsRequest()),
    }


def _first_of(method: Any) -> Method:
    return lambda request, metadata: next(method(iter([request]), metadata=metadata))


def _code(method: Method, request: Any, token: str | None) -> str:
    try:
        method(request, metadata=_with(token))
    except grpc.RpcError as error:
        return str(error.code().name)
    return OK


@pytest.mark.parametrize("right", Right)
def test_a_token_opens_what_it_has_the_right_to_by_either_port(server: Server, right: Right) -> None:
    opened = {
        Right.INFERENCE: {"ModelInfer", "ModelStreamInfer", "ModelMetadata"},
        Right.METADATA: set(_asking(grpc.insecure_channel("unix:/nowhere")))
        - {"ModelInfer", "ModelStreamInfer"},
        Right.MANAGEMENT: {"RepositoryIndex", "LogSettings"},
    }[right]
    for address in (f"127.0.0.1:{server.grpc_port}", server.management_address):
        with grpc.insecure_channel(address) as channel:
            for name, (method, request) in _asking(channel).items():
                assert _code(method, request, SECRETS[right]) == (OK if name in opened else DENIED), name


@pytest.mark.parametrize("token", [None, "nobody's"])
def test_without_a_token_that_is_known_only_health_is_told(server: Server, token: str | None) -> None:
    with grpc.insecure_channel(f"127.0.0.1:{server.grpc_port}") as channel:
        for name, (method, request) in _asking(channel).items():
            assert _code(method, request, token) == UNAUTHENTICATED, name
        stub = GRPCInferenceServiceStub(channel)
        assert stub.ServerLive(pb.ServerLiveRequest(), metadata=_with(token)).live
        assert stub.ServerReady(pb.ServerReadyRequest(), metadata=_with(token)).ready
        assert stub.ModelReady(pb.ModelReadyRequest(name="plus"), metadata=_with(token)).ready
        health: Any = health_pb2_grpc.HealthStub(channel)
        assert health.Check(health_pb2.HealthCheckRequest(), metadata=_with(token)).status == 1


def test_only_who_may_manage_does_and_is_written_down_by_name(
    server: Server, capsys: pytest.CaptureFixture[str]
) -> None:
    request = pb.RepositoryModelLoadRequest(model_name="plus")
    changed = pb.LogSettingsRequest()
    changed.settings["log_verbose_level"].uint32_param = 0
    capsys.readouterr()
    with grpc.insecure_channel(server.management_address) as channel:
        stub = GRPCInferenceServiceStub(channel)
        for method, asked in ((stub.RepositoryModelLoad, request), (stub.LogSettings, changed)):
            assert _code(method, asked, SECRETS[Right.METADATA]) == DENIED
            assert _code(method, asked, SECRETS[Right.MANAGEMENT]) == OK
    lines = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    told = [(line["method"], line["model"], line["token"]) for line in lines if line["event"] == "management"]
    assert told == [
        ("RepositoryModelLoad", "plus", "who has management"),
        ("LogSettings", "", "who has management"),
    ]
    with grpc.insecure_channel(f"127.0.0.1:{server.grpc_port}") as channel:
        stub = GRPCInferenceServiceStub(channel)
        assert _code(stub.RepositoryModelLoad, request, SECRETS[Right.MANAGEMENT]) == DENIED


def test_a_refused_call_is_not_waited_for_its_message(server: Server) -> None:
    """Nor is the message of an inference read, which may be as large as the server takes."""
    with grpc.insecure_channel(f"127.0.0.1:{server.grpc_port}") as channel:
        for method in ("ModelInfer", "ModelStatistics", "ModelStreamInfer"):
            forever: queue.SimpleQueue[bytes] = queue.SimpleQueue()
            call: Any = channel.stream_unary(f"/inference.GRPCInferenceService/{method}")
            pending = call.future(iter(forever.get, None), timeout=20)
            assert pending.code() is grpc.StatusCode.UNAUTHENTICATED, method
            forever.put(b"")


def test_tokens_change_while_the_server_runs(server: Server, token_file: Path) -> None:
    """The old one ends, even on a stream that is open; a broken file ends nothing."""
    old, new = SECRETS[Right.INFERENCE], "another-token-0123456789"
    address = f"127.0.0.1:{server.grpc_port}"
    try:
        with grpc.insecure_channel(address) as channel:
            stub = GRPCInferenceServiceStub(channel)
            questions: queue.SimpleQueue[pb.ModelInferRequest] = queue.SimpleQueue()
            answers = stub.ModelStreamInfer(iter(questions.get, None), metadata=_with(old))
            questions.put(_request())
            assert not next(answers).error_message
            token_file.write_text("- half of ")
            rejected = "foldserve_rejected_calls_total", frozenset({("reason", "unknown_token")})
            before = scraped(server)[rejected]
            _write(token_file, SECRETS | {Right.INFERENCE: new})
            eventually(lambda: _code(stub.ModelInfer, _request(), new) == OK)
            assert _code(stub.ModelInfer, _request(), old) == UNAUTHENTICATED
            questions.put(_request())
            assert answers.code() is grpc.StatusCode.UNAUTHENTICATED
            assert "does not know the token" in answers.details()
            assert scraped(server)[rejected] > before
    finally:
        _write(token_file, SECRETS)
        with grpc.insecure_channel(address) as channel:
            stub = GRPCInferenceServiceStub(channel)
            eventually(lambda: _code(stub.ModelInfer, _request(), old) == OK)


def test_a_broken_file_keeps_the_old_tokens_and_is_told_without_its_words(
    server: Server, token_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said: list[str] = []

    def is_told(text: str) -> bool:
        said.append(capsys.readouterr().err)
        return text in "".join(said)

    token_file.write_text(f"- {{name: x, rights: [inference], token: {SECRETS[Right.METADATA]}")
    eventually(lambda: is_told("the token file cannot be renewed"))
    with grpc.insecure_channel(f"127.0.0.1:{server.grpc_port}") as channel:
        stub = GRPCInferenceServiceStub(channel)
        assert _code(stub.ModelInfer, _request(), SECRETS[Right.INFERENCE]) == OK
    _write(token_file, SECRETS)
    eventually(lambda: is_told("the token file renewed"))
    assert not any(secret in "".join(said) for secret in SECRETS.values())


def test_a_token_shows_nowhere(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Neither in the log at its wordiest, nor in metrics, pages, traces, answers, or what `config` prints."""
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "digits").symlink_to(EXAMPLE_MODELS / "digits")
    file, traces = tmp_path / "tokens.yaml", tmp_path / "traces"
    right, wrong = "planted-right-0123456789", "planted-wrong-0123456789"
    rights = ["inference", "metadata", "management"]
    file.write_text(yaml.safe_dump([{"name": "all", "rights": rights, "token": right}]))
    settings = {"token_file": file, "trace_file": traces, "management_address": "public"}
    seen: list[str] = []
    with serving(tmp_path / "models", **settings) as server:
        configure_logging(LogFormat.JSON, LogLevel.DEBUG)
        with grpc.insecure_channel(f"127.0.0.1:{server.grpc_port}") as channel:
            stub = GRPCInferenceServiceStub(channel)
            tracing = pb.TraceSettingRequest()
            for name, value in (("trace_level", "TIMESTAMPS"), ("trace_rate", "1")):
                tracing.settings[name].value.append(value)
            seen.append(str(stub.TraceSetting(tracing, metadata=_with(right))))
            images = np.zeros((1, 1, 8, 8), np.float32)
            request = pb.ModelInferRequest(model_name="digits", raw_input_contents=[images.tobytes()])
            request.inputs.add(name="images", datatype="FP32", shape=images.shape)
            seen.append(str(stub.ModelInfer(request, metadata=_with(right))))
            request.inputs[0].datatype = "INT8"
            for token in (right, wrong):
                refused = stub.ModelInfer.future(request, metadata=_with(token))
                seen.append(f"{refused.code()} {refused.details()} {refused.trailing_metadata()}")
        for path in ("/", "/?format=json", "/models/digits/1", "/models/digits/1?format=json", "/metrics"):
            url = f"http://127.0.0.1:{server.http_port}{path}"
            with urllib.request.urlopen(url, timeout=10) as answer:
                seen.append(answer.read().decode())
    configure_logging(LogFormat.JSON, LogLevel.INFO)
    for as_json in ([], ["--json"]):
        command = [sys.executable, "-m", "foldserve", "config", "--repository", str(tmp_path / "models")]
        options = ["--token-file", str(file), *as_json]
        ran = subprocess.run(
            [*command, *options],
            env=os.environ | {"COLUMNS": "300"},
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        )
        seen.append(ran.stdout + ran.stderr)
        assert str(file) in ran.stdout
    seen += [traces.read_text(), *capsys.readouterr()]
    assert '"event": "management"' in seen[-1]
    assert '"event": "request"' in seen[-1]
    assert '"event": "request refused unread"' in seen[-1]
    everything = "".join(seen)
    for secret in (right, wrong, hashlib.sha256(right.encode()).hexdigest()):
        assert secret not in everything


@pytest.mark.parametrize("method", [name for name, rights in RIGHTS.items() if not rights])
def test_strangers_bring_small_messages_only(server: Server, method: str) -> None:
    service = "grpc.health.v1.Health" if method in ("Check", "List", "Watch") else INFERENCE_SERVICE
    with grpc.insecure_channel(f"127.0.0.1:{server.grpc_port}") as channel:
        call: Any = channel.unary_stream(f"/{service}/{method}")
        with pytest.raises(grpc.RpcError) as refusal:
            list(call(pb.ModelReadyRequest(name="n" * SMALL_BYTES).SerializeToString(), timeout=20))
    assert refusal.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert str(SMALL_BYTES) in str(refusal.value.details())


@pytest.mark.parametrize(
    ("hosts", "tls"),
    [
        (("0.0.0.0", "127.0.0.1:0"), False),
        (("127.0.0.1", "0.0.0.0:0"), False),
        (("0.0.0.0", "0.0.0.0:0"), True),
        (("127.0.0.1", "127.0.0.1:0"), False),
    ],
    ids=["public port", "management port", "tls", "this machine"],
)
def test_tokens_in_clear_text_are_warned_of(
    tmp_path: Path,
    token_file: Path,
    capsys: pytest.CaptureFixture[str],
    hosts: tuple[str, str],
    tls: bool,
) -> None:
    put(tmp_path / "models", 1, plus(1))
    settings = Pki(tmp_path / "pki").settings if tls else {}
    host, management_address = hosts
    capsys.readouterr()
    addresses = {"host": host, "management_address": management_address}
    with serving(tmp_path / "models", **EXPLICIT, **addresses, token_file=token_file, **settings):
        is_warned = "tokens travel in clear text" in capsys.readouterr().err
        assert is_warned is ("0.0.0.0" in host + management_address and not tls)


def test_the_recipe_makes_a_token_and_the_hash_it_is_known_by(tmp_path: Path) -> None:
    run(TOKEN_RECIPE, tmp_path)
    token = (tmp_path / "alice.token").read_text().strip()
    assert len(token) == 64
    assert (tmp_path / "alice.sha256").read_text().strip() == hashlib.sha256(token.encode()).hexdigest()
