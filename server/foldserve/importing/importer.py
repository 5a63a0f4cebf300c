"""The parent's side of an import: start the child process, wait for it, and say what came of it.

torch is large, slow to load and can crash on a bad program, so the serving process never imports it. The
child reads the program, writes the ONNX model into a scratch folder next to the destination, and exits; only
then does the model appear under its own name.
"""

import importlib.util
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from foldserve.errors import ImportFailed
from foldserve.importing.archive import check_archive
from foldserve.importing.report import ImportReport

REPORT = "import-report.json"
FAILURE = "import-failure.txt"

_ERROR_LINES = 3
_CHILD_ENVIRONMENT = {
    "CUDA_VISIBLE_DEVICES": "",  # translating needs no GPU; the memory there belongs to serving
    "OMP_NUM_THREADS": "1",  # nor do the cores
    "TORCH_FORCE_WEIGHTS_ONLY_LOAD": "1",  # a second bar against pickles that run code
}


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
    check_archive(program)
    for package in ("torch", "onnxscript"):
        if importlib.util.find_spec(package) is None:
            raise ImportFailed(
                f"{program}: importing a .pt2 program needs {package}, which is not installed. "
                "Install it: pip install 'foldserve[pt2]'"
            )
    destination.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".import-", dir=destination.parent) as scratch:
        written = Path(scratch) / destination.name
        arguments = [str(program), str(written), *([str(memory_limit_bytes)] if memory_limit_bytes else [])]
        _run_child(arguments, program=program, scratch=Path(scratch), timeout_s=timeout_s)
        facts = json.loads((Path(scratch) / REPORT).read_bytes())
        data = written.with_name(f"{written.name}.data")
        if data.exists():  # before the model: whoever sees the model finds its data
            data.replace(destination.with_name(data.name))
        written.replace(destination)
    return ImportReport(**facts, seconds=time.monotonic() - started)


def _run_child(arguments: list[str], *, program: Path, scratch: Path, timeout_s: float) -> None:
    # -P: a file torch.py in the folder where the server was started must not be taken for torch
    command = [sys.executable, "-P", "-m", "foldserve.importing.child", *arguments]
    with subprocess.Popen(
        command,
        env=os.environ | _CHILD_ENVIRONMENT,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        start_new_session=True,  # so that its own children end with it
    ) as child:
        try:
            _, errors = child.communicate(timeout=timeout_s)
        except subprocess.TimeoutExpired:
            raise ImportFailed(
                f"{program}: the import took longer than {timeout_s:g} s and was stopped. Allow it more time "
                "(FOLDSERVE_IMPORT_TIMEOUT_S), or export the model to ONNX beforehand"
            ) from None
        finally:
            if child.poll() is None:
                os.killpg(child.pid, signal.SIGKILL)
    if child.returncode != 0:
        raise ImportFailed(f"{program}: {_cause(child.returncode, scratch / FAILURE, errors)}")


def _cause(returncode: int, failure: Path, errors: bytes) -> str:
    """Why the child failed, in its own words if it had the time for any."""
    if failure.exists():
        return failure.read_text()
    if returncode == -signal.SIGKILL:
        return "the import was killed, most likely for want of memory. Export to ONNX on a larger machine"
    how = f"by {signal.Signals(-returncode).name}" if returncode < 0 else f"with exit status {returncode}"
    last = " | ".join(errors.decode(errors="replace").strip().splitlines()[-_ERROR_LINES:])
    return f"the import ended {how}: {last or 'it said nothing'}"
