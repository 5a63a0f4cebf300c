import uuid
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from foldserve.errors import LimitReached
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


def test_an_input_is_read_where_it_lies(memory: Path) -> None:
    request = pb.ModelInferRequest()
    tensor = request.inputs.add(name="x", datatype="INT32", shape=[4])
    tensor.parameters["shared_memory_region"].string_param = "region"
    tensor.parameters["shared_memory_byte_size"].int64_param = 16
    array = codec.decode_inputs(request, _registered(memory))["x"]
    with memory.open("r+b") as file:
        file.write(np.arange(4, dtype=np.int32).tobytes())
    np.testing.assert_array_equal(array, np.arange(4))
    assert not array.flags.writeable


def test_a_region_stays_mapped_while_a_request_uses_it(memory: Path) -> None:
    regions = _registered(memory)
    slot = regions.slot("region", 0, 4096)
    view = slot.view()
    regions.unregister("region")
    slot.write(memoryview(b"still there"))
    assert bytes(view[:11]) == b"still there"


def test_forgotten_regions_leave_neither_descriptor_nor_mapping(memory: Path) -> None:
    regions = SharedMemory(enabled=True)
    for index in range(20):
        regions.register(str(index), memory.name, 0, 4096)
    assert _descriptors(memory) >= 20
    regions.unregister()
    assert _descriptors(memory) == 0
    assert memory.name not in Path("/proc/self/maps").read_text()


def test_the_number_of_regions_is_bounded(memory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shared_memory, "MOST_REGIONS", 1)
    with pytest.raises(LimitReached, match="unregister one"):
        _registered(memory).register("another", memory.name, 0, 4096)
