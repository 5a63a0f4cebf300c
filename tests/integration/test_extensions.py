"""Every extension that the server lists is used here, and what it does not list is refused."""

import re
from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import numpy as np
import pytest
from foldserve.rpc.metadata import EXTENSIONS, ON_DEMAND
from foldserve.server import Server
from foldserve_proto import grpc_service_pb2 as pb
from foldserve_proto.grpc_service_pb2_grpc import GRPCInferenceServiceStub
from readme_tables import ROOT
from running import EXAMPLE_MODELS, serving
from small_models import add_model, chain, convolution

IMAGES = np.random.default_rng(5).random((3, 1, 8, 8), np.float32)
LABELS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight"]


@pytest.fixture(scope="module")
def complete(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server with everything switched on, and labels for all digits but the last."""
    repository = tmp_path_factory.mktemp("models")
    (repository / "digits").mkdir()
    (repository / "digits" / "1").symlink_to(EXAMPLE_MODELS / "digits" / "1")
    (repository / "digits" / "names.txt").write_text("\n".join(LABELS))
    (repository / "digits" / "foldserve.yaml").write_text(
        "labels: {logits: names.txt}\nbatching: {priority_levels: 2, default_priority_level: 2}\n"
    )
    add_model(repository, "fixed", chain([2, 3, 8, 8], convolution(3)))
    settings = {"shared_memory": True, "trace_file": repository / "traces", "management_address": "public"}
    with serving(repository, **settings) as server:
        yield server


@pytest.fixture
def stub(complete: Server) -> Iterator[GRPCInferenceServiceStub]:
    with grpc.insecure_channel(f"127.0.0.1:{complete.grpc_port}") as channel:
        yield GRPCInferenceServiceStub(channel)


def _request(model: str = "digits", *, typed: bool = False) -> pb.ModelInferRequest:
    request = pb.ModelInferRequest(model_name=model)
    tensor = request.inputs.add(name="images", datatype="FP32", shape=IMAGES.shape)
    if typed:
        tensor.contents.fp32_contents.extend(IMAGES.ravel().tolist())
    else:
        request.raw_input_contents.append(IMAGES.tobytes())
    return request


def _classes(response: pb.ModelInferResponse) -> list[bytes]:
    """The texts of a response, raw or typed."""
    (output,) = response.outputs
    assert output.datatype == "BYTES"
    if output.contents.bytes_contents:
        return list(output.contents.bytes_contents)
    (raw,) = response.raw_output_contents
    texts = []
    while raw:
        length = int.from_bytes(raw[:4], "little")
        texts.append(raw[4 : 4 + length])
        raw = raw[4 + length :]
    return texts


def binary_tensor_data(stub: GRPCInferenceServiceStub) -> None:
    assert len(stub.ModelInfer(_request()).raw_output_contents) == 1


def classification(stub: GRPCInferenceServiceStub) -> None:
    logits = np.frombuffer(stub.ModelInfer(_request()).raw_output_contents[0], np.float32).reshape(3, 10)
    best = np.argsort(-logits, axis=1)[:, :2]
    expected = [
        f"{logits[row, index]:f}:{index}" + (f":{LABELS[index]}" if index < len(LABELS) else "")
        for row in range(3)
        for index in best[row]
    ]
    for typed in (False, True):
        request = _request(typed=typed)
        request.outputs.add(name="logits").parameters["classification"].int64_param = 2
        response = stub.ModelInfer(request)
        assert list(response.outputs[0].shape) == [3, 2]
        assert [text.decode() for text in _classes(response)] == expected
        assert bool(response.raw_output_contents) is not typed


def logging(stub: GRPCInferenceServiceStub) -> None:
    assert stub.LogSettings(pb.LogSettingsRequest()).settings["log_error"].bool_param


def model_configuration(stub: GRPCInferenceServiceStub) -> None:
    assert stub.ModelConfig(pb.ModelConfigRequest(name="digits")).config.name == "digits"


def model_repository(stub: GRPCInferenceServiceStub) -> None:
    names = {model.name for model in stub.RepositoryIndex(pb.RepositoryIndexRequest()).models}
    assert names == {"digits", "fixed"}


def schedule_policy(stub: GRPCInferenceServiceStub) -> None:
    request = _request()
    request.parameters["priority"].uint64_param = 1
    request.parameters["timeout"].int64_param = 60_000_000
    assert stub.ModelInfer(request).outputs
    request.parameters["priority"].uint64_param = 3  # beyond the levels: the default one
    assert stub.ModelInfer(request).outputs


def statistics(stub: GRPCInferenceServiceStub) -> None:
    before = _counts(stub)
    stub.ModelInfer(_request())
    failing = _request()
    failing.outputs.add(name="nothing")
    (answer,) = stub.ModelStreamInfer(iter([failing]))
    assert answer.error_message
    assert _counts(stub) == (before[0] + 3, before[1] + 1)


def system_shared_memory(stub: GRPCInferenceServiceStub) -> None:
    memory = Path("/dev/shm/foldserve-test-extension")
    memory.write_bytes(IMAGES.tobytes())
    try:
        stub.SystemSharedMemoryRegister(
            pb.SystemSharedMemoryRegisterRequest(name="r", key=memory.name, byte_size=IMAGES.nbytes)
        )
    finally:
        memory.unlink()
    request = _request()
    del request.raw_input_contents[:]
    request.inputs[0].parameters["shared_memory_region"].string_param = "r"
    request.inputs[0].parameters["shared_memory_byte_size"].int64_param = IMAGES.nbytes
    assert stub.ModelInfer(request).outputs
    stub.SystemSharedMemoryUnregister(pb.SystemSharedMemoryUnregisterRequest(name="r"))


def trace(stub: GRPCInferenceServiceStub) -> None:
    request = pb.TraceSettingRequest()
    for name, value in (("trace_level", "TIMESTAMPS"), ("trace_rate", "1"), ("trace_count", "1")):
        request.settings[name].value.append(value)
    file = Path(stub.TraceSetting(request).settings["trace_file"].value[0])
    stub.ModelInfer(_request())
    stub.ModelInfer(_request())
    assert len(file.read_text().splitlines()) == 1
    for setting in request.settings.values():
        del setting.value[:]
    stub.TraceSetting(request)


def _counts(stub: GRPCInferenceServiceStub) -> tuple[int, int]:
    """Rows inferred and requests failed so far."""
    (one,) = stub.ModelStatistics(pb.ModelStatisticsRequest(name="digits")).model_stats
    return one.inference_count, one.inference_stats.fail.count


USES: dict[str, Callable[[GRPCInferenceServiceStub], None]] = {
    use.__name__: use
    for use in (
        binary_tensor_data,
        classification,
        logging,
        model_configuration,
        model_repository,
        schedule_policy,
        statistics,
        system_shared_memory,
        trace,
    )
}


@pytest.mark.parametrize("extension", sorted({*EXTENSIONS, *ON_DEMAND, *USES}))
def test_what_is_listed_works(stub: GRPCInferenceServiceStub, extension: str) -> None:
    assert extension in stub.ServerMetadata(pb.ServerMetadataRequest()).extensions
    USES[extension](stub)


def test_the_documentation_lists_the_same_ones() -> None:
    section = (ROOT / "docs" / "protocol.md").read_text().split("## Extensions\n")[1].split("\n## ")[0]
    assert set(re.findall(r"^\| `(\w+)` \|", section, re.MULTILINE)) == {*EXTENSIONS, *ON_DEMAND}


def test_what_is_switched_off_is_not_listed(channel: grpc.Channel) -> None:
    listed = GRPCInferenceServiceStub(channel).ServerMetadata(pb.ServerMetadataRequest()).extensions
    assert list(listed) == list(EXTENSIONS)


def test_a_model_without_batching_has_one_list_of_classes(stub: GRPCInferenceServiceStub) -> None:
    images = np.ones((2, 3, 8, 8), np.float32)
    request = pb.ModelInferRequest(model_name="fixed", raw_input_contents=[images.tobytes()])
    request.inputs.add(name="x", datatype="FP32", shape=images.shape)
    request.outputs.add(name="y").parameters["classification"].int64_param = 1000
    response = stub.ModelInfer(request)
    assert list(response.outputs[0].shape) == [2 * 4 * 6 * 6]
    values = [float(text.decode().split(":")[0]) for text in _classes(response)]
    assert values == sorted(values, reverse=True)


@pytest.mark.parametrize("classes", [0, -1, -(2**63)])
def test_no_classes_are_refused(stub: GRPCInferenceServiceStub, classes: int) -> None:
    request = _request()
    request.outputs.add(name="logits").parameters["classification"].int64_param = classes
    with pytest.raises(grpc.RpcError) as failure:
        stub.ModelInfer(request)
    assert failure.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "one class or more" in (failure.value.details() or "")


def test_classification_is_a_number(stub: GRPCInferenceServiceStub) -> None:
    request = _request()
    request.outputs.add(name="logits").parameters["classification"].string_param = "2"
    with pytest.raises(grpc.RpcError) as failure:
        stub.ModelInfer(request)
    assert failure.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "int64_param" in (failure.value.details() or "")
