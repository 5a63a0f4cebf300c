"""What serving and parity know of a runtime: a model loaded on a device that turns arrays into arrays."""

from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from foldserve.runtime.tensors import TensorSpec
from foldserve.settings import Precision

Array = NDArray[np.generic]


class Provider(StrEnum):
    """Where a session really runs."""

    CUDA = "cuda"
    CPU = "cpu"


class Execution(BaseModel):
    """How a session really runs its model, as far as the runtime tells; never what was asked for."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    runtime: str
    """Name and version of the runtime: "onnxruntime 1.31.1"."""

    device: str
    """What the device calls itself; "CPU" or "CUDA" where it does not."""

    precision: Precision
    """The lowest precision that the runtime may use; layers that it cannot run so have a higher one."""

    threads: int | None
    """Threads within one run; None where another device than the CPU computes."""

    streams: int | None
    """Runs that are computed side by side, each by threads of its own; None where there is no such limit."""

    layers: dict[str, int]
    """Number of executed layers by precision, in the runtime's own words; empty where it does not tell."""


class Session(Protocol):
    """A loaded model. ``run`` may be called from several threads at once; ``close`` only when none runs."""

    @property
    def provider(self) -> Provider:
        """Where the model really runs, whatever was asked for."""

    @property
    def execution(self) -> Execution:
        """How the model is really run."""

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


@runtime_checkable
class Shrinking(Protocol):
    """What a session is as well if its runtime keeps the memory that the largest run took."""

    def shrink(self, inputs: Mapping[str, Array]) -> None:
        """Give back all memory that runs have taken and one of these ``inputs`` does not need.

        Raises :class:`~foldserve.errors.ExecutionFailed` as ``run`` does.
        """
