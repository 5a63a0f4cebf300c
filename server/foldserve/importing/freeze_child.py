"""A freeze's child process: ``python -m foldserve.importing.freeze_child PROGRAM DESTINATION [learnable]``.

Writes the frozen program to DESTINATION and next to it how many batch norms it froze, or why it failed.
"""

import sys
from pathlib import Path
from typing import Any

import torch

from foldserve.importing.child import load
from foldserve.importing.freeze_program import freeze_program
from foldserve.importing.process import report_to_parent


def freeze(program: Path, destination: Path, *, learnable: bool) -> dict[str, Any]:
    """Write ``program`` with its batch norms frozen; returns the fields of ``FreezeReport`` but the time."""
    result = freeze_program(load(program, scratch=destination.parent), learnable=learnable)
    torch.export.save(result.program, destination)
    return {"torch_version": torch.__version__, "frozen": result.frozen, "kept": result.kept}


def main() -> int:
    """Freeze the program that the command line names; returns the exit status."""
    program, destination = Path(sys.argv[1]), Path(sys.argv[2])
    learnable = "learnable" in sys.argv[3:]
    report_to_parent(destination, lambda: freeze(program, destination, learnable=learnable))
    return 0


if __name__ == "__main__":
    sys.exit(main())
