"""Images from files as a model's input."""

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from foldserve_client import InvalidArgument
from foldserve_client.files import UnreadableFile
from foldserve_client.images import check_image, geometry_of, read_images
from foldserve_client.inference import Spec
from foldserve_client.preparation import Fit, Layout, Preparation
from PIL import Image

GREY = np.arange(0, 240, 8, dtype=np.uint8).reshape(5, 6)
COLOURS = np.stack([GREY, 255 - GREY, np.full_like(GREY, 100)], axis=-1)


def spec(*shape: int, datatype: str = "FP32") -> Spec:
    return Spec("images", datatype, shape)


@pytest.fixture
def grey(tmp_path: Path) -> Path:
    Image.fromarray(GREY).save(tmp_path / "grey.png")
    return tmp_path / "grey.png"


@pytest.fixture
def colours(tmp_path: Path) -> Path:
    Image.fromarray(COLOURS).save(tmp_path / "colours.png")
    return tmp_path / "colours.png"


def test_channels_are_where_the_shape_has_them(colours: Path) -> None:
    first = read_images([colours, colours], spec(-1, 3, 5, 6), Preparation())
    last = read_images([colours], spec(-1, 5, 6, 3), Preparation())
    assert (first.shape, last.shape) == ((2, 3, 5, 6), (1, 5, 6, 3))
    assert first.dtype == np.float32
    np.testing.assert_allclose(last[0], COLOURS / 255, rtol=1e-6)
    np.testing.assert_array_equal(first[1], np.moveaxis(last[0], -1, 0))
    assert first.flags.c_contiguous


@pytest.mark.parametrize("shape", [(-1, 3, 8, 3), (-1, -1, -1, -1)])
def test_a_layout_that_may_be_either_must_be_said(shape: tuple[int, ...]) -> None:
    with pytest.raises(InvalidArgument, match="--layout"):
        geometry_of(spec(*shape), Layout.auto)
    assert geometry_of(spec(*shape), Layout.nchw).channels_first
    assert not geometry_of(spec(*shape), Layout.nhwc).channels_first


def test_unknown_channels_are_taken_for_colours() -> None:
    assert geometry_of(spec(-1, -1, 8, 8), Layout.nchw).channels == 3


@pytest.mark.parametrize(("shape", "text"), [((-1, 64), "four dimensions"), ((-1, 8, 8, 7), "7 channels")])
def test_inputs_that_are_no_images_are_refused(shape: tuple[int, ...], text: str) -> None:
    with pytest.raises(InvalidArgument, match=text):
        geometry_of(spec(*shape), Layout.nhwc if len(shape) == 4 else Layout.auto)


def test_channels_are_made_as_the_model_has_them(grey: Path, colours: Path) -> None:
    np.testing.assert_array_equal(
        read_images([grey], spec(1, 5, 6, 3, datatype="UINT8"), Preparation())[0], np.stack([GREY] * 3, -1)
    )
    assert read_images([colours], spec(-1, 1, 5, 6), Preparation()).shape == (1, 1, 5, 6)
    assert read_images([colours], spec(-1, 5, 6, 4), Preparation()).shape == (1, 5, 6, 4)


def test_images_get_the_models_size_or_the_one_asked_for(grey: Path) -> None:
    assert read_images([grey], spec(-1, 1, 8, 9), Preparation()).shape == (1, 1, 8, 9)
    assert read_images([grey], spec(-1, 1, -1, -1), Preparation()).shape == (1, 1, 5, 6)
    assert read_images([grey], spec(-1, 1, -1, -1), Preparation(size=(2, 3))).shape == (1, 1, 2, 3)


def test_images_of_different_sizes_need_one(grey: Path, tmp_path: Path) -> None:
    Image.fromarray(GREY[:2]).save(tmp_path / "low.png")
    with pytest.raises(InvalidArgument, match=r"low\.png is 6 × 2 pixels.*6 × 5 pixels.*--size"):
        read_images([grey, tmp_path / "low.png"], spec(-1, 1, -1, -1), Preparation())


