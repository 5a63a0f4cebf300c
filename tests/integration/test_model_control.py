"""Repositories as they live: models come, change, break and go while requests are answered."""

import json
import shutil
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import onnx_ir as ir
import pytest
from foldserve.server import Server
from foldserve.serving import loader, manager, model_control, repository
from foldserve.serving.repository import Scan
from foldserve.serving.servable import Servable
from foldserve_client import Client, FailedPrecondition, NotFound
from foldserve_proto import grpc_service_pb2 as pb
from foldserve_proto import model_config_pb2 as config_pb
from foldserve_proto.grpc_service_pb2_grpc import GRPCInferenceServiceStub
from running import serving
from small_models import batch_norm, chain, convolution, plus, put

ONE_CPU = {"provider": "cpu", "instances": 1, "intra_op_threads": 1}
"""Nothing to measure at load."""

POLL = {**ONE_CPU, "model_control": "poll", "poll_interval_s": 0.05}
EXPLICIT = {**ONE_CPU, "model_control": "explicit"}


@contextmanager
def connected(server: Server) -> Iterator[tuple[Client, GRPCInferenceServiceStub]]:
    address = f"127.0.0.1:{server.grpc_port}"
    with Client(address) as client, grpc.insecure_channel(address) as channel:
        yield client, GRPCInferenceServiceStub(channel)


def answer(client: Client, version: str = "", name: str = "plus") -> float:
    """What the model adds."""
    return float(client.infer(name, np.zeros((1, 2), np.float32), version=version)["y"][0, 0])


def eventually(condition: Callable[[], bool]) -> None:
    """Wait for what a thread of the server does in its own time."""
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline, "it never came to be"
        time.sleep(0.01)


def index(stub: GRPCInferenceServiceStub, **request: Any) -> dict[tuple[str, str], tuple[str, str]]:
    """(name, version) → (state, reason)."""
    models = stub.RepositoryIndex(pb.RepositoryIndexRequest(**request)).models
    return {(model.name, model.version): (model.state, model.reason) for model in models}


def load(
    stub: GRPCInferenceServiceStub,
    name: str = "plus",
    parameters: Mapping[str, str | bytes | int] | None = None,
) -> None:
    request = pb.RepositoryModelLoadRequest(model_name=name)
    for key, value in (parameters or {}).items():
        parameter = request.parameters[key]
        if isinstance(value, str):
            parameter.string_param = value
        elif isinstance(value, bytes):
            parameter.bytes_param = value
        else:
            parameter.int64_param = value
    stub.RepositoryModelLoad(request)


def unload(stub: GRPCInferenceServiceStub, name: str = "plus") -> None:
    stub.RepositoryModelUnload(pb.RepositoryModelUnloadRequest(model_name=name))


@contextmanager
def refused(code: grpc.StatusCode, text: str) -> Iterator[None]:
    with pytest.raises(grpc.RpcError) as refusal:
        yield
    assert (refusal.value.code(), text in str(refusal.value.details())) == (code, True), refusal.value


# ---- repositories and configuration ----


def test_a_repository_made_for_triton_is_served_as_it_is(tmp_path: Path) -> None:
    for version in (1, 2, 3):
        put(tmp_path, version, plus(version))
        (tmp_path / "plus" / str(version) / "model.onnx").rename(
            tmp_path / "plus" / str(version) / "adder.onnx"
        )
    (tmp_path / "plus" / "names.txt").write_text("left\nright\n")
    (tmp_path / "plus" / "config.pbtxt").write_text(
        """
        name: "plus"
        platform: "onnxruntime_onnx"
        max_batch_size: 8
        default_model_filename: "adder.onnx"
        input [ { name: "x" data_type: TYPE_FP32 dims: [ 2 ] } ]
        output [ { name: "y" data_type: TYPE_FP32 dims: [ 2 ] label_filename: "names.txt" } ]
        version_policy: { latest { num_versions: 2 } }
        instance_group [ { kind: KIND_CPU count: 2 } ]
        dynamic_batching { preferred_batch_size: [ 4 ] max_queue_delay_microseconds: 50 }
        parameters { key: "intra_op_thread_count" value { string_value: "1" } }
        optimization { graph { level: 1 } }
        """
    )
    with serving(tmp_path) as server, connected(server) as (client, stub):
        assert (answer(client), answer(client, "2"), answer(client, "3")) == (3, 2, 3)
        with pytest.raises(NotFound):
            answer(client, "1")
        config = stub.ModelConfig(pb.ModelConfigRequest(name="plus")).config
    assert config.max_batch_size == 8
    assert config.default_model_filename == "adder.onnx"
    assert config.version_policy.latest.num_versions == 2
    assert (list(config.input[0].dims), config.output[0].label_filename) == ([2], "names.txt")
    assert [(group.kind, group.count) for group in config.instance_group] == [
        (config_pb.ModelInstanceGroup.KIND_CPU, 2)
    ]
    assert list(config.dynamic_batching.preferred_batch_size) == [4]
    assert config.dynamic_batching.max_queue_delay_microseconds == 50
    assert config.parameters["intra_op_thread_count"].string_value == "1"


