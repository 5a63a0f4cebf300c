"""Models that end the process which runs them, or never end: a child process finds that out."""

import os
import signal
import subprocess
import sys
import threading
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from fatal_models import divides_min_by_minus_one, fills_memory, loops_for_ever
from foldserve.errors import InvalidModel
from foldserve.serving.rehearsal import MOST_ENDS, NO_MEMORY_STATUS, rehearse, rehearsed
from running import EXAMPLE_MODELS
from unit.serving.openers import ends_while_opening

DIGITS = EXAMPLE_MODELS / "digits" / "1" / "model.onnx"


def test_a_sound_model_passes(tmp_path: Path) -> None:
    rehearse("m", DIGITS, None, timeout_s=60)
    rehearse("m", DIGITS, EXAMPLE_MODELS / "digits" / "samples.npz", timeout_s=60)


def test_what_the_runtime_refuses_is_left_to_whoever_opens_it_in_earnest(tmp_path: Path) -> None:
    (tmp_path / "garbage.onnx").write_bytes(b"garbage")
    rehearse("m", tmp_path / "garbage.onnx", None, timeout_s=60)
    np.savez(tmp_path / "samples.npz", nothing=np.zeros(1))
    rehearse("m", DIGITS, tmp_path / "samples.npz", timeout_s=60)


def test_a_model_that_kills_its_process_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidModel, match=r"^m: the process that opened and ran it first died of SIGFPE"):
        rehearse("m", divides_min_by_minus_one(tmp_path / "model.onnx"), None, timeout_s=60)


def test_a_model_that_never_ends_is_stopped(tmp_path: Path) -> None:
    with pytest.raises(InvalidModel, match=r"^m: running it once took longer than 2 s and was stopped"):
        rehearse("m", loops_for_ever(tmp_path / "model.onnx"), None, timeout_s=2)


def test_a_child_that_is_killed_tells_of_memory(tmp_path: Path) -> None:
    model = loops_for_ever(tmp_path / "model.onnx")

    def kill() -> None:
        while not (children := _children()):
            threading.Event().wait(0.01)
        for child in children:
            os.kill(child, signal.SIGKILL)

    killer = threading.Thread(target=kill)
    killer.start()
    with pytest.raises(InvalidModel, match=r"^m: .* was killed, most likely for want of memory"):
        rehearse("m", model, None, timeout_s=60)
    killer.join()


@pytest.mark.parametrize("requests_are_served", [True, False])
def test_a_model_that_nothing_is_known_of_is_rehearsed_where_there_are_requests_to_lose(
    tmp_path: Path, requests_are_served: bool
) -> None:
    rehearsals: list[str] = []
    marks = tmp_path / "opening" / "key"
    with rehearsed(marks, lambda: rehearsals.append(""), requests_are_served=requests_are_served):
        assert len(rehearsals) == requests_are_served
    assert not marks.exists()


def test_a_model_that_was_being_opened_when_the_server_ended_is_rehearsed(tmp_path: Path) -> None:
    rehearsals: list[str] = []
    marks = tmp_path / "key"
    ends_while_opening(marks)
    with rehearsed(marks, lambda: rehearsals.append(""), requests_are_served=False) as ends:
        assert (ends, len(rehearsals)) == (1, 1)
    assert not marks.exists()


def test_a_model_that_only_a_child_survives_is_not_opened_for_ever(tmp_path: Path) -> None:
    marks = tmp_path / "key"
    for _ in range(MOST_ENDS):
        ends_while_opening(marks)
    with pytest.raises(InvalidModel, match=f"ended {MOST_ENDS} times .* then remove {marks}"):
        rehearsed(marks, lambda: None, requests_are_served=False).__enter__()


def test_without_a_place_for_marks_models_are_rehearsed(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    rehearsals: list[str] = []
    marks = tmp_path / "file" / "key"  # where there can be none
    with rehearsed(marks, lambda: rehearsals.append(""), requests_are_served=False):
        assert len(rehearsals) == 1


def test_a_refused_model_is_rehearsed_at_the_next_start(tmp_path: Path) -> None:
    marks = tmp_path / "key"

    def refuses() -> None:
        raise InvalidModel("fatal")

    for requests_are_served in (True, False, False):
        with pytest.raises(InvalidModel, match=r"^fatal$"):
            rehearsed(marks, refuses, requests_are_served=requests_are_served).__enter__()


def test_a_model_that_wants_more_memory_than_there_is_fails_by_itself(tmp_path: Path) -> None:
    """Not by being killed: where a control group ends together, the server would go with it."""
    model = fills_memory(tmp_path / "model.onnx")
    child = subprocess.run(
        [sys.executable, "-c", LIMITED, model], env=os.environ | {"FOLDSERVE_LIFELINE": "0"}, check=False
    )
    assert child.returncode == NO_MEMORY_STATUS


LIMITED = """
import runpy, sys
from foldserve import lifeline
lifeline.give_way = lambda: None
runpy.run_module("foldserve.serving.rehearsal_child", run_name="__main__", alter_sys=False)
"""


def _children() -> list[int]:
    """Rehearsals of this process."""
    found = []
    for task in Path("/proc/self/task").iterdir():
        with suppress(OSError):  # threads come and go
            for child in (task / "children").read_text().split():
                if b"rehearsal_child" in Path(f"/proc/{child}/cmdline").read_bytes():
                    found.append(int(child))
    return found
