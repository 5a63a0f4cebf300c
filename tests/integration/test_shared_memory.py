"""System shared memory over real gRPC: results, bounds, objects that change under a registered region."""

import os
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import numpy as np
import pytest
from foldserve.server import Server
from foldserve_proto import grpc_service_pb2 as pb
from foldserve_proto.grpc_service_pb2_grpc import GRPCInferenceServiceStub
from numpy.typing import NDArray
from running import EXAMPLE_MODELS, serving

BYTE_SIZE = 8192
IMAGES = np.random.default_rng(3).random((4, 1, 8, 8), np.float32)
OUTPUT_AT = 4096
"""Where tests let the output begin, in bytes; the images lie at 0."""


@pytest.fixture(scope="module")
def sharing(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server that takes shared memory."""
    repository = tmp_path_factory.mktemp("models")
    (repository / "digits").symlink_to(EXAMPLE_MODELS / "digits")
    with serving(repository, shared_memory=True) as server:
        yield server


@pytest.fixture
def stub(sharing: Server) -> Iterator[GRPCInferenceServiceStub]:
    with grpc.insecure_channel(f"127.0.0.1:{sharing.grpc_port}") as channel:
        stub = GRPCInferenceServiceStub(channel)
        yield stub
        stub.SystemSharedMemoryUnregister(pb.SystemSharedMemoryUnregisterRequest())
        assert stub.ModelInfer(_sent()).outputs


@pytest.fixture
def memory() -> Iterator[Path]:
    """A shared memory object that holds the images; on Linux it is a file of this folder."""
    memory = Path(f"/dev/shm/foldserve-test-{uuid.uuid4()}")
    memory.write_bytes(IMAGES.tobytes().ljust(BYTE_SIZE, b"\0"))
    yield memory
    memory.unlink()


def _register(
    stub: GRPCInferenceServiceStub,
    memory: Path,
    name: str = "region",
    offset: int = 0,
    byte_size: int = BYTE_SIZE,
) -> None:
    stub.SystemSharedMemoryRegister(
        pb.SystemSharedMemoryRegisterRequest(
            name=name, key=f"/{memory.name}", offset=offset, byte_size=byte_size
        )
    )


def _sent() -> pb.ModelInferRequest:
    request = pb.ModelInferRequest(model_name="digits", raw_input_contents=[IMAGES.tobytes()])
    request.inputs.add(name="images", datatype="FP32", shape=IMAGES.shape)
    return request


def _shared(offset: int = 0, byte_size: int = IMAGES.nbytes) -> pb.ModelInferRequest:
    request = pb.ModelInferRequest(model_name="digits")
    tensor = request.inputs.add(name="images", datatype="FP32", shape=IMAGES.shape)
    _place(tensor, offset, byte_size)
    return request


def _place(
    tensor: pb.ModelInferRequest.InferInputTensor | pb.ModelInferRequest.InferRequestedOutputTensor,
    offset: int,
    byte_size: int,
) -> None:
    tensor.parameters["shared_memory_region"].string_param = "region"
    tensor.parameters["shared_memory_byte_size"].int64_param = byte_size
    tensor.parameters["shared_memory_offset"].int64_param = offset


def _raw(response: pb.ModelInferResponse) -> NDArray[np.float32]:
    return np.frombuffer(response.raw_output_contents[0], np.float32).reshape(4, 10)


def _fails(call: Callable[[], object]) -> tuple[grpc.StatusCode, str]:
    with pytest.raises(grpc.RpcError) as failure:
        call()
    return failure.value.code(), failure.value.details() or ""


def _runs_and_rows(stub: GRPCInferenceServiceStub) -> tuple[int, int]:
    (one,) = stub.ModelStatistics(pb.ModelStatisticsRequest(name="digits")).model_stats
    assert sum(batch.compute_infer.count for batch in one.batch_stats) == one.execution_count
    return one.execution_count, one.inference_count


def test_tensors_in_shared_memory_give_the_answer_of_tensors_sent(
    stub: GRPCInferenceServiceStub, memory: Path
) -> None:
    _register(stub, memory)
    expected = _raw(stub.ModelInfer(_sent()))
    request = _shared()
    np.testing.assert_array_equal(_raw(stub.ModelInfer(request)), expected)
    _place(request.outputs.add(name="logits"), OUTPUT_AT, 1000)
    response = stub.ModelInfer(request)
    (output,) = response.outputs
    assert response.raw_output_contents == [b""]
    assert (output.datatype, list(output.shape)) == ("FP32", [4, 10])
    assert output.parameters["shared_memory_region"].string_param == "region"
    assert output.parameters["shared_memory_offset"].int64_param == OUTPUT_AT
    assert output.parameters["shared_memory_byte_size"].int64_param == expected.nbytes
    written = np.frombuffer(memory.read_bytes(), np.float32, expected.size, OUTPUT_AT)
    np.testing.assert_array_equal(written.reshape(4, 10), expected)


def test_a_region_may_begin_anywhere_and_its_tensors_too(
    stub: GRPCInferenceServiceStub, memory: Path
) -> None:
    memory.write_bytes(bytes(4101) + IMAGES.tobytes() + bytes(100))
    _register(stub, memory, offset=4098, byte_size=IMAGES.nbytes + 3)
    np.testing.assert_array_equal(_raw(stub.ModelInfer(_shared(offset=3))), _raw(stub.ModelInfer(_sent())))


def test_a_stream_takes_shared_memory_too(stub: GRPCInferenceServiceStub, memory: Path) -> None:
    _register(stub, memory)
    (response,) = stub.ModelStreamInfer(iter([_shared()]))
    np.testing.assert_array_equal(_raw(response.infer_response), _raw(stub.ModelInfer(_sent())))


def test_regions_are_told_and_forgotten(stub: GRPCInferenceServiceStub, memory: Path) -> None:
    _register(stub, memory, "a", offset=16, byte_size=64)
    _register(stub, memory, "b")
    regions = stub.SystemSharedMemoryStatus(pb.SystemSharedMemoryStatusRequest()).regions
    assert {name: (r.key, r.offset, r.byte_size) for name, r in regions.items()} == {
        "a": (f"/{memory.name}", 16, 64),
        "b": (f"/{memory.name}", 0, BYTE_SIZE),
    }
    stub.SystemSharedMemoryUnregister(pb.SystemSharedMemoryUnregisterRequest(name="a"))
    stub.SystemSharedMemoryUnregister(pb.SystemSharedMemoryUnregisterRequest(name="a"))
    assert set(stub.SystemSharedMemoryStatus(pb.SystemSharedMemoryStatusRequest()).regions) == {"b"}
    code, text = _fails(lambda: stub.SystemSharedMemoryStatus(pb.SystemSharedMemoryStatusRequest(name="a")))
    assert code is grpc.StatusCode.NOT_FOUND
    assert "'a'" in text
    code, text = _fails(lambda: _register(stub, memory, "b"))
    assert code is grpc.StatusCode.ALREADY_EXISTS


@pytest.mark.parametrize(
    ("region", "text"),
    [
        (("", 0, 1), "is not the key"),
        (("/../../etc/passwd", 0, 1), "is not the key"),
        (("..", 0, 1), "is not the key"),
        (("/", 0, 1), "is not the key"),
        (("/no-such-object", 0, 1), "No such file"),
        (("MEMORY", 0, 0), "are not a part of it"),
        (("MEMORY", 0, BYTE_SIZE + 1), "are not a part of it"),
        (("MEMORY", 1, BYTE_SIZE), "are not a part of it"),
        (("MEMORY", 2**64 - 1, 2**64 - 1), "are not a part of it"),
    ],
)
def test_what_is_no_region_is_refused(
    stub: GRPCInferenceServiceStub, memory: Path, region: tuple[str, int, int], text: str
) -> None:
    key, offset, byte_size = region
    request = pb.SystemSharedMemoryRegisterRequest(
        name="region", key=key.replace("MEMORY", f"/{memory.name}"), offset=offset, byte_size=byte_size
    )
    code, details = _fails(lambda: stub.SystemSharedMemoryRegister(request))
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert text in details


@pytest.mark.parametrize(
    ("offset", "byte_size", "text"),
    [
        (BYTE_SIZE - 4, IMAGES.nbytes, "are not inside"),
        (-4, IMAGES.nbytes, "are not inside"),
        (0, -1, "are not inside"),
        (0, 2**62, "are not inside"),
        (0, IMAGES.nbytes - 4, "takes 1024 bytes, got 1020"),
    ],
)
def test_tensors_stay_within_their_region(
    stub: GRPCInferenceServiceStub, memory: Path, offset: int, byte_size: int, text: str
) -> None:
    _register(stub, memory)
    code, details = _fails(lambda: stub.ModelInfer(_shared(offset, byte_size)))
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert text in details


def test_an_output_that_does_not_fit_is_refused(stub: GRPCInferenceServiceStub, memory: Path) -> None:
    _register(stub, memory)
    request = _shared()
    _place(request.outputs.add(name="logits"), OUTPUT_AT, 100)
    before = _runs_and_rows(stub)
    code, details = _fails(lambda: stub.ModelInfer(request))
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert "the output takes 160 bytes" in details
    assert _runs_and_rows(stub) == (before[0] + 1, before[1])  # the model ran, but nothing was answered


def test_an_object_that_shrank_is_noticed(stub: GRPCInferenceServiceStub, memory: Path) -> None:
    _register(stub, memory)
    os.truncate(memory, 16)
    code, details = _fails(lambda: stub.ModelInfer(_shared()))
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert "has shrunk to 16 bytes" in details


def test_an_unlinked_object_stays_as_long_as_its_region(stub: GRPCInferenceServiceStub, memory: Path) -> None:
    _register(stub, memory)
    memory.rename(f"{memory}-gone")
    try:
        assert stub.ModelInfer(_shared()).outputs
    finally:
        Path(f"{memory}-gone").rename(memory)


def test_it_is_off_unless_switched_on(channel: grpc.Channel, memory: Path) -> None:
    stub = GRPCInferenceServiceStub(channel)
    for attempt in (lambda: _register(stub, memory), lambda: stub.ModelInfer(_shared())):
        code, details = _fails(attempt)
        assert code is grpc.StatusCode.UNIMPLEMENTED
        assert "switched off on this server; start it with --shared-memory" in details
    assert not stub.SystemSharedMemoryStatus(pb.SystemSharedMemoryStatusRequest()).regions


def test_cuda_shared_memory_is_as_without_a_gpu(stub: GRPCInferenceServiceStub) -> None:
    assert not stub.CudaSharedMemoryStatus(pb.CudaSharedMemoryStatusRequest()).regions
    stub.CudaSharedMemoryUnregister(pb.CudaSharedMemoryUnregisterRequest())
    code, details = _fails(
        lambda: stub.CudaSharedMemoryRegister(
            pb.CudaSharedMemoryRegisterRequest(name="gpu", raw_handle=bytes(64), byte_size=64)
        )
    )
    assert code is grpc.StatusCode.UNIMPLEMENTED
    assert "use system shared memory" in details
