"""Requests that mean harm, by streams, shared memory, classes and settings: refused, and nobody notices."""

import os
import uuid
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import grpc
import numpy as np
import pytest
from foldserve.server import Server
from foldserve_proto import grpc_service_pb2 as pb
from foldserve_proto.grpc_service_pb2_grpc import GRPCInferenceServiceStub
from running import EXAMPLE_MODELS, serving

IMAGES = np.zeros((1, 1, 8, 8), np.float32)
QUICKLY_S = 20.0
"""Generous: what it guards against takes for ever."""


@pytest.fixture(scope="module")
def open_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server with shared memory and few streams."""
    repository = tmp_path_factory.mktemp("models")
    (repository / "digits").symlink_to(EXAMPLE_MODELS / "digits")
    with serving(repository, shared_memory=True, max_streams=4) as server:
        yield server


@pytest.fixture
def stub(open_server: Server) -> Iterator[GRPCInferenceServiceStub]:
    """Afterwards the server still answers."""
    with grpc.insecure_channel(f"127.0.0.1:{open_server.grpc_port}") as channel:
        stub = GRPCInferenceServiceStub(channel)
        yield stub
        stub.SystemSharedMemoryUnregister(pb.SystemSharedMemoryUnregisterRequest())
        assert stub.ModelInfer(_request(), timeout=QUICKLY_S).outputs


def _request() -> pb.ModelInferRequest:
    request = pb.ModelInferRequest(model_name="digits", raw_input_contents=[IMAGES.tobytes()])
    request.inputs.add(name="images", datatype="FP32", shape=IMAGES.shape)
    return request


def _code(stub: GRPCInferenceServiceStub, request: pb.ModelInferRequest) -> str:
    with pytest.raises(grpc.RpcError) as failure:
        stub.ModelInfer(request, timeout=QUICKLY_S)
    return failure.value.code().name


def test_bytes_that_are_no_request_end_only_their_stream(
    open_server: Server, stub: GRPCInferenceServiceStub
) -> None:
    with grpc.insecure_channel(f"127.0.0.1:{open_server.grpc_port}") as channel:
        call: grpc.StreamStreamMultiCallable[bytes, bytes] = channel.stream_stream(
            "/inference.GRPCInferenceService/ModelStreamInfer"
        )
        for _ in range(30):  # a stream that is not quite ended would keep the server from stopping
            with pytest.raises(grpc.RpcError, match="deserializing"):
                list(call(iter([b"\xff" * 100]), timeout=QUICKLY_S))


def test_streams_that_are_opened_and_left_take_no_place(stub: GRPCInferenceServiceStub) -> None:
    for _ in range(40):
        stub.ModelStreamInfer(iter([_request()]), timeout=QUICKLY_S).cancel()
    answered = 0
    while answered < 4:  # as many as may be open at once: none is held by those that were left
        with suppress(grpc.RpcError):  # until the server has noticed that they were left
            answered += len(list(stub.ModelStreamInfer(iter([_request()]), timeout=QUICKLY_S)))


def test_every_bad_message_of_a_stream_is_answered(stub: GRPCInferenceServiceStub) -> None:
    bad = [pb.ModelInferRequest(id=str(index), model_name="x" * 20_000) for index in range(200)]
    responses = list(stub.ModelStreamInfer(iter(bad), timeout=QUICKLY_S))
    assert {response.infer_response.id for response in responses} == {request.id for request in bad}
    assert all(response.error_message for response in responses)


@pytest.mark.parametrize("kind", ["fifo", "link", "folder"])
def test_what_is_no_shared_memory_is_not_opened(stub: GRPCInferenceServiceStub, kind: str) -> None:
    path = Path(f"/dev/shm/foldserve-test-{uuid.uuid4()}")
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "link":
        path.symlink_to("/etc/passwd")
    else:
        path.mkdir()
    try:
        with pytest.raises(grpc.RpcError) as failure:
            stub.SystemSharedMemoryRegister(
                pb.SystemSharedMemoryRegisterRequest(name="r", key=path.name, byte_size=1), timeout=QUICKLY_S
            )
    finally:
        path.rmdir() if kind == "folder" else path.unlink()
    assert failure.value.code() is grpc.StatusCode.INVALID_ARGUMENT


@pytest.mark.parametrize(
    ("name", "key"), [("", "k"), ("x" * 20_000, "k"), ("r", "x" * 20_000), ("r", "a\0b")]
)
def test_names_and_keys_are_bounded(stub: GRPCInferenceServiceStub, name: str, key: str) -> None:
    with pytest.raises(grpc.RpcError) as failure:
        stub.SystemSharedMemoryRegister(
            pb.SystemSharedMemoryRegisterRequest(name=name, key=key, byte_size=1), timeout=QUICKLY_S
        )
    assert failure.value.code() is grpc.StatusCode.INVALID_ARGUMENT


def test_a_declared_shape_takes_no_memory(stub: GRPCInferenceServiceStub) -> None:
    memory = Path(f"/dev/shm/foldserve-test-{uuid.uuid4()}")
    memory.write_bytes(bytes(4096))
    try:
        stub.SystemSharedMemoryRegister(
            pb.SystemSharedMemoryRegisterRequest(name="r", key=memory.name, byte_size=4096)
        )
    finally:
        memory.unlink()
    for datatype in ("FP32", "BYTES"):
        for shape in ([2**40], [2**62, 2**62], [-1, 1, 8, 8]):
            request = pb.ModelInferRequest(model_name="digits")
            tensor = request.inputs.add(name="images", datatype=datatype, shape=shape)
            tensor.parameters["shared_memory_region"].string_param = "r"
            tensor.parameters["shared_memory_byte_size"].int64_param = 4096
            assert _code(stub, request) == "INVALID_ARGUMENT"


def test_classes_of_outputs_that_are_not_there(stub: GRPCInferenceServiceStub) -> None:
    request = _request()
    request.outputs.add(name="nothing").parameters["classification"].int64_param = 2**62
    assert _code(stub, request) == "INVALID_ARGUMENT"
    request = _request()
    for _ in range(2):
        request.outputs.add(name="logits").parameters["classification"].int64_param = 1
    assert _code(stub, request) == "INVALID_ARGUMENT"


def test_a_request_with_thousands_of_settings_is_refused(open_server: Server) -> None:
    logs, traces = pb.LogSettingsRequest(), pb.TraceSettingRequest()
    for index in range(5000):
        logs.settings[f"setting {index}"].bool_param = True
        traces.settings[f"setting {index}"].value.append("1")
    with grpc.insecure_channel(open_server.management_address) as channel:
        stub = GRPCInferenceServiceStub(channel)
        with pytest.raises(grpc.RpcError, match="unknown log setting"):
            stub.LogSettings(logs, timeout=QUICKLY_S)
        with pytest.raises(grpc.RpcError, match="unknown trace setting"):
            stub.TraceSetting(traces, timeout=QUICKLY_S)
