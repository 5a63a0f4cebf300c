"""Images from files as a model's input: read, resized, laid out and normalised."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from foldserve_client.errors import InvalidArgument
from foldserve_client.files import UnreadableFile
from foldserve_client.inference import Spec
from foldserve_client.preparation import TO_ONE, Fit, Layout, Preparation
from foldserve_client.tensors import Array, dtype_of

if TYPE_CHECKING:
    from PIL.Image import Image

MODES = {1: "L", 3: "RGB", 4: "RGBA"}
"""Pillow's name for images with so many channels."""

SIXTEEN_BITS = "I;16"


@dataclass(frozen=True)
class Geometry:
    """The images that an input takes."""

    height: int
    """-1 where it may be any; so may ``width``."""

    width: int
    channels: int
    channels_first: bool


def read_images(files: Sequence[Path], spec: Spec, preparation: Preparation) -> Array:
    """Images as the input ``spec``: [files, channels, height, width] or [files, height, width, channels].

    Pixels stay whole numbers from 0 to 255 where the model takes those. Raises UnreadableFile for what is no
    image, and InvalidArgument where the input is none of images, or the preparation does not fit it.
    """
    geometry = geometry_of(spec, preparation.layout)
    height, width = preparation.size or (geometry.height, geometry.width)
    images = [_pixels(file, geometry.channels, (height, width), preparation.fit) for file in files]
    for file, image in zip(files, images, strict=True):
        if image.shape != images[0].shape:
            raise InvalidArgument(
                f"{file} is {_size(image)}, {files[0]} {_size(images[0])}; give one --size to all"
            )
    batch = _normalised(np.stack(images), dtype_of(spec.datatype), preparation)
    return np.ascontiguousarray(np.moveaxis(batch, -1, 1)) if geometry.channels_first else batch


def geometry_of(spec: Spec, layout: Layout) -> Geometry:
    """What an input's shape says; raises InvalidArgument where it takes no images or leaves a choice."""
    if len(spec.shape) != 4:
        raise InvalidArgument(f"input {spec} takes no images: those have four dimensions; give an .npy file")
    _, second, third, fourth = spec.shape
    first, last = second in MODES, fourth in MODES
    if layout is Layout.auto and first == last:
        raise InvalidArgument(f"input {spec} may have its channels first or last; say so with --layout")
    if layout is Layout.nchw or (layout is Layout.auto and first):
        geometry = Geometry(third, fourth, second, channels_first=True)
    else:
        geometry = Geometry(second, third, fourth, channels_first=False)
    if geometry.channels == -1:
        return Geometry(geometry.height, geometry.width, 3, geometry.channels_first)
    if geometry.channels not in MODES:
        raise InvalidArgument(f"input {spec} takes {geometry.channels} channels; images have 1, 3 or 4")
    return geometry


def check_image(file: Path) -> None:
    """Raise UnreadableFile for a file that does not even begin as an image."""
    with _opened(file):
        pass


@contextmanager
def _opened(file: Path) -> Iterator["Image"]:
    try:
        from PIL import Image, UnidentifiedImageError  # noqa: PLC0415 - an extra
    except ModuleNotFoundError:
        raise UnreadableFile(
            f"{file} is neither .npy nor .npz, and images need Pillow, which is not installed: "
            "pip install 'foldserve-client[cli]'"
        ) from None
    try:
        with Image.open(file) as image:
            yield image
    except UnidentifiedImageError:
        raise UnreadableFile(
            f"{file} is neither .npy nor .npz nor an image, whatever its name; write arrays with numpy.save "
            "or numpy.savez"
        ) from None
    except (
        OSError,
        SyntaxError,
        Image.DecompressionBombError,
    ) as error:  # what Pillow raises at broken files
        raise UnreadableFile(f"{file} cannot be read: {error}") from None


def _pixels(file: Path, channels: int, size: tuple[int, int], fit: Fit) -> Array:
    """uint8 [height, width, channels]; -1 in ``size``: as the image has it."""
    from PIL import Image, ImageOps  # noqa: PLC0415 - an extra

    with _opened(file) as opened:
        image = _of_eight_bits(ImageOps.exif_transpose(opened)).convert(MODES[channels])
    height, width = (
        own if wanted == -1 else wanted for wanted, own in zip(size, (image.height, image.width), strict=True)
    )
    if (image.width, image.height) != (width, height):
        match fit:
            case Fit.stretch:
                image = image.resize((width, height), Image.Resampling.BILINEAR)
            case Fit.crop:
                image = ImageOps.fit(image, (width, height), Image.Resampling.BILINEAR)
            case Fit.pad:
                image = ImageOps.pad(image, (width, height), Image.Resampling.BILINEAR)
    return np.asarray(image).reshape(height, width, channels)


def _of_eight_bits(image: "Image") -> "Image":
    """Pillow cuts off what is above 255 in images of 16 bits, where scaling is meant."""
    from PIL import Image  # noqa: PLC0415 - an extra

    if not image.mode.startswith(SIXTEEN_BITS):
        return image
    return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))


def _normalised(pixels: Array, dtype: np.dtype[Any], preparation: Preparation) -> Array:
    channels = pixels.shape[-1]
    mean, std = (np.asarray(values, np.float64) for values in (preparation.mean, preparation.std))
    for name, values in (("mean", mean), ("std", std)):
        if values.size not in (1, channels):
            wanted = "1" if channels == 1 else f"1, or {channels}, one per channel"
            raise InvalidArgument(f"--{name} has {values.size} values; give {wanted}")
    if not std.all():
        raise InvalidArgument("--std has a zero; what would be divided by it")
    if dtype.kind == "u":
        if (preparation.scale, *mean.ravel(), *std.ravel()) != (TO_ONE, 0.0, 1.0):
            raise InvalidArgument(
                f"the model takes pixels as {dtype.name}, which --scale, --mean, --std are not for"
            )
        return pixels.astype(dtype)
    if dtype.kind not in "fV":
        raise InvalidArgument(
            f"the model takes {dtype.name}; images are made into floats or unsigned integers"
        )
    return ((pixels * preparation.scale - mean) / std).astype(dtype)


def _size(image: Array) -> str:
    return f"{image.shape[1]} × {image.shape[0]} pixels"
