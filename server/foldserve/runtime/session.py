"""What serving and parity know of a runtime: a model loaded on a device that turns arrays into arrays."""

from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from foldserve.runtime.tensors import TensorSpec

Array = NDArray[np.generic]


class Provider(StrEnum):
    """Where a session really runs."""

    CUDA = "cuda"
    CPU = "cpu"


class Session(Protocol):
    """A loaded model. ``run`` may be called from several threads at once; ``close`` only when none runs."""

    @property
    def provider(self) -> Provider:
        """Where the model really runs, whatever was asked for."""

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        """What the model takes, in the model's own order."""

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        """What the model gives, in the model's own order."""

    def run(self, inputs: Mapping[str, Array], outputs: Sequence[str] | None = None) -> list[Array]:
        """The named outputs (all of them for None or an empty sequence), in the order asked for.

        Dtypes are those of the specs; strings are object arrays of ``bytes`` both ways.
        Raises :class:`~foldserve.errors.ExecutionFailed` when the runtime fails.
        """

    def close(self) -> None:
        """Release the model's memory; a later ``run`` raises :class:`~foldserve.errors.ExecutionFailed`."""
