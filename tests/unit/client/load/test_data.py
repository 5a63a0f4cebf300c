"""What requests hold."""

from pathlib import Path

import numpy as np
import pytest
from foldserve_client.errors import InvalidArgument
from foldserve_client.load import messages
from foldserve_client.load.data import VARIANTS, described, file_requests, random_requests
from foldserve_client.load.errors import LoadTestError
from foldserve_client.load.mix import Share
from foldserve_proto import grpc_service_pb2 as pb
from PIL import Image
from unit.client.test_tensors import NUMBERS


def _metadata(*inputs: tuple[str, str, list[int]]) -> pb.ModelMetadataResponse:
    metadata = pb.ModelMetadataResponse(name="m")
    for name, datatype, shape in inputs:
        metadata.inputs.add(name=name, datatype=datatype, shape=shape)
    return metadata


IMAGES = _metadata(("images", "FP32", [-1, 1, 8, 8]))


def test_random_inputs_fit_the_metadata_and_differ() -> None:
    metadata = _metadata(
        ("x", "FP32", [-1, 3]), ("i", "INT8", [-1, 2]), ("b", "BOOL", [5]), ("s", "BYTES", [-1])
    )
    made = list(random_requests(metadata, {}, rows=5))
    assert len(made) == VARIANTS
    for arrays in made:
        assert [array.shape for array in arrays.values()] == [(5, 3), (5, 2), (5,), (5,)]
        assert 0 <= arrays["x"].min() <= arrays["x"].max() < 1
        assert arrays["i"].min() >= 0
        assert all(len(word) == 8 for word in arrays["s"])
    assert not np.array_equal(made[0]["x"], made[1]["x"])


@pytest.mark.parametrize("datatype", [*NUMBERS, "BF16", "BYTES"])
def test_every_datatype_of_the_protocol_can_be_random(datatype: str) -> None:
    metadata = _metadata(("x", datatype, [-1, 2]))
    serialized = messages.serialize(Share("m"), metadata, random_requests(metadata, {}, 3)).serialized
    request = pb.ModelInferRequest.FromString(serialized[0])
    assert list(request.inputs[0].shape) == [3, 2]
    assert request.inputs[0].datatype == datatype


def test_dynamic_dimensions_are_given_by_name() -> None:
    metadata = _metadata(("x", "FP32", [-1, 3, -1, -1]))
    with pytest.raises(LoadTestError, match=r"--shape x=2,3,2,2"):
        next(random_requests(metadata, {}, rows=2))
    (array,) = next(random_requests(metadata, {"x": (1, 3, 32, 16)}, rows=1)).values()
    assert array.shape == (1, 3, 32, 16)


def test_rows_are_refused_where_the_model_has_a_fixed_number() -> None:
    metadata = _metadata(("x", "FP32", [4, 3]))
    assert next(random_requests(metadata, {}, rows=1))["x"].shape == (4, 3)
    with pytest.raises(LoadTestError, match="has 4 rows always, not 2"):
        next(random_requests(metadata, {}, rows=2))


def test_a_server_that_tells_of_no_inputs_needs_data(tmp_path: Path) -> None:
    with pytest.raises(LoadTestError, match="give them with --data"):
        next(random_requests(_metadata(), {}, 1))
    np.savez(tmp_path / "x.npz", x=np.zeros((6, 2), np.float64), n=np.zeros((6, 1), np.int32))
    made = list(file_requests(_metadata(), tmp_path / "x.npz", rows=2))
    assert len(made) == 3
    told = described(_metadata(), made[0])
    assert [(one.name, one.datatype, list(one.shape)) for one in told.inputs] == [
        ("x", "FP64", [2, 2]),
        ("n", "INT32", [2, 1]),
    ]


def test_a_file_is_cut_into_requests_of_rows(tmp_path: Path) -> None:
    values = np.arange(7 * 64, dtype=np.float32).reshape(7, 1, 8, 8)
    np.savez(tmp_path / "x.npz", images=values)
    made = [arrays["images"] for arrays in file_requests(IMAGES, tmp_path / "x.npz", rows=3)]
    assert [array[0, 0, 0, 0] for array in made] == [0, 192]
    (only,) = (arrays["images"] for arrays in file_requests(IMAGES, tmp_path / "x.npz", rows=9))
    assert np.array_equal(only, np.concatenate([values, values[:2]]))


