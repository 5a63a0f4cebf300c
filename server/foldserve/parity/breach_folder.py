"""Inputs that broke parity in service, kept for ``foldserve verify --inputs`` if their owner wants it."""

import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from zipfile import ZipFile

import numpy as np

from foldserve.errors import ConfigurationError
from foldserve.observability.logging import get_logger
from foldserve.runtime.session import Array

SERVED, REFERENCE = "served", "reference"

log = get_logger()


@dataclass(frozen=True)
class BreachFolder:
    """Keeps at most ``max_files`` files of together at most ``max_bytes`` bytes in ``folder``.

    The first ones stay: they show how it began. Raises :class:`ConfigurationError` for a folder that cannot
    be written.
    """

    folder: Path
    max_files: int
    max_bytes: int

    def __post_init__(self) -> None:
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=self.folder):
                pass
        except OSError as error:
            raise ConfigurationError(
                f"inputs that break parity cannot be kept in {self.folder}: {error.strerror}; "
                "mend --breach-dir"
            ) from None

    def keep(
        self,
        name: str,
        inputs: Mapping[str, Array],
        served: Mapping[str, Array],
        reference: Mapping[str, Array],
    ) -> Path | None:
        """Write the inputs under their names, and the outputs as ``served/<name>`` and ``reference/<name>``.

        ``name`` begins the name of the file. None where there is no room, or the arrays cannot be stored.
        """
        arrays = dict(inputs)
        arrays |= {f"{SERVED}/{output}": array for output, array in served.items()}
        arrays |= {f"{REFERENCE}/{output}": array for output, array in reference.items()}
        if any(array.dtype == np.object_ for array in arrays.values()):
            return None  # strings are Python objects, which would have to be pickled
        file = self.folder / f"{name}-{time.time_ns()}.npz"
        try:
            kept = [file.stat().st_size for file in self.folder.glob("*.npz")]
            size = sum(array.nbytes for array in arrays.values())
            if len(kept) >= self.max_files or sum(kept) + size > self.max_bytes:
                return None
            with tempfile.TemporaryDirectory(dir=self.folder) as scratch:
                unfinished = Path(scratch, "unfinished.npz")
                _write(unfinished, arrays)
                unfinished.replace(file)
        except OSError as error:
            log.error("an input that broke parity cannot be kept", file=str(file), reason=str(error))
            return None
        return file


def _write(file: Path, arrays: Mapping[str, Array]) -> None:
    # Not numpy.savez: it takes the names as its own arguments, and an input may be called "file".
    with ZipFile(file, "w") as archive:
        for name, array in arrays.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as stream:
                np.lib.format.write_array(stream, np.asarray(array), allow_pickle=False)
