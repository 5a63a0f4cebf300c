"""The child process of an import: ``python -m foldserve.importing.child PROGRAM DESTINATION [MEMORY_LIMIT]``.

Writes the ONNX model to DESTINATION and next to it what it found, or why it failed. The limit is in bytes.
"""

import logging
import resource
import sys
from pathlib import Path
from typing import Any

import onnx_ir as ir
import torch

from foldserve.errors import ImportFailed
from foldserve.importing.archive import write_portable
from foldserve.importing.explain import explain
from foldserve.importing.process import report_to_parent
from foldserve.importing.tidy import count_batch_norms
from foldserve.importing.torch_program import count_program_batch_norms, to_onnx

LARGEST_SINGLE_FILE = 1_500_000_000
"""Bytes of weights that still go into the ``.onnx`` file; protobuf ends at 2 GiB."""


def main() -> int:
    """Import the program that the command line names; returns the exit status."""
    program, destination = Path(sys.argv[1]), Path(sys.argv[2])

    def work() -> dict[str, Any]:
        if len(sys.argv) > 3:
            limit = int(sys.argv[3])
            resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
        return convert(program, destination)

    report_to_parent(destination, work)
    return 0


def convert(program: Path, destination: Path) -> dict[str, Any]:
    """Write ``program`` as ONNX to ``destination``; returns the fields of ``ImportReport`` but the time."""
    loaded = load(program, scratch=destination.parent)
    model = to_onnx(loaded)
    save(model, destination)
    return {
        "torch_version": torch.__version__,
        "opset": model.opset_imports[""],
        "program_batch_norms": count_program_batch_norms(loaded),
        "onnx_batch_norms": count_batch_norms(model),
        "inputs": [value.name for value in model.graph.inputs],
        "outputs": [value.name for value in model.graph.outputs],
    }


class _LoggedErrors(logging.Handler):
    """Keeps the exception that ``torch.export.load`` logs before it raises a general one in its stead."""

    error: BaseException | None = None

    def emit(self, record: logging.LogRecord) -> None:
        """Remember the exception of ``record``."""
        if record.exc_info:
            self.error = record.exc_info[1]


def load(program: Path, scratch: Path) -> torch.export.ExportedProgram:
    """Read ``program`` onto the CPU without opening a pickle; ``scratch`` is a folder for a copy."""
    portable = scratch / "portable.pt2"
    write_portable(program, portable)
    logged = _LoggedErrors()
    logging.getLogger("torch.export").addHandler(logged)
    try:
        return torch.export.load(portable)
    except RuntimeError as error:
        raise ImportFailed(explain(logged.error or error)) from error
    finally:
        logging.getLogger("torch.export").removeHandler(logged)
        portable.unlink()


def save(model: ir.Model, destination: Path, largest_single_file: int = LARGEST_SINGLE_FILE) -> None:
    """Write ``model``; more than ``largest_single_file`` bytes of weights go to ``<destination>.data``."""
    weights = (value.const_value for graph in model.graphs() for value in graph.initializers.values())
    total = sum(weight.nbytes for weight in weights if weight is not None)
    ir.save(
        model, destination, external_data=f"{destination.name}.data" if total > largest_single_file else None
    )


if __name__ == "__main__":
    sys.exit(main())
