"""A model is opened and run by a child process first, which may die of it.

The runtime is native code that trusts models: one that divides −2⁶³ by −1, or wants more memory than there
is, ends its process, and with it everybody's requests. Here it ends one that nobody needs. What the runtime
refuses in an orderly way is no business of a rehearsal: whoever opens the model in earnest tells that better.

It takes a second, which counts while a server starts, when there are no requests to lose yet. So a model that
nothing is known of is opened there at once, under a mark: one that ends the process leaves it behind, and is
rehearsed at the next start. So is one from the cache, in case its engine dies of it after all.
"""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from foldserve.errors import InvalidModel
from foldserve.lifeline import lifeline

NO_MEMORY_STATUS = 3
"""Exit status of a child that got less memory than the model wants."""

MOST_ENDS = 3
"""Processes that may end while they open a model which a child process survives."""

CHANCE_ENDS = 1
"""Processes that may end while they open what was opened before: somebody may have killed them."""

_open_marks: set[Path] = set()

ENVIRONMENT = {"CUDA_VISIBLE_DEVICES": ""}
"""Of the child: the GPU's memory belongs to serving."""


@contextmanager
def rehearsed(mark: Path, rehearsal: Callable[[], None], *, requests_are_served: bool) -> Iterator[int]:
    """Around opening a model for the first time; tells how many processes ended while they did.

    Raises what ``rehearsal`` raises, and :class:`InvalidModel` after :data:`MOST_ENDS` processes.
    """
    ends = ends_under(mark)
    if ends >= MOST_ENDS:
        raise InvalidModel(
            f"the server ended {ends} times while it opened this model, and a child process that runs it "
            f"first does not; look at what ended it, then remove {mark}"
        )
    can_be_marked = _marked(mark, ends)
    if requests_are_served or ends or not can_be_marked:
        try:
            rehearsal()
        except InvalidModel:
            _marked(mark, max(ends, 1))  # so it is at the next start
            raise
    with under(mark):
        yield ends


def ends_under(mark: Path) -> int:
    """How many processes ended while they opened what ``mark`` stands for."""
    try:
        return len(mark.read_bytes())
    except OSError:
        return 0


@contextmanager
def under(mark: Path) -> Iterator[None]:
    """Around opening a model: if the process ends meanwhile, ``mark`` tells so."""
    _marked(mark, ends_under(mark) + 1)
    _open_marks.add(mark)
    try:
        yield
    finally:
        _open_marks.discard(mark)
        _unmark(mark)


def forgive() -> None:
    """Remove the marks of loads that go on: a server that is stopped meanwhile does not die of its models."""
    for mark in list(_open_marks):
        _unmark(mark)


def _unmark(mark: Path) -> None:
    with suppress(OSError):
        mark.unlink(missing_ok=True)


def _marked(mark: Path, ends: int) -> bool:
    """Whether it can be kept that so many processes will have ended if this one does."""
    try:
        mark.parent.mkdir(parents=True, exist_ok=True)
        mark.write_bytes(b"x" * ends)
    except OSError:  # a cache that cannot be written
        return False
    return True


def rehearse(name: str, file: Path, samples: Path | None, *, timeout_s: float) -> None:
    """Let a child process open the ONNX model in ``file`` and run it once, unoptimised and optimised.

    On the CPU, with the first of ``samples`` (an ``.npz`` file) or a synthetic input. Raises
    :class:`InvalidModel` where the child dies of that, or is not done in ``timeout_s`` seconds; ``name``
    stands for the model there.
    """
    command = [sys.executable, "-P", "-m", "foldserve.serving.rehearsal_child", str(file)]
    try:
        with lifeline() as line:
            status = subprocess.run(
                [*command, *([str(samples)] if samples else [])],
                env=os.environ | ENVIRONMENT | line.environment,
                pass_fds=line.pass_fds,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                timeout=timeout_s,
                check=False,
            ).returncode
    except subprocess.TimeoutExpired:
        raise InvalidModel(
            f"{name}: running it once took longer than {timeout_s:g} s and was stopped; look for a loop "
            "without end in it, or allow it more time (FOLDSERVE_IMPORT_TIMEOUT_S)"
        ) from None
    if status in {-signal.SIGKILL, NO_MEMORY_STATUS}:
        raise InvalidModel(
            f"{name}: the process that opened and ran it first was killed, most likely for want of memory; "
            "use a machine that has more of it, or look for huge tensors in the model"
        )
    if status < 0:
        raise InvalidModel(
            f"{name}: the process that opened and ran it first died of {signal.Signals(-status).name}: "
            "ONNX Runtime does not survive this model; check it with onnx.checker and export it again"
        )
