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
from contextlib import ExitStack, contextmanager
from pathlib import Path

from foldserve.errors import InvalidModel
from foldserve.lifeline import lifeline
from foldserve.serving.marks import ends_under, leave, under

NO_MEMORY_STATUS = 3
"""Exit status of a child that got less memory than the model wants."""

MOST_ENDS = 3
"""Processes that may end while they open a model which a child process survives."""

CHANCE_ENDS = 1
"""Processes that may end while they open what was opened before: somebody may have killed that one."""

ENVIRONMENT = {"CUDA_VISIBLE_DEVICES": ""}
"""Of the child: the GPU's memory belongs to serving."""


@contextmanager
def rehearsed(marks: Path, rehearsal: Callable[[], None], *, requests_are_served: bool) -> Iterator[int]:
    """Around opening a model for the first time; tells how many processes ended while they did.

    Raises what ``rehearsal`` raises, and :class:`InvalidModel` after :data:`MOST_ENDS` processes.
    """
    ends = ends_under(marks)
    if ends >= MOST_ENDS:
        raise InvalidModel(
            f"the server ended {ends} times while it opened this model, and a child process that runs it "
            f"first does not; look at what ended it, then remove {marks}"
        )
    with ExitStack() as opening:
        is_marked = opening.enter_context(under(marks))
        if requests_are_served or ends or not is_marked:
            try:
                rehearsal()
            except InvalidModel:
                opening.close()
                leave(marks)  # so it is at the next start
                raise
        yield ends


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
