"""A model that the runtime does not survive, in the repository when a server starts."""

import shutil
import signal
from pathlib import Path

from fatal_models import divides_min_by_minus_one
from foldserve_client import Client
from running import EXAMPLE_MODELS
from server_process import FREE_PORTS, ServerProcess


def test_it_ends_one_start_and_the_next_one_leaves_it_out(tmp_path: Path) -> None:
    repository = tmp_path / "repository"
    divides_min_by_minus_one(repository / "fatal" / "1" / "model.onnx")
    options = [*FREE_PORTS, "--repository", str(repository), "--cache-dir", str(tmp_path / "cache")]
    with ServerProcess(tmp_path / "first.log", *options, until="loading model") as server:
        assert server.process.wait(60) == -signal.SIGFPE
    shutil.copytree(EXAMPLE_MODELS / "digits", repository / "digits")
    with ServerProcess(tmp_path / "second.log", *options) as server, Client(server.address) as client:
        ready = {model.name: model.state == "READY" for model in client.repository_index().models}
        assert ready == {"digits": True, "fatal": False}
        assert "died of SIGFPE" in str(server.record("model failed to load")["reason"])
    assert len(list((tmp_path / "cache" / "opening").iterdir())) == 1  # so it is at the start after that
