"""One answer of a session that was proven: what another session with the same model must repeat.

A model is proven once. When it is opened again, with another number of threads or after a restart, this costs
one small run instead of the whole proof, and it would notice a model that is not the proven one.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Self

import ml_dtypes  # noqa: F401  # gives numpy the name bfloat16
import numpy as np

from foldserve.errors import ExecutionFailed
from foldserve.parity.gate import keeps
from foldserve.parity.measures import distance
from foldserve.parity.probes import Probe
from foldserve.runtime.session import Array, Session
from foldserve.settings import ParityBudget

INPUT, OUTPUT = "input", "output"


@dataclass(frozen=True)
class Evidence:
    """A probe, and the proven session's outputs for it in the model's order."""

    probe: Probe
    outputs: tuple[Array, ...]

    def holds(self, session: Session, budget: ParityBudget) -> bool:
        """Whether ``session`` gives the same answer, within ``budget``."""
        try:
            answered = session.run(self.probe)
        except ExecutionFailed:
            return False
        return len(answered) == len(self.outputs) and all(
            keeps(budget, distance(expected, actual))
            for expected, actual in zip(self.outputs, answered, strict=True)
        )

    def storable(self) -> bool:
        """Whether a file can hold the arrays: strings, which are Python objects, it cannot."""
        return not any(array.dtype == np.object_ for array in (*self.probe.values(), *self.outputs))

    def save(self, file: Path) -> None:
        """Write it as ``.npz``."""
        arrays = {f"{INPUT} {array.dtype.name} {name}": array for name, array in self.probe.items()}
        arrays |= {f"{OUTPUT} {array.dtype.name} {index}": array for index, array in enumerate(self.outputs)}
        np.savez(file, allow_pickle=False, **arrays)

    @classmethod
    def load(cls, file: Path) -> Self | None:
        """Read it; None where there is none."""
        probe: dict[str, Array] = {}
        outputs: list[Array] = []
        try:
            with np.load(file, allow_pickle=False) as archive:
                for key in archive.files:
                    kind, dtype, name = key.split(" ", 2)
                    # The archive keeps the bytes of a bfloat16 array but not its name.
                    array = archive[key].view(np.dtype(dtype))
                    if kind == INPUT:
                        probe[name] = array
                    else:
                        outputs.append(array)
        except FileNotFoundError:
            return None
        return cls(probe, tuple(outputs))
