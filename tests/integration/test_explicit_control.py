"""Mode ``explicit``: models come and go as callers ask, while requests are answered."""

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import onnx_ir as ir
import pytest
from foldserve.serving import loader, manager
from foldserve.serving.servable import Servable
from foldserve_client import Client
from foldserve_proto import grpc_service_pb2 as pb
from foldserve_proto.grpc_service_pb2_grpc import GRPCInferenceServiceStub
from integration.repositories import (
    EXPLICIT,
    ONE_CPU,
    POLL,
    answer,
    connected,
    eventually,
    index,
    load,
    refused,
    unload,
)
from running import serving
from small_models import chain, convolution, plus, put


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

    def slow_load(*parts: Any, **named: Any) -> Servable:
        nonlocal loads
        loads += 1
        begun.set()
        assert may_go_on.wait(30)
        return loader.load(*parts, **named)

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