def test_tensors_have_the_shapes_that_the_configuration_offers(tmp_path: Path) -> None:
    """As in Triton's quick start: a model with a batch of one is offered without that axis."""
    put(tmp_path, 1, chain([1, 3, 8, 8], convolution(8), batch_norm()), "densenet_onnx")
    (tmp_path / "densenet_onnx" / "labels.txt").write_text("a\nb\nc\nd\n")
    (tmp_path / "densenet_onnx" / "config.pbtxt").write_text(
        """
        name: "densenet_onnx"
        platform: "onnxruntime_onnx"
        max_batch_size : 0
        input [ { name: "x" data_type: TYPE_FP32 format: FORMAT_NCHW dims: [ 3, 8, 8 ]
                  reshape { shape: [ 1, 3, 8, 8 ] } } ]
        output [ { name: "y" data_type: TYPE_FP32 dims: [ 4 ] reshape { shape: [ 1, 4, 1, 1 ] }
                   label_filename: "labels.txt" } ]
        """
    )
    image = np.random.default_rng(0).random((3, 8, 8), np.float32)
    with serving(tmp_path) as server, connected(server) as (client, stub):
        values = client.infer("densenet_onnx", {"x": image})["y"]
        metadata = stub.ModelMetadata(pb.ModelMetadataRequest(name="densenet_onnx"))
        config = stub.ModelConfig(pb.ModelConfigRequest(name="densenet_onnx")).config
    assert values.shape == (4,)
    assert [list(tensor.shape) for tensor in (*metadata.inputs, *metadata.outputs)] == [[3, 8, 8], [4]]
    assert (list(config.input[0].dims), list(config.output[0].dims)) == ([3, 8, 8], [4])
    assert list(config.input[0].reshape.shape) == [1, 3, 8, 8]
    assert list(config.output[0].reshape.shape) == [1, 4, 1, 1]


def test_the_batch_axis_is_left_out_of_reshapes_too(tmp_path: Path) -> None:
    put(tmp_path, 1, plus(1))
    (tmp_path / "plus" / "config.pbtxt").write_text(
        'max_batch_size: 4 input { name: "x" dims: [ 1, 2 ] reshape { shape: [ 2 ] } }'
    )
    with serving(tmp_path, **ONE_CPU) as server, connected(server) as (_, stub):
        config = stub.ModelConfig(pb.ModelConfigRequest(name="plus")).config
    assert (list(config.input[0].dims), list(config.input[0].reshape.shape)) == ([1, 2], [2])
    assert not config.output[0].HasField("reshape")


def test_a_broken_configuration_stops_no_other_model(tmp_path: Path) -> None:
    for constant, name in enumerate(("good", "unreadable", "refused", "misdeclared", "empty"), start=1):
        put(tmp_path, 1, plus(constant), name)
    (tmp_path / "empty" / "1").rename(tmp_path / "empty" / "v1")
    (tmp_path / "unreadable" / "config.pbtxt").write_text("max_batch_size 8")
    (tmp_path / "refused" / "config.pbtxt").write_text("ensemble_scheduling {}")
    (tmp_path / "misdeclared" / "config.pbtxt").write_text(
        'max_batch_size: 8 input [ { name: "x" data_type: TYPE_FP32 dims: [ 3 ] } ]'
    )
    with serving(tmp_path, **ONE_CPU) as server, connected(server) as (client, stub):
        assert answer(client, name="good") == 1
        rows = index(stub)
        with pytest.raises(FailedPrecondition, match="ensemble_scheduling is not supported"):
            answer(client, name="refused")
        assert client.ready("refused") is False
    assert rows["good", "1"] == ("READY", "")
    assert "line and column 1:16" in rows["unreadable", ""][1]
    assert "(there is 'v1')" in rows["empty", ""][1]
    assert "in the model it is FP32 [batch, 2]" in rows["misdeclared", "1"][1]
    assert {state for (name, _), (state, _) in rows.items() if name != "good"} == {"UNAVAILABLE"}


