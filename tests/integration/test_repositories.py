"""Repositories as people have them: made for Triton, several, with mistakes."""

from pathlib import Path

import grpc
import numpy as np
import pytest
from foldserve_client import FailedPrecondition, NotFound
from foldserve_proto import grpc_service_pb2 as pb
from foldserve_proto import model_config_pb2 as config_pb
from integration.repositories import EXPLICIT, ONE_CPU, answer, connected, index, load, refused
from running import serving
from small_models import batch_norm, chain, convolution, plus, put


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
