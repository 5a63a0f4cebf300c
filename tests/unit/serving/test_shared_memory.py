import os
import uuid
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from foldserve.errors import InvalidRequest, LimitReached
from foldserve.rpc import codec
from foldserve.serving import shared_memory
from foldserve.serving.shared_memory import SharedMemory
from foldserve_proto import grpc_service_pb2 as pb


@pytest.fixture
def memory() -> Iterator[Path]:
    memory = Path(f"/dev/shm/foldserve-test-{uuid.uuid4()}")
    memory.write_bytes(bytes(4096))
    yield memory
    memory.unlink()


def _registered(memory: Path) -> SharedMemory:
    regions = SharedMemory(enabled=True)
    regions.register("region", memory.name, 0, 4096)
    return regions


def _descriptors(memory: Path) -> int:
    """How many of this process's descriptors are of ``memory``."""
    count = 0
    for descriptor in Path("/proc/self/fd").iterdir():
        with suppress(FileNotFoundError):  # closed by another thread meanwhile
            count += descriptor.readlink() == memory
    return count


def _request(byte_size: int = 16) -> pb.ModelInferRequest:
    request = pb.ModelInferRequest()
    tensor = request.inputs.add(name="x", datatype="INT32", shape=[byte_size // 4])
    tensor.parameters["shared_memory_region"].string_param = "region"
    tensor.parameters["shared_memory_byte_size"].int64_param = byte_size
    return request


def test_an_input_stays_as_it_was_when_it_came(memory: Path) -> None:
    regions = _registered(memory)
    expected = np.arange(4, dtype=np.int32)
    regions.slot("region", 0, 4096).write(memoryview(expected.tobytes()))
    array = codec.decode_inputs(_request(), regions)["x"]
    memory.write_bytes(bytes(16))
    np.testing.assert_array_equal(array, expected)
    assert not array.flags.writeable


def test_inputs_take_no_more_memory_than_those_in_a_message(memory: Path) -> None:
    os.truncate(memory, 2**46)  # there is no memory behind it
    regions = SharedMemory(enabled=True, most_bytes=1000)
    regions.register("region", memory.name, 0, 2**46)
    assert codec.decode_inputs(_request(1000), regions)["x"].size == 250
    request = _request(996)
    request.inputs.add().CopyFrom(request.inputs[0])
    for too_large in (_request(1004), _request(2**42), request):
        with pytest.raises(InvalidRequest, match="more than a message may have"):
            codec.decode_inputs(too_large, regions)


def test_a_region_stays_open_while_a_request_uses_it(memory: Path) -> None:
    regions = _registered(memory)
    slot = regions.slot("region", 0, 4096)
    regions.unregister("region")
    slot.write(memoryview(b"still there"))
    assert slot.read().startswith(b"still there")


def test_forgotten_regions_leave_no_descriptor(memory: Path) -> None:
    regions = SharedMemory(enabled=True)
    for index in range(20):
        regions.register(str(index), memory.name, 0, 4096)
    assert _descriptors(memory) >= 20
    regions.unregister()
    assert _descriptors(memory) == 0


def test_the_number_of_regions_is_bounded(memory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shared_memory, "MOST_REGIONS", 1)
    with pytest.raises(LimitReached, match="unregister one"):
        _registered(memory).register("another", memory.name, 0, 4096)
