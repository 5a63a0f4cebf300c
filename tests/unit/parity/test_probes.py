"""Probe inputs: made up, or the model's own."""

from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from foldserve.errors import InvalidModel
from foldserve.parity.measures import is_float
from foldserve.parity.probes import SPATIAL_SIZES, Probe, load_samples, synthetic_probes
from foldserve.parity.report import ProbeSource
from foldserve.runtime.session import Array
from foldserve.runtime.tensors import TensorSpec
from unit.parity.networks import model, session

FLOAT32 = np.dtype(np.float32)
IMAGES = TensorSpec("x", FLOAT32, ("n", 3, 4, 4))


def relu(shape: str, element: str = "float") -> bytes:
    operator = "Relu" if element == "float" else "Identity"
    return model(f"g ({element}{shape} x) => ({element}{shape} y) {{ y = {operator}(x) }}")


def shapes(probes: tuple[Probe, ...], name: str = "x") -> list[tuple[int, ...]]:
    return [probe[name].shape for probe in probes]


def test_a_dynamic_batch_is_probed_with_one_and_with_the_largest() -> None:
    probes = synthetic_probes(session(relu("[n, 3, 4, 4]")), largest_batch=5)
    assert shapes(probes.probes) == [(1, 3, 4, 4), (5, 3, 4, 4)]
    assert probes.source is ProbeSource.SYNTHETIC


def test_the_row_alone_is_the_first_of_several() -> None:
    single, several = (probe["x"] for probe in synthetic_probes(session(relu("[n, 3, 4, 4]"))).probes)
    np.testing.assert_array_equal(several[:1], single)
    assert several[1:].min() >= 0 > single.min()


def test_a_fixed_shape_is_taken_as_it_is() -> None:
    assert shapes(synthetic_probes(session(relu("[2, 3, 4, 4]"))).probes) == [(2, 3, 4, 4)] * 2


def test_dynamic_sizes_are_probed_with_two() -> None:
    first, second = SPATIAL_SIZES[:2]
    probes = synthetic_probes(session(relu("[n, 3, h, w]")), largest_batch=4).probes
    assert shapes(probes) == [
        (1, 3, first, first),
        (4, 3, first, first),
        (1, 3, second, second),
        (4, 3, second, second),
    ]


def test_a_model_that_takes_one_size_only_is_probed_with_that() -> None:
    source = model(
        "g (float[n, 1, h, w] x) => (float[n, 2] y) { f = Flatten(x)  y = MatMul(f, w0) }",
        weights={"w0": np.ones((32 * 32, 2), np.float32)},
    )
    assert shapes(synthetic_probes(session(source)).probes) == [(1, 1, 32, 32), (8, 1, 32, 32)]


def test_equal_names_are_equal_sizes() -> None:
    source = model("g (float[n, 2] x, float[n, 2] z, float[2, n] t) => (float[n, 2] y) { y = Add(x, z) }")
    for probe in synthetic_probes(session(source)).probes:
        assert probe["x"].shape == probe["z"].shape == probe["t"].shape[::-1]


def test_a_scalar_input_gets_a_scalar() -> None:
    source = model("g (float[n, 2] x, float a) => (float[n, 2] y) { y = Mul(x, a) }")
    assert shapes(synthetic_probes(session(source)).probes, "a") == [(), ()]


def test_the_seed_decides_the_values() -> None:
    reference = session(relu("[n, 3, h, w]"))

    def values(seed: int) -> Array:
        return synthetic_probes(reference, seed=seed).probes[1]["x"]

    np.testing.assert_array_equal(values(1), values(1))
    assert (values(1) != values(2)).any()
    assert synthetic_probes(reference, seed=5).seed == 5


@pytest.mark.parametrize(
    ("element", "low", "high"),
    [
        ("uint8", 0, 255),
        ("int8", -128, 127),
        ("int64", 0, 1),
        ("int32", 0, 1),
        ("uint16", 0, 1),
        ("bool", 0, 1),
    ],
)
def test_integers_use_their_range(element: str, low: int, high: int) -> None:
    for probe in synthetic_probes(session(relu("[4, 2000]", element))).probes:
        assert probe["x"].dtype == np.dtype(element)
        assert (int(probe["x"].min()), int(probe["x"].max())) == (low, high)


@pytest.mark.parametrize("element", ["float", "double", "float16", "bfloat16"])
def test_floats_are_normalised_and_scaled_images_in_turn(element: str) -> None:
    normal, uniform = synthetic_probes(session(relu("[4, 2000]", element))).probes
    assert is_float(normal["x"].dtype)
    assert normal["x"].astype(float).min() < -2
    assert normal["x"].astype(float).std() == pytest.approx(1, abs=0.05)
    assert uniform["x"].astype(float).min() >= 0
    assert uniform["x"].astype(float).max() <= 1