def test_one_array_is_for_the_only_input(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.ones((2, 1, 8, 8), np.float32))
    assert len(list(file_requests(IMAGES, tmp_path / "x.npy", rows=1))) == 2
    with pytest.raises(LoadTestError, match="tells of 2"):
        list(file_requests(_metadata(("a", "FP32", [-1]), ("b", "FP32", [-1])), tmp_path / "x.npy", rows=1))


def test_arrays_of_unequal_length_are_one_request(tmp_path: Path) -> None:
    metadata = _metadata(("a", "FP32", [-1]), ("b", "FP32", [-1]))
    np.savez(tmp_path / "x.npz", a=np.zeros(3, np.float32), b=np.zeros(2, np.float32))
    assert len(list(file_requests(metadata, tmp_path / "x.npz", rows=1))) == 1


def test_images_are_made_to_fit_the_model(tmp_path: Path) -> None:
    for number, shade in enumerate((0, 255)):
        Image.new("RGB", (30, 20), (shade, shade, shade)).save(tmp_path / f"{number}.png")
    black, white = (arrays["images"] for arrays in file_requests(IMAGES, tmp_path, rows=1))
    assert black.shape == (1, 1, 8, 8)
    assert (black.max(), white.min()) == (0, 1)
    (one,) = file_requests(IMAGES, tmp_path / "1.png", rows=1)
    assert np.array_equal(one["images"], white)


def test_images_are_read_when_they_are_needed(tmp_path: Path) -> None:
    for number in range(3):
        Image.new("L", (8, 8)).save(tmp_path / f"{number}.png")
    (tmp_path / ".DS_Store").write_text("no image")
    (tmp_path / "labels.txt").write_text("no image")
    made = file_requests(IMAGES, tmp_path, rows=1)
    for _ in range(3):
        next(made)
    with pytest.raises(LoadTestError, match=r"labels\.txt"):
        next(made)
    (four,) = file_requests(_metadata(("images", "FP32", [2, 1, 8, 8])), tmp_path / "1.png", rows=1)
    assert four["images"].shape == (2, 1, 8, 8)


def test_images_of_different_sizes_go_into_different_requests(tmp_path: Path) -> None:
    metadata = _metadata(("images", "FP32", [-1, 1, -1, -1]))
    for number, size in enumerate(((8, 8), (9, 7))):
        Image.new("L", size).save(tmp_path / f"{number}.png")
    made = [arrays["images"].shape for arrays in file_requests(metadata, tmp_path, rows=1)]
    assert made == [(1, 1, 8, 8), (1, 1, 7, 9)]
    with pytest.raises(LoadTestError, match=r"1\.png is 9 × 7 pixels.*a load test has no such options"):
        list(file_requests(metadata, tmp_path, rows=2))
    ambiguous = _metadata(("images", "FP32", [-1, 3, 8, 3]))
    with pytest.raises(LoadTestError, match=r"channels first or last.*a load test has no such options"):
        list(file_requests(ambiguous, tmp_path, rows=1))


def test_arrays_that_hold_nothing_are_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.zeros((0, 1, 8, 8), np.float32))
    with pytest.raises(LoadTestError, match="without rows"):
        list(file_requests(IMAGES, tmp_path / "x.npy", rows=1))


def test_what_cannot_be_read_is_named(tmp_path: Path) -> None:
    (tmp_path / "x.npz").write_text("no archive")
    (tmp_path / "empty").mkdir()
    for path in (tmp_path / "x.npz", tmp_path / "empty", tmp_path / "missing.npz"):
        with pytest.raises(LoadTestError, match=path.name):
            list(file_requests(IMAGES, path, rows=1))


def test_arrays_that_do_not_fit_are_refused_before_anything_is_sent(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", images=np.zeros((1, 1, 9, 9), np.float32))
    with pytest.raises(InvalidArgument, match="images"):
        messages.serialize(Share("m"), IMAGES, file_requests(IMAGES, tmp_path / "x.npz", 1))


def test_large_requests_are_fewer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(messages, "MOST_BYTES", 1000)
    made = messages.serialize(Share("m", "7"), IMAGES, random_requests(IMAGES, {}, 1))
    assert len(made.serialized) == 3  # of some 300 bytes each
    assert pb.ModelInferRequest.FromString(made.serialized[0]).model_version == "7"
    assert made.mean_bytes == pytest.approx(300, abs=20)
