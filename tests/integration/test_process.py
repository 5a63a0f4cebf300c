"""The server as a process: what it imports, how it stops, what it prints."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import grpc
import numpy as np
import pytest
from foldserve_client import Client
from foldserve_proto import grpc_service_pb2 as pb
from foldserve_proto.grpc_service_pb2_grpc import GRPCInferenceServiceStub
from running import CACHE, EXAMPLE_MODELS
from server_process import FREE_PORTS, SERVE, ServerProcess

SERVE_HERE = [*SERVE, *FREE_PORTS]


@pytest.fixture
def process(tmp_path: Path) -> Iterator[ServerProcess]:
    """A process that serves the ONNX model alone, which loads in no time."""
    (tmp_path / "digits").symlink_to(EXAMPLE_MODELS / "digits")
    options = [*FREE_PORTS, "--repository", str(tmp_path), "--cache-dir", CACHE.name]
    with ServerProcess(tmp_path.with_suffix(".log"), *options) as started:
        yield started


@pytest.mark.parametrize("wanted", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_drains_and_ends_with_zero(process: ServerProcess, wanted: signal.Signals) -> None:
    assert process.finish(wanted) == 0
    events = [record["event"] for record in process.records()]
    assert events[-3:] == ["draining: no new requests", "model unloaded", "stopped"]


def test_grpcs_own_threads_do_not_interrupt_the_one_that_takes_what_they_read(process: ServerProcess) -> None:
    policies: dict[str, set[int]] = {}
    for thread in Path(f"/proc/{process.process.pid}/task").iterdir():
        name = (thread / "comm").read_text().strip()
        policies.setdefault(name, set()).add(os.sched_getscheduler(int(thread.name)))
    assert policies["event_engine"] == {os.SCHED_BATCH}
    assert os.sched_getscheduler(process.process.pid) == os.SCHED_OTHER


def test_a_supervisor_that_signals_twice_still_gets_a_clean_end(process: ServerProcess) -> None:
    for _ in range(3):
        process.process.send_signal(signal.SIGTERM)
    assert process.finish(signal.SIGTERM) == 0
    assert process.records()[-1]["event"] == "stopped"


def test_a_log_that_nobody_reads_any_more_fails_nothing() -> None:
    options = ["--repository", str(EXAMPLE_MODELS), "--model-control", "explicit", "--load-models", "digits"]
    with subprocess.Popen([*SERVE_HERE, *options], stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stderr is not None
            records = map(json.loads, process.stderr)
            listening = next(record for record in records if record["event"] == "listening")
            assert any(record["event"] == "ready" for record in records)
            process.stderr.close()
            with grpc.insecure_channel(listening["management"]) as channel:
                stub = GRPCInferenceServiceStub(channel)
                stub.RepositoryModelLoad(pb.RepositoryModelLoadRequest(model_name="digits"))
                stub.RepositoryModelUnload(pb.RepositoryModelUnloadRequest(model_name="digits"))
                with pytest.raises(grpc.RpcError) as failure:
                    stub.RepositoryModelLoad(pb.RepositoryModelLoadRequest(model_name="nothing"))
                assert failure.value.code() is grpc.StatusCode.NOT_FOUND
            process.send_signal(signal.SIGTERM)
            assert process.wait(60) == 0
        finally:
            process.kill()


def test_torch_is_never_imported_by_the_serving_process(tmp_path: Path) -> None:
    """Not even for a ``.pt2`` model: its memory maps would show libtorch."""
    options = ["--repository", str(EXAMPLE_MODELS), "--cache-dir", str(tmp_path)]
    with ServerProcess(tmp_path.with_suffix(".log"), *FREE_PORTS, *options) as process:
        ready = {record["model"] for record in process.records() if record["event"] == "model ready"}
        maps = Path(f"/proc/{process.process.pid}/maps").read_text()
    assert ready == {"digits", "digits_pt2"}
    assert "onnxruntime" in maps
    assert "libtorch" not in maps


def test_importing_the_server_does_not_import_torch() -> None:
    code = "import sys, foldserve.server, foldserve.cli; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_signal_ends_a_server_that_is_still_loading_and_its_import(tmp_path: Path) -> None:
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    options = [*FREE_PORTS, "--repository", str(EXAMPLE_MODELS), "--cache-dir", str(tmp_path / "cache")]
    until = {"until": "model ready", "TMPDIR": str(temporary)}
    with ServerProcess(tmp_path.with_suffix(".log"), *options, **until) as process:
        assert list(temporary.iterdir())
        children = Path(f"/proc/{process.process.pid}/task").glob("*/children")
        imports = [int(child) for children_of in children for child in children_of.read_text().split()]
        assert process.finish(signal.SIGTERM) == 0
    assert imports
    deadline = time.monotonic() + 30
    while any(Path(f"/proc/{child}/stat").exists() for child in imports):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    events = [record["event"] for record in process.records()]
    assert "ready" not in events
    assert events[-1] == "stopped"
    assert list(temporary.iterdir()) == []


def test_a_broken_model_stops_no_other(tmp_path: Path) -> None:
    (tmp_path / "digits").symlink_to(EXAMPLE_MODELS / "digits")
    for model, file, content in (
        ("torn", "model.onnx", b"\x08\x07garbage"),
        ("pickled", "model.pt", b"\x80\x02."),
    ):
        folder = tmp_path / model / "1"
        folder.mkdir(parents=True)
        (folder / file).write_bytes(content)
    with ServerProcess(tmp_path.with_suffix(".log"), *FREE_PORTS, "--repository", str(tmp_path)) as process:
        failures = {
            r["model"]: r["reason"] for r in process.records() if r["event"] == "model failed to load"
        }
        assert set(failures) == {"torn", "pickled"}
        assert "torch.export.save" in str(failures["pickled"])
        with Client(process.address) as client:
            assert client.ready()
            assert client.ready("digits")
            assert not client.ready("torn")
            with pytest.raises(
                Exception, match=r"'torn' version 1 failed to load: .*not a readable ONNX model"
            ):
                client.infer("torn", np.zeros(1, np.float32))
        assert process.finish(signal.SIGTERM) == 0


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--repository", "nowhere"], "nowhere is not a folder"),
        (["--repository", str(EXAMPLE_MODELS), "--grpc-workers", "0"], "--grpc-workers"),
        (["--repository", str(EXAMPLE_MODELS), "--provider", "tpu"], "tpu"),
        (["--repository", str(EXAMPLE_MODELS), "--host", "192.0.2.1"], "Cannot assign requested address"),
    ],
)
def test_what_cannot_work_is_said_at_once(arguments: list[str], text: str) -> None:
    ended = subprocess.run([*SERVE_HERE, *arguments], capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode == 2
    assert text in ended.stderr
    assert "Traceback" not in ended.stderr


@pytest.mark.parametrize("flag", ["--grpc-port", "--http-port"])
def test_a_busy_port_is_named_with_a_way_out(flag: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as busy:
        port = str(busy.getsockname()[1])
        arguments = [*SERVE_HERE, "--repository", str(EXAMPLE_MODELS), flag, port]
        ended = subprocess.run(arguments, capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode == 2
    assert f"cannot listen on 127.0.0.1:{port}" in ended.stderr
    assert "Address already in use" in ended.stderr
    assert f"{flag} 0 picks a free one" in ended.stderr


def test_flags_are_environment_variables_too() -> None:
    environment = os.environ | {"FOLDSERVE_REPOSITORY": "nowhere-from-environment"}
    ended = subprocess.run(
        SERVE_HERE, capture_output=True, text=True, timeout=60, check=False, env=environment
    )
    assert ended.returncode == 2
    assert "nowhere-from-environment is not a folder" in ended.stderr
