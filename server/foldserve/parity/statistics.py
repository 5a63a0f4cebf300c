"""What BatchNorms remember of training, and what a tapped model shows of what they read now.

A BatchNorm normalises each channel by the mean μ and the variance σ² that it saw in training:

    z = (x − μ) / √(σ² + ε)        mean z = 0 and mean z² = σ²/(σ² + ε) as long as the inputs are like those

The taps of a model (:mod:`foldserve.parity.taps`) give the averages of y = γz + β and of y² over space, image
by image.
This module knows numpy only: whoever opens a tapped model from disk need not read its graph.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from foldserve.runtime.session import Array

STATISTICS_FILE = "batch_norms.npz"

Channels = NDArray[np.float64]
"""One number for each channel of each layer, one layer after the other."""


def tap_names(index: int) -> tuple[str, str]:
    """The outputs of a tapped model with the averages of y and of y² of its layer number ``index``."""
    return f"foldserve.batch_norm.{index}.mean", f"foldserve.batch_norm.{index}.mean_square"


@dataclass(frozen=True, eq=False)
class Statistics:
    """The statistics of a model's BatchNorms, the taps' layers, in graph order."""

    layers: tuple[str, ...]
    """Their names, as the fold report has them."""

    channels: tuple[int, ...]
    """Number of channels of each."""

    scale: Channels
    """γ of what the taps show: 1 where that is z itself."""

    shift: Channels
    """β of what the taps show: 0 where that is z itself."""

    mean: Channels
    """μ."""

    variance: Channels
    """σ²."""

    epsilon: Channels

    @property
    def outputs(self) -> tuple[str, ...]:
        """The outputs of the tapped model, in the order in which :meth:`Moments.of` takes them."""
        return tuple(name for index in range(len(self.layers)) for name in tap_names(index))

    @property
    def spread(self) -> Channels:
        """√(σ² + ε), by which the BatchNorms divide."""
        return np.asarray(np.sqrt(self.variance + self.epsilon))

    def by_layer(self, numbers: NDArray[Any]) -> list[NDArray[Any]]:
        """What is known of every channel, layer by layer."""
        return np.split(numbers, np.cumsum(self.channels)[:-1])

    def save(self, folder: Path) -> None:
        """Write them to ``folder``, beside the tapped model."""
        np.savez(
            folder / STATISTICS_FILE,
            layers=np.array(self.layers, np.str_),
            channels=np.array(self.channels, np.int64),
            scale=self.scale,
            shift=self.shift,
            mean=self.mean,
            variance=self.variance,
            epsilon=self.epsilon,
        )

    @classmethod
    def load(cls, folder: Path) -> Self | None:
        """What :meth:`save` wrote to ``folder``; None where the model there has no taps."""
        file = folder / STATISTICS_FILE
        if not file.is_file():
            return None
        with np.load(file, allow_pickle=False) as saved:
            return cls(
                tuple(saved["layers"].tolist()),
                tuple(saved["channels"].tolist()),
                **{name: saved[name] for name in ("scale", "shift", "mean", "variance", "epsilon")},
            )


@dataclass(frozen=True, eq=False)
class Moments:
    """Sums, in float64, of what taps gave: add them up over as many runs as wanted.

    Every image counts the same, whatever its size.
    """

    images: Channels
    """How many images each channel was seen in."""

    z: Channels
    """Sum over the images of the average of z."""

    z_squared: Channels
    """Sum over the images of the average of z²."""

    @classmethod
    def of(cls, statistics: Statistics, taps: Sequence[Array]) -> Self:
        """The sums of one run; ``taps`` are float32 [images · channels], in the order of ``outputs``."""
        images, sums = [], []
        for index, tap in enumerate(taps):
            channels = statistics.channels[index // 2]
            values = tap.reshape(-1, channels)
            sums.append(values.sum(axis=0, dtype=np.float64))
            if index % 2 == 0:
                images.append(np.full(channels, len(values), np.float64))
        seen, y, y_squared = np.concatenate(images), np.concatenate(sums[::2]), np.concatenate(sums[1::2])
        scale, shift = statistics.scale, statistics.shift
        with np.errstate(invalid="ignore", over="ignore"):
            z = (y - seen * shift) / scale
            z_squared = (y_squared - 2 * shift * y + seen * np.square(shift)) / np.square(scale)
        return cls(seen, z, z_squared)

    def __add__(self, other: "Moments") -> "Moments":
        return Moments(self.images + other.images, self.z + other.z, self.z_squared + other.z_squared)

    @property
    def finite(self) -> bool:
        """Whether no channel read NaN, infinity, or what overflows when squared."""
        return bool(np.isfinite(self.z).all() and np.isfinite(self.z_squared).all())

    @property
    def mean(self) -> Channels:
        """(mean of x − μ) / √(σ² + ε)."""
        return self.z / self.images

    @property
    def variance(self) -> Channels:
        """(variance of x) / (σ² + ε)."""
        return np.maximum(self.z_squared / self.images - np.square(self.mean), 0)