def test_several_repositories_are_one_and_a_name_in_two_of_them_is_refused(tmp_path: Path) -> None:
    for constant, name in enumerate(("one/a", "two/b", "one/both", "two/both"), start=1):
        put(tmp_path / Path(name).parent, 1, plus(constant), Path(name).name)
    settings = {**ONE_CPU, "repository": [tmp_path / "one", tmp_path / "two"]}
    with serving(tmp_path, **settings) as server, connected(server) as (client, stub):
        assert (answer(client, name="a"), answer(client, name="b")) == (1, 2)
        with pytest.raises(FailedPrecondition, match=r"'both' is in .*one and .*two; rename"):
            answer(client, name="both")
        assert set(index(stub, repository_name="two")) == {("b", "1"), ("both", "")}
        with refused(grpc.StatusCode.NOT_FOUND, "no repository is named 'three'"):
            index(stub, repository_name="three")


def test_a_request_may_name_the_repository(tmp_path: Path) -> None:
    put(tmp_path / "one", 1, plus(1))
    put(tmp_path / "two", 1, plus(2))
    settings = {**EXPLICIT, "repository": [tmp_path / "one", tmp_path / "two"]}
    with serving(tmp_path, **settings) as server, connected(server) as (client, stub):
        with refused(grpc.StatusCode.FAILED_PRECONDITION, "rename or remove all but one"):
            load(stub)
        for name, constant in (("two", 2), (str(tmp_path / "one"), 1)):
            stub.RepositoryModelLoad(pb.RepositoryModelLoadRequest(model_name="plus", repository_name=name))
            assert answer(client) == constant
        for request in (pb.RepositoryModelLoadRequest, pb.RepositoryModelUnloadRequest):
            method = getattr(stub, request.DESCRIPTOR.name.removesuffix("Request"))
            with refused(grpc.StatusCode.NOT_FOUND, "no repository is named 'three'"):
                method(request(model_name="plus", repository_name="three"))
        stub.RepositoryModelUnload(pb.RepositoryModelUnloadRequest(model_name="plus", repository_name="one"))
        assert not client.ready("plus")


# ---- poll ----


def test_versions_that_come_change_and_go_are_followed(tmp_path: Path) -> None:
    put(tmp_path, 1, plus(1))
    with serving(tmp_path, **POLL) as server, connected(server) as (client, stub):
        assert answer(client) == 1
        put(tmp_path, 2, plus(2))
        eventually(lambda: answer(client) == 2)
        eventually(lambda: index(stub)["plus", "1"] == ("UNAVAILABLE", "unloaded"))
        put(tmp_path, 2, plus(3))
        eventually(lambda: answer(client) == 3)
        shutil.rmtree(tmp_path / "plus" / "2")
        eventually(lambda: answer(client) == 1)
        eventually(lambda: ("plus", "2") not in index(stub))
        (tmp_path / "plus" / "foldserve.yaml").write_text("max_batch_size: 7")
        eventually(lambda: stub.ModelConfig(pb.ModelConfigRequest(name="plus")).config.max_batch_size == 7)
        put(tmp_path, 1, plus(5), "later")
        eventually(lambda: client.ready("later"))
        shutil.rmtree(tmp_path / "plus")
        eventually(lambda: index(stub).keys() == {("later", "1")})
        with pytest.raises(NotFound, match="no model is named 'plus'; this server has 'later'"):
            answer(client)


