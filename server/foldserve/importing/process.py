"""Work on a ``.pt2`` program in a process of its own: the parent's side and the frame of the child's.

torch is large, slow to load and can crash on a bad program, so the serving process never imports it. The
child reads the program, writes its result into a scratch folder next to the destination, and exits; only
then does the result appear under its own name.
"""

import importlib.util
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from foldserve.errors import FoldserveError, ImportFailed
from foldserve.importing.archive import check_archive
from foldserve.importing.explain import explain
from foldserve.lifeline import give_way, lifeline

REPORT = "report.json"
FAILURE = "failure.txt"

_ERROR_LINES = 3
_CHILD_ENVIRONMENT = {
    "CUDA_VISIBLE_DEVICES": "",  # translating needs no GPU; the memory there belongs to serving
    "OMP_NUM_THREADS": "1",  # nor do the cores
    "TORCH_FORCE_WEIGHTS_ONLY_LOAD": "1",  # a second bar against pickles that run code
}


def run_in_child(
    module: str,
    program: Path,
    destination: Path,
    options: Sequence[str] = (),
    *,
    task: str,
    needs: Sequence[str],
    timeout_s: float,
) -> dict[str, Any]:
    """Let ``python -m module program destination *options`` write ``destination``; returns what it reports.

    ``task`` names the work in errors, ``needs`` the packages without which it is not even started. Weights
    that the child puts into ``<destination>.data`` come along.

    Raises:
        UnsupportedModel: the file is not a torch.export archive; the text says how to make one.
        InvalidModel: the file is damaged.
        ImportFailed: a package is missing, the child failed, or it exceeded its limits.
    """
    check_archive(program)
    for package in needs:
        if importlib.util.find_spec(package) is None:
            raise ImportFailed(
                f"{program}: the {task} of a .pt2 program needs {package}, which is not installed. "
                "Install it: pip install 'foldserve[pt2]'"
            )
    destination.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{task}-", dir=destination.parent) as scratch:
        written = Path(scratch) / destination.name
        # -P: a file torch.py in the folder where the server was started must not be taken for torch
        command = [sys.executable, "-P", "-m", module, str(program), str(written), *options]
        _run(command, program, Path(scratch), task, timeout_s)
        facts: dict[str, Any] = json.loads((Path(scratch) / REPORT).read_bytes())
        data = written.with_name(f"{written.name}.data")
        if data.exists():  # before the model: whoever sees the model finds its data
            data.replace(destination.with_name(data.name))
        written.replace(destination)
    return facts


def report_to_parent(destination: Path, work: Callable[[], dict[str, Any]]) -> None:
    """In the child: leave what ``work`` found, or why it failed, next to ``destination``.

    The child ends when its parent does, however that comes about.
    """
    give_way()
    try:
        facts = work()
    except Exception as error:
        cause = str(error) if isinstance(error, FoldserveError) else explain(error)
        (destination.parent / FAILURE).write_text(cause)
        raise
    (destination.parent / REPORT).write_text(json.dumps(facts))


def _run(command: list[str], program: Path, scratch: Path, task: str, timeout_s: float) -> None:
    with (
        lifeline() as line,
        subprocess.Popen(
            command,
            env=os.environ | _CHILD_ENVIRONMENT | line.environment,
            pass_fds=line.pass_fds,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            start_new_session=True,  # so that its own children end with it
        ) as child,
    ):
        try:
            _, errors = child.communicate(timeout=timeout_s)
        except subprocess.TimeoutExpired:
            raise ImportFailed(
                f"{program}: the {task} took longer than {timeout_s:g} s and was stopped. "
                "Allow it more time (FOLDSERVE_IMPORT_TIMEOUT_S)"
            ) from None
        finally:
            if child.poll() is None:
                os.killpg(child.pid, signal.SIGKILL)
    if child.returncode != 0:
        raise ImportFailed(f"{program}: {_cause(child.returncode, scratch / FAILURE, errors, task)}")


def _cause(returncode: int, failure: Path, errors: bytes, task: str) -> str:
    """Why the child failed, in its own words if it had the time for any."""
    if failure.exists():
        return failure.read_text()
    if returncode == -signal.SIGKILL:
        return f"the {task} was killed, most likely for want of memory. Use a machine that has more of it"
    how = f"by {signal.Signals(-returncode).name}" if returncode < 0 else f"with exit status {returncode}"
    last = " | ".join(errors.decode(errors="replace").strip().splitlines()[-_ERROR_LINES:])
    return f"the {task} ended {how}: {last or 'it said nothing'}"
