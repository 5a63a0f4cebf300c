"""``foldserve freeze``: a program for fine-tuning, its BatchNorms fixed per-channel affines."""

from pathlib import Path

from foldserve.commands.progress import doing
from foldserve.errors import ConfigurationError
from foldserve.importing import freeze_program_file


def freeze(path: Path, output: Path, *, learnable: bool, timeout_s: float) -> None:
    """Write ``path`` to ``output`` with its BatchNorms frozen, and print how many.

    Raises :class:`~foldserve.errors.ConfigurationError` for a destination that cannot be, and what
    :func:`~foldserve.importing.freeze_program_file` raises.
    """
    if output.suffix != ".pt2":
        raise ConfigurationError(
            f"--output {output}: the frozen program is a .pt2 file; end its name in .pt2"
        )
    if output.resolve() == path.resolve():
        raise ConfigurationError(f"--output {output} is the program itself; choose another name")
    with doing(f"freezing {path}"):
        report = freeze_program_file(path, output, learnable=learnable, timeout_s=timeout_s)
    kind = "learnable" if learnable else "fixed"
    print(f"{report.frozen} BatchNorms are {kind} affines in {output}; {report.kept} stay")
