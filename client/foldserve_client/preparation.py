"""What to do with images before a model sees them."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

TO_ONE = 1 / 255
"""Makes 0 to 255 into 0 to 1."""


class Layout(StrEnum):
    """Where an input has its channels."""

    auto = "auto"
    nchw = "nchw"
    nhwc = "nhwc"


class Fit(StrEnum):
    """How an image of another shape gets the model's: pulled, cut at the edges, or with edges added."""

    stretch = "stretch"
    crop = "crop"
    pad = "pad"


@dataclass(frozen=True)
class Preparation:
    """What is done with every image; a pixel p, 0 to 255, becomes (p × scale − mean) / std."""

    size: tuple[int, int] | None = None
    """Height and width; None: the model's own, or the image's where the model takes any."""

    fit: Fit = Fit.stretch
    layout: Layout = Layout.auto
    scale: float = TO_ONE
    mean: Sequence[float] = (0.0,)
    """For all channels, or one for each; so is ``std``."""

    std: Sequence[float] = (1.0,)