def test_images_are_pulled_cut_or_padded(tmp_path: Path) -> None:
    bars = np.zeros((10, 20), np.uint8)
    bars[:, :5] = bars[:, 15:] = 200
    Image.fromarray(bars).save(tmp_path / "bars.png")

    def means(fit: Fit) -> tuple[float, float]:
        (image,) = read_images(
            [tmp_path / "bars.png"], spec(-1, 1, 10, 10, datatype="UINT8"), Preparation(fit=fit)
        )
        return float(image[0, :, 0].mean()), float(image[0, 0].mean())

    assert means(Fit.stretch) == pytest.approx((200, 100), abs=25)
    assert means(Fit.crop) == (0, 0)  # the bars were at the edges
    assert means(Fit.pad) == pytest.approx((100, 0), abs=25)  # black above and below


def test_pixels_are_scaled_and_normalised_by_channel(colours: Path) -> None:
    preparation = Preparation(scale=1.0, mean=(10.0, 20.0, 30.0), std=(2.0, 4.0, 5.0))
    (image,) = read_images([colours], spec(-1, 5, 6, 3), preparation)
    np.testing.assert_allclose(image, (COLOURS - np.array([10, 20, 30])) / np.array([2, 4, 5]), rtol=1e-6)
    assert read_images([colours], spec(-1, 5, 6, 3, datatype="FP16"), Preparation()).dtype == np.float16


@pytest.mark.parametrize(
    ("datatype", "preparation", "text"),
    [
        ("FP32", Preparation(mean=(1.0, 2.0)), "--mean has 2 values; give 1, or 3"),
        ("FP32", Preparation(std=(0.0,)), "--std has a zero"),
        ("UINT8", Preparation(scale=1.0), "pixels as uint8"),
        ("UINT8", Preparation(mean=(1.0,)), "pixels as uint8"),
        ("INT64", Preparation(), "takes int64"),
    ],
)
def test_preparations_that_do_not_fit_are_refused(
    colours: Path, datatype: str, preparation: Preparation, text: str
) -> None:
    with pytest.raises(InvalidArgument, match=text):
        read_images([colours], spec(-1, 5, 6, 3, datatype=datatype), preparation)


def test_sixteen_bits_are_scaled_not_cut(tmp_path: Path) -> None:
    Image.fromarray(np.full((5, 6), 0x8000, np.uint16)).save(tmp_path / "deep.png")
    (image,) = read_images([tmp_path / "deep.png"], spec(-1, 1, 5, 6, datatype="UINT8"), Preparation())
    assert np.unique(image).tolist() == [128]


def test_images_are_turned_as_the_camera_was(tmp_path: Path) -> None:
    exif: Any = Image.Exif()
    exif[0x0112] = 6  # a quarter turn
    Image.fromarray(GREY).save(tmp_path / "turned.png", exif=exif)
    assert read_images([tmp_path / "turned.png"], spec(-1, 1, -1, -1), Preparation()).shape == (1, 1, 6, 5)


@pytest.mark.parametrize("content", [b"text", b"\x89PNG\r\n\x1a\n broken", b""])
def test_files_that_are_no_images_are_told(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x.png").write_bytes(content)
    with pytest.raises(UnreadableFile, match=r"x\.png"):
        check_image(tmp_path / "x.png")


def test_an_image_that_ends_too_early_is_told(grey: Path, tmp_path: Path) -> None:
    whole = grey.read_bytes()
    (tmp_path / "half.png").write_bytes(whole[: len(whole) - 30])
    with pytest.raises(UnreadableFile, match="cannot be read"):
        read_images([tmp_path / "half.png"], spec(-1, 1, 5, 6), Preparation())


def test_without_pillow_it_is_said_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(UnreadableFile, match=r"pip install 'foldserve-client\[cli\]'"):
        check_image(tmp_path / "x.png")