def test_a_half_written_version_is_not_picked_up(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """As long as the file grows between two looks, nobody tries it."""
    put(tmp_path, 1, plus(1))
    content = put(tmp_path / "elsewhere", 2, plus(2)).read_bytes()
    with serving(tmp_path, **{**POLL, "poll_interval_s": 0.8}) as server, connected(server) as (client, _):
        capfd.readouterr()
        folder = tmp_path / "plus" / "2"
        folder.mkdir()
        with (folder / "model.onnx").open("wb", buffering=0) as file:
            for start in range(len(content)):
                file.write(content[start : start + 1])
                if start < 90:
                    time.sleep(0.02)
        eventually(lambda: answer(client) == 2)
    events = [json.loads(line) for line in capfd.readouterr().err.splitlines()]
    assert [event for event in events if event["level"] == "error"] == []


def test_a_version_that_fails_leaves_the_old_one_serving_and_keeps_its_reason(tmp_path: Path) -> None:
    file = put(tmp_path, 1, plus(1))
    with serving(tmp_path, **POLL) as server, connected(server) as (client, stub):
        file.write_bytes(b"garbage")  # the version that serves, broken on disk
        eventually(lambda: "loading it again failed" in index(stub)["plus", "1"][1])
        assert (answer(client), index(stub)["plus", "1"][0]) == (1, "READY")
        (tmp_path / "plus" / "2").mkdir()
        (tmp_path / "plus" / "2" / "model.onnx").write_bytes(b"garbage")
        eventually(lambda: index(stub).get(("plus", "2"), ("", ""))[0] == "UNAVAILABLE")
        assert "not a readable ONNX model" in index(stub)["plus", "2"][1]
        assert (answer(client), index(stub)["plus", "1"][0]) == (1, "READY")
        put(tmp_path, 2, plus(2))
        eventually(lambda: answer(client) == 2)
        (tmp_path / "plus" / "config.pbtxt").write_text("sequence_batching {}")
        eventually(lambda: "sequence_batching" in index(stub)["plus", "2"][1])
        assert answer(client) == 2


def test_a_repository_that_vanishes_takes_nothing_out_of_service_and_is_told_once(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    looks = 0

    def counted_scan(repositories: Iterable[Path]) -> Scan:
        nonlocal looks
        looks += 1
        return repository.scan(repositories)

    def several_looks_later() -> None:
        before = looks
        eventually(lambda: looks > before + 3)

    monkeypatch.setattr(model_control, "scan", counted_scan)
    put(tmp_path / "models", 1, plus(1))
    with serving(tmp_path / "models", **POLL) as server, connected(server) as (client, _):
        capfd.readouterr()
        for _ in range(2):
            (tmp_path / "models").rename(tmp_path / "unmounted")
            several_looks_later()
            assert answer(client) == 1
            (tmp_path / "unmounted").rename(tmp_path / "models")
            several_looks_later()
        assert answer(client) == 1
        events = [json.loads(line)["event"] for line in capfd.readouterr().err.splitlines()]
    gone, back = (
        "a repository cannot be read: nothing changes until it can",
        "the repositories can be read again",
    )
    assert events == [gone, back, gone, back]


def test_no_request_fails_while_versions_replace_each_other(tmp_path: Path) -> None:
    file = put(tmp_path, 1, plus(1))
    stop = threading.Event()
    with serving(tmp_path, **EXPLICIT, load_models=["plus"]) as server, connected(server) as (client, stub):

        def hammer() -> list[float]:
            seen = []
            with Client(f"127.0.0.1:{server.grpc_port}") as own:
                while not stop.is_set():
                    seen.append(answer(own))  # raises if one fails
            return seen

        with ThreadPoolExecutor(4) as pool:
            callers = [pool.submit(hammer) for _ in range(4)]
            for constant in range(2, 9):
                ir.save(plus(constant), file)
                load(stub)
            stop.set()
            seen = [caller.result() for caller in callers]
        assert all(answers == sorted(answers) for answers in seen)
        assert len(set().union(*seen)) > 1
        assert answer(client) == 8
        assert {state for state, _ in index(stub).values()} == {"READY"}


# ---- explicit ----


def test_explicit_control_loads_what_is_asked_for(tmp_path: Path) -> None:
    put(tmp_path, 1, plus(1))
    put(tmp_path, 1, plus(2), "other")
    with serving(tmp_path, **EXPLICIT) as server, connected(server) as (client, stub):
        assert set(index(stub).values()) == {("UNAVAILABLE", "not loaded")}
        assert index(stub, ready=True) == {}
        load(stub)
        assert (answer(client), client.ready("other")) == (1, False)
        assert index(stub) == {("plus", "1"): ("READY", ""), ("other", ""): ("UNAVAILABLE", "not loaded")}
        unload(stub)
        eventually(lambda: index(stub)["plus", "1"] == ("UNAVAILABLE", "unloaded"))
        unload(stub)  # again: nothing to do
        load(stub)
        assert answer(client) == 1
        with refused(grpc.StatusCode.NOT_FOUND, "no repository has a model 'nobody'"):
            load(stub, "nobody")
        with refused(grpc.StatusCode.NOT_FOUND, "no repository has a model 'nobody'"):
            unload(stub, "nobody")
        for name in ("../models/plus", "..", ".plus", "", "a/b"):
            for method in (load, unload):
                with refused(grpc.StatusCode.INVALID_ARGUMENT, "no model name"):
                    method(stub, name)


def test_a_model_that_could_be_loaded_is_told_apart_from_one_that_nobody_has(tmp_path: Path) -> None:
    """Whether it was loaded before makes no difference."""

    def ask_everything(stub: GRPCInferenceServiceStub, name: str, code: grpc.StatusCode, text: str) -> None:
        for ask in (
            lambda: stub.ModelInfer(pb.ModelInferRequest(model_name=name)),
            lambda: stub.ModelMetadata(pb.ModelMetadataRequest(name=name)),
            lambda: stub.ModelConfig(pb.ModelConfigRequest(name=name)),
            lambda: stub.ModelStatistics(pb.ModelStatisticsRequest(name=name)),
        ):
            with refused(code, text):
                ask()

    put(tmp_path, 1, plus(1))
    not_loaded = "' is in the repository but not loaded; load it with RepositoryModelLoad"
    with serving(tmp_path, **EXPLICIT) as server, connected(server) as (_, stub):
        ask_everything(stub, "plus", grpc.StatusCode.UNAVAILABLE, f"model 'plus{not_loaded}")
        load(stub)
        unload(stub)
        ask_everything(stub, "plus", grpc.StatusCode.UNAVAILABLE, f"model 'plus{not_loaded}")
        put(tmp_path, 1, plus(2), "later")
        ask_everything(stub, "later", grpc.StatusCode.NOT_FOUND, "'later'; this server has 'plus'")
        assert index(stub)["later", ""] == ("UNAVAILABLE", "not loaded")
        ask_everything(stub, "later", grpc.StatusCode.UNAVAILABLE, f"model 'later{not_loaded}")


def test_whoever_gave_up_before_a_turn_came_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, may_go_on, loads = threading.Event(), threading.Event(), 0

    def slow_load(*parts: Any) -> Servable:
        nonlocal loads
        loads += 1
        begun.set()
        assert may_go_on.wait(30)
        return loader.load(*parts)

    monkeypatch.setattr(manager, "load", slow_load)
    put(tmp_path, 1, plus(1))
    with serving(tmp_path, **EXPLICIT) as server, connected(server) as (client, stub):
        first = stub.RepositoryModelLoad.future(pb.RepositoryModelLoadRequest(model_name="plus"))
        assert begun.wait(30)
        for _ in range(3):
            with refused(grpc.StatusCode.DEADLINE_EXCEEDED, ""):
                stub.RepositoryModelLoad(pb.RepositoryModelLoadRequest(model_name="plus"), timeout=0.1)
        with refused(grpc.StatusCode.DEADLINE_EXCEEDED, ""):
            stub.RepositoryModelUnload(pb.RepositoryModelUnloadRequest(model_name="plus"), timeout=0.1)
        may_go_on.set()
        first.result()
        load(stub)
        assert answer(client) == 1
    assert loads == 2


@pytest.mark.parametrize("names", [["plus"], ["*"]])
def test_models_may_be_loaded_at_start(tmp_path: Path, names: list[str]) -> None:
    put(tmp_path, 1, plus(1))
    put(tmp_path, 1, plus(2), "other")
    with serving(tmp_path, **EXPLICIT, load_models=names) as server, connected(server) as (client, _):
        assert client.ready("plus")
        assert client.ready("other") is (names == ["*"])


def test_a_model_to_load_at_start_must_be_there(tmp_path: Path) -> None:
    put(tmp_path, 1, plus(1))
    with (
        pytest.raises(Exception, match=r"load_models names 'minus', but the repositories have plus"),
        serving(tmp_path, **EXPLICIT, load_models=["minus"]),
    ):
        pass


@pytest.mark.parametrize("settings", [ONE_CPU, {**POLL, "poll_interval_s": 100}], ids=["none", "poll"])
def test_other_modes_refuse_to_load_and_unload(tmp_path: Path, settings: dict[str, object]) -> None:
    put(tmp_path, 1, plus(1))
    with serving(tmp_path, **settings) as server, connected(server) as (client, stub):
        for method in (load, unload):
            with refused(grpc.StatusCode.FAILED_PRECONDITION, "explicit model load / unload is not allowed"):
                method(stub)
        assert answer(client) == 1


def test_a_load_may_bring_its_configuration(tmp_path: Path) -> None:
    put(tmp_path, 1, plus(1))
    put(tmp_path, 2, plus(2))
    with serving(tmp_path, **EXPLICIT) as server, connected(server) as (client, stub):
        load(stub, parameters={"config": '{"version_policy": {"specific": {"versions": [1]}}}'})
        assert answer(client) == 1
        load(stub)  # and without, it is the repository's again
        assert answer(client) == 2
        with refused(grpc.StatusCode.FAILED_PRECONDITION, "sequence_batching is not supported"):
            load(stub, parameters={"config": '{"sequence_batching": {}}'})
        with refused(grpc.StatusCode.INVALID_ARGUMENT, "not Triton's ModelConfig"):
            load(stub, parameters={"config": "version 1, please"})
        with refused(grpc.StatusCode.INVALID_ARGUMENT, "load parameter 'config' as int64_param is unknown"):
            load(stub, parameters={"config": 1})
        assert answer(client) == 2


def test_a_load_may_bring_the_model_itself(tmp_path: Path) -> None:
    put(tmp_path, 1, plus(1))
    content = put(tmp_path / "elsewhere", 1, plus(9)).read_bytes()
    with serving(tmp_path, **EXPLICIT) as server, connected(server) as (client, stub):
        load(stub, parameters={"config": "{}", "file:7/model.onnx": content})
        assert (answer(client), answer(client, "7")) == (9, 9)
        load(stub, "brought", {"config": "{}", "file:1/model.onnx": content})
        assert answer(client, name="brought") == 9
        unload(stub, "brought")
        eventually(lambda: ("brought", "1") not in index(stub))
        load(stub)  # the repository's own again
        assert answer(client) == 1
        refusals: list[tuple[dict[str, str | bytes], str]] = [
            ({"file:1/model.onnx": content}, "without the parameter 'config'"),
            ({"config": "{}", "file:../model.onnx": content}, "does not lie in the model's folder"),
            ({"config": "{}", "1/model.onnx": content}, "load parameter '1/model.onnx' as bytes_param"),
        ]
        for parameters, text in refusals:
            with refused(grpc.StatusCode.INVALID_ARGUMENT, text):
                load(stub, parameters=parameters)
        with refused(grpc.StatusCode.FAILED_PRECONDITION, "not a readable ONNX model"):
            load(stub, parameters={"config": "{}", "file:1/model.onnx": b"garbage"})
        assert answer(client) == 1


def test_requests_in_flight_finish_when_their_model_is_unloaded(tmp_path: Path) -> None:
    slow = chain(["batch", 3, 224, 224], *[convolution(9, 3 if first else 4) for first in (True, False)])
    put(tmp_path, 1, slow, "slow")
    image = np.zeros((1, 3, 224, 224), np.float32)
    with serving(tmp_path, **EXPLICIT, load_models=["*"]) as server, connected(server) as (client, stub):
        with ThreadPoolExecutor(8) as pool:
            answers = [pool.submit(client.infer, "slow", image) for _ in range(24)]
            eventually(lambda: any(one.done() for one in answers))
            unload(stub, "slow")  # does not wait for them
            outcomes = [one.exception() for one in answers]
        assert outcomes.count(None) >= 2
        late = [str(one) for one in outcomes if one is not None]
        assert [text for text in late if "is in the repository but not loaded" not in text] == []
        eventually(lambda: index(stub)["slow", "1"] == ("UNAVAILABLE", "unloaded"))
