"""What Triton adds to KServe V2: configuration, statistics, the repository's index."""

from pathlib import Path

import grpc
import numpy as np
import pytest
from foldserve.rpc.repository import TRITON_STATES
from foldserve.serving.lifecycle import State
from foldserve_client import Client, InvalidArgument
from foldserve_proto import grpc_service_pb2 as pb
from foldserve_proto import model_config_pb2 as config_pb
from foldserve_proto.grpc_service_pb2_grpc import GRPCInferenceServiceStub
from running import EXAMPLE_MODELS, serving
from small_models import add_model, chain, convolution


@pytest.fixture
def stub(channel: grpc.Channel) -> GRPCInferenceServiceStub:
    return GRPCInferenceServiceStub(channel)


def test_the_configuration_leaves_the_batch_axis_out(stub: GRPCInferenceServiceStub) -> None:
    config = stub.ModelConfig(pb.ModelConfigRequest(name="digits")).config
    assert (config.name, config.platform, config.max_batch_size) == ("digits", "onnxruntime_onnx", 32)
    (images,), (logits,) = config.input, config.output
    assert (images.name, images.data_type, list(images.dims)) == ("images", config_pb.TYPE_FP32, [1, 8, 8])
    assert (logits.name, logits.data_type, list(logits.dims)) == ("logits", config_pb.TYPE_FP32, [10])
    assert config.HasField("dynamic_batching")
    assert config.instance_group[0].kind == config_pb.ModelInstanceGroup.KIND_CPU


def test_a_model_of_fixed_batch_is_configured_without_batching(tmp_path: Path) -> None:
    add_model(tmp_path, "fixed", chain([2, 3, 8, 8], convolution(3)))
    with serving(tmp_path) as server, grpc.insecure_channel(f"127.0.0.1:{server.grpc_port}") as channel:
        config = GRPCInferenceServiceStub(channel).ModelConfig(pb.ModelConfigRequest(name="fixed")).config
        assert (config.max_batch_size, list(config.input[0].dims)) == (0, [2, 3, 8, 8])
        assert not config.HasField("dynamic_batching")


def test_statistics_count_rows_runs_requests_and_failures(tmp_path: Path) -> None:
    (tmp_path / "digits").mkdir()
    (tmp_path / "digits" / "1").symlink_to(EXAMPLE_MODELS / "digits" / "1")
    # Rows of a run are measured at load, unless somebody says what he wants.
    (tmp_path / "digits" / "foldserve.yaml").write_text("batching: {preferred_batch_sizes: [32]}\n")
    images = np.zeros((40, 1, 8, 8), np.float32)
    with (
        serving(tmp_path) as server,
        grpc.insecure_channel(f"127.0.0.1:{server.grpc_port}") as channel,
        Client(f"127.0.0.1:{server.grpc_port}") as client,
    ):
        assert client.model_metadata("digits").properties["foldserve.rows_of_a_run"] == "32"
        client.infer("digits", images[:8])
        client.infer("digits", images)  # more than one run may have: 32 rows, then 8
        with pytest.raises(InvalidArgument):
            client.infer("digits", images, outputs=["logits", "logits"])
        (statistics,) = (
            GRPCInferenceServiceStub(channel).ModelStatistics(pb.ModelStatisticsRequest()).model_stats
        )
    assert (statistics.name, statistics.version) == ("digits", "1")
    assert (statistics.inference_count, statistics.execution_count) == (48, 3)
    stats = statistics.inference_stats
    stages = (stats.queue, stats.compute_input, stats.compute_infer, stats.compute_output)
    assert [stage.count for stage in (stats.success, *stages)] == [2] * 5
    assert stats.success.ns == pytest.approx(sum(stage.ns for stage in stages), abs=10)
    assert stats.fail.count == 1
    assert stats.fail.ns > 0
    assert [(batch.batch_size, batch.compute_infer.count) for batch in statistics.batch_stats] == [
        (8, 2),
        (32, 1),
    ]
    assert sum(batch.compute_infer.ns for batch in statistics.batch_stats) == pytest.approx(
        stats.compute_infer.ns, abs=10
    )
    assert statistics.last_inference > 1_600_000_000_000


def test_the_index_tells_states_and_reasons(tmp_path: Path) -> None:
    (tmp_path / "digits").symlink_to(EXAMPLE_MODELS / "digits")
    (tmp_path / "torn" / "3").mkdir(parents=True)
    (tmp_path / "torn" / "3" / "model.onnx").write_bytes(b"garbage")
    with serving(tmp_path) as server, grpc.insecure_channel(f"127.0.0.1:{server.grpc_port}") as channel:
        stub = GRPCInferenceServiceStub(channel)
        everything = {model.name: model for model in stub.RepositoryIndex(pb.RepositoryIndexRequest()).models}
        ready = [model.name for model in stub.RepositoryIndex(pb.RepositoryIndexRequest(ready=True)).models]
    assert (everything["digits"].version, everything["digits"].state) == ("1", "READY")
    assert (everything["torn"].version, everything["torn"].state) == ("3", "UNAVAILABLE")
    assert "not a readable ONNX model" in everything["torn"].reason
    assert ready == ["digits"]


def test_every_state_has_a_name_in_triton() -> None:
    assert set(TRITON_STATES) == set(State)