def test_strings_are_probed_too() -> None:
    probes = synthetic_probes(session(relu("[n]", "string"))).probes
    assert [probe["x"].tolist() for probe in probes] == [[b"probe"], [b"probe"] * 8]


def npz(folder: Path, **arrays: Array) -> Path:
    path = folder / "samples.npz"
    np.savez(path, allow_pickle=True, **arrays)
    return path


def test_samples_come_singly_and_in_batches(tmp_path: Path) -> None:
    images = np.arange(10 * 48, dtype=np.float32).reshape(10, 3, 4, 4)
    probes = load_samples(npz(tmp_path, x=images), [IMAGES], largest_batch=4)
    assert probes.source is ProbeSource.SAMPLES
    assert probes.seed is None
    assert [len(probe["x"]) for probe in probes.probes] == [1, 4, 4, 2]
    np.testing.assert_array_equal(np.concatenate([probe["x"] for probe in probes.probes[1:]]), images)


def test_one_sample_is_one_probe(tmp_path: Path) -> None:
    path = npz(tmp_path, x=np.zeros((1, 3, 4, 4), np.float32))
    assert shapes(load_samples(path, [IMAGES]).probes) == [(1, 3, 4, 4)]


def test_samples_of_a_fixed_batch_come_in_whole_batches(tmp_path: Path) -> None:
    spec = TensorSpec("x", FLOAT32, (2, 5))
    path = npz(tmp_path, x=np.zeros((7, 5), np.float32))
    assert shapes(load_samples(path, [spec]).probes) == [(2, 5)] * 3
    with pytest.raises(InvalidModel, match="too few samples"):
        load_samples(npz(tmp_path, x=np.zeros((1, 5), np.float32)), [spec])


def test_inputs_without_a_common_batch_are_one_probe(tmp_path: Path) -> None:
    specs = [IMAGES, TensorSpec("a", FLOAT32, None)]
    path = npz(tmp_path, x=np.zeros((6, 3, 4, 4), np.float32), a=np.array(2, np.float32))
    (probe,) = load_samples(path, specs).probes
    assert (probe["x"].shape, probe["a"].shape) == ((6, 3, 4, 4), ())


def test_bfloat16_and_strings_survive_npz(tmp_path: Path) -> None:
    specs = [
        TensorSpec("x", np.dtype(ml_dtypes.bfloat16), ("n",)),
        TensorSpec("s", np.dtype(np.object_), ("n",)),
    ]
    path = npz(tmp_path, x=np.array([1.5, 2], ml_dtypes.bfloat16), s=np.array(["a", "größer"]))
    probe = load_samples(path, specs).probes[-1]
    assert probe["x"].dtype == ml_dtypes.bfloat16
    assert probe["x"].astype(float).tolist() == [1.5, 2]
    assert probe["s"].tolist() == [b"a", "größer".encode()]


@pytest.mark.parametrize(
    ("arrays", "text"),
    [
        (
            {"image": np.zeros((1, 3, 4, 4), np.float32)},
            "no array 'x'; name the arrays like the model's inputs",
        ),
        ({"x": np.zeros((1, 3, 4, 4))}, "array 'x' is float64, the model takes float32"),
        (
            {"x": np.zeros((1, 3, 5, 4), np.float32)},
            r"shape \[1, 3, 5, 4\], the model takes \['n', 3, 4, 4\]",
        ),
        ({"x": np.zeros((3, 4, 4), np.float32)}, r"shape \[3, 4, 4\]"),
        ({"x": np.array([{"a": 1}], np.object_)}, "cannot be read as .npz"),
    ],
    ids=["name", "dtype", "size", "rank", "pickle"],
)
def test_wrong_samples_are_named(tmp_path: Path, arrays: dict[str, Array], text: str) -> None:
    with pytest.raises(InvalidModel, match=text) as failure:
        load_samples(npz(tmp_path, **arrays), [IMAGES])
    assert "samples.npz" in str(failure.value)


@pytest.mark.parametrize("content", [None, b"", b"no archive"])
def test_an_unreadable_file_is_named(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "samples.npz"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InvalidModel, match=r"samples\.npz: cannot be read as \.npz"):
        load_samples(path, [IMAGES])


def test_a_single_array_is_no_archive(tmp_path: Path) -> None:
    path = tmp_path / "samples.npz"
    with path.open("wb") as file:
        np.save(file, np.zeros((1, 3, 4, 4), np.float32))
    with pytest.raises(InvalidModel, match=r"cannot be read as \.npz"):
        load_samples(path, [IMAGES])
