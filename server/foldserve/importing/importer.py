"""What others ask of PyTorch programs: an ONNX model with all BatchNorms, or a program with none."""

import time
from pathlib import Path

from foldserve.importing.process import run_in_child
from foldserve.importing.report import FreezeReport, ImportReport


def import_program(
    program: Path, destination: Path, *, timeout_s: float, memory_limit_bytes: int | None = None
) -> ImportReport:
    """Translate a ``torch.export`` program into an ONNX model that keeps all its BatchNorms.

    Args:
        program: file written by ``torch.export.save``.
        destination: the ``.onnx`` file to write, replaced if it exists; weights that are too large for one
            file go to ``<destination>.data`` beside it.
        timeout_s: longest that the import may take, in seconds.
        memory_limit_bytes: most memory that the child process may allocate; None sets no limit.

    Raises:
        UnsupportedModel: the file is not a torch.export archive; the text says how to make one.
        InvalidModel: the file is damaged.
        ImportFailed: torch is not installed, the program cannot be translated, or the limits were exceeded.
    """
    started = time.monotonic()
    facts = run_in_child(
        "foldserve.importing.child",
        program,
        destination,
        [str(memory_limit_bytes)] if memory_limit_bytes else [],
        task="import",
        needs=("torch", "onnxscript"),
        timeout_s=timeout_s,
    )
    return ImportReport(**facts, seconds=time.monotonic() - started)


def freeze_program_file(
    program: Path, destination: Path, *, learnable: bool = False, timeout_s: float
) -> FreezeReport:
    """Write ``program`` with every BatchNorm that has running statistics as a fixed per-channel affine.

    See :func:`~foldserve.importing.freeze_program.freeze_program`, which does it in a child process.

    Args:
        program: file written by ``torch.export.save``.
        destination: the ``.pt2`` file to write, replaced if it exists.
        learnable: make γ' and β' parameters of the program; otherwise they are buffers.
        timeout_s: longest that it may take, in seconds.

    Raises:
        UnsupportedModel: the file is not a torch.export archive; the text says how to make one.
        InvalidModel: the file is damaged.
        ImportFailed: torch is not installed, cannot read the program, or the time was over.
    """
    started = time.monotonic()
    facts = run_in_child(
        "foldserve.importing.freeze_child",
        program,
        destination,
        ["learnable"] if learnable else [],
        task="freeze",
        needs=("torch",),
        timeout_s=timeout_s,
    )
    return FreezeReport(**facts, seconds=time.monotonic() - started)
