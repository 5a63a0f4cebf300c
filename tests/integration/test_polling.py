"""Mode ``poll``: models come, change, break and go in their folders."""

import json
import shutil
import time
from collections.abc import Iterable
from pathlib import Path

import pytest
from foldserve.serving import model_control, repository
from foldserve.serving.repository import Scan
from foldserve_client import NotFound
from foldserve_proto import grpc_service_pb2 as pb
from integration.repositories import (
    POLL,
    answer,
    connected,
    eventually,
    index,
)
from running import serving
from small_models import plus, put


def test_versions_that_come_change_and_go_are_followed(tmp_path: Path) -> None:
    put(tmp_path, 1, plus(1))
    with serving(tmp_path, **POLL) as server, connected(server) as (client, stub):
        assert answer(client) == 1
        put(tmp_path, 2, plus(2))
        eventually(lambda: answer(client) == 2)
        eventually(lambda: index(stub)["plus", "1"] == ("UNAVAILABLE", "unloaded"))
        put(tmp_path, 2, plus(3))
        eventually(lambda: answer(client) == 3)
        shutil.rmtree(tmp_path / "plus" / "2")
        eventually(lambda: answer(client) == 1)
        eventually(lambda: ("plus", "2") not in index(stub))
        (tmp_path / "plus" / "foldserve.yaml").write_text("max_batch_size: 7")
        eventually(lambda: stub.ModelConfig(pb.ModelConfigRequest(name="plus")).config.max_batch_size == 7)
        put(tmp_path, 1, plus(5), "later")
        eventually(lambda: client.ready("later"))
        shutil.rmtree(tmp_path / "plus")
        eventually(lambda: index(stub).keys() == {("later", "1")})
        with pytest.raises(NotFound, match="no model is named 'plus'; this server has 'later'"):
            answer(client)


def test_a_half_written_version_is_not_picked_up(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """As long as the file grows between two looks, nobody tries it."""
    put(tmp_path, 1, plus(1))
    content = put(tmp_path / "elsewhere", 2, plus(2)).read_bytes()
    with serving(tmp_path, **{**POLL, "poll_interval_s": 0.8}) as server, connected(server) as (client, _):
        capfd.readouterr()
        folder = tmp_path / "plus" / "2"
        folder.mkdir()
        with (folder / "model.onnx").open("wb", buffering=0) as file:
            for start in range(len(content)):
                file.write(content[start : start + 1])
                if start < 90:
                    time.sleep(0.02)
        eventually(lambda: answer(client) == 2)
    events = [json.loads(line) for line in capfd.readouterr().err.splitlines()]
    assert [event for event in events if event["level"] == "error"] == []


def test_a_version_that_fails_leaves_the_old_one_serving_and_keeps_its_reason(tmp_path: Path) -> None:
    file = put(tmp_path, 1, plus(1))
    with serving(tmp_path, **POLL) as server, connected(server) as (client, stub):
        file.write_bytes(b"garbage")  # the version that serves, broken on disk
        eventually(lambda: "loading it again failed" in index(stub)["plus", "1"][1])
        assert (answer(client), index(stub)["plus", "1"][0]) == (1, "READY")
        (tmp_path / "plus" / "2").mkdir()
        (tmp_path / "plus" / "2" / "model.onnx").write_bytes(b"garbage")
        eventually(lambda: index(stub).get(("plus", "2"), ("", ""))[0] == "UNAVAILABLE")
        assert "not a readable ONNX model" in index(stub)["plus", "2"][1]
        assert (answer(client), index(stub)["plus", "1"][0]) == (1, "READY")
        put(tmp_path, 2, plus(2))
        eventually(lambda: answer(client) == 2)
        (tmp_path / "plus" / "config.pbtxt").write_text("sequence_batching {}")
        eventually(lambda: "sequence_batching" in index(stub)["plus", "2"][1])
        assert answer(client) == 2


def test_a_repository_that_vanishes_takes_nothing_out_of_service_and_is_told_once(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    looks = 0

    def counted_scan(repositories: Iterable[Path]) -> Scan:
        nonlocal looks
        looks += 1
        return repository.scan(repositories)

    def several_looks_later() -> None:
        before = looks
        eventually(lambda: looks > before + 3)

    monkeypatch.setattr(model_control, "scan", counted_scan)
    put(tmp_path / "models", 1, plus(1))
    # Who compares reads the original once the model serves, and would miss it, too.
    settings = {**POLL, "shadow": {"reference": "off"}}
    with serving(tmp_path / "models", **settings) as server, connected(server) as (client, _):
        capfd.readouterr()
        for _ in range(2):
            (tmp_path / "models").rename(tmp_path / "unmounted")
            several_looks_later()
            assert answer(client) == 1
            (tmp_path / "unmounted").rename(tmp_path / "models")
            several_looks_later()
        assert answer(client) == 1
        events = [json.loads(line)["event"] for line in capfd.readouterr().err.splitlines()]
    gone, back = (
        "a repository cannot be read: nothing changes until it can",
        "the repositories can be read again",
    )
    assert events == [gone, back, gone, back]
