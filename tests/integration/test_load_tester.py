"""The load tester against real servers: ours, and another implementation of the protocol."""

import json
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import grpc
import pytest
from foldserve.server import Server
from foldserve_client import Client, ClientError
from foldserve_client.load.capacity import Probe, bounds, next_rate
from foldserve_client.load.report import Report
from running import EXAMPLE_MODELS, PERF_ANALYZER, ROOT, scraped

CLIENT = ROOT / ".venv" / "bin" / "foldserve-client"
MLSERVER = ROOT / ".venv-mlserver" / "bin" / "mlserver"
DOCUMENT = (ROOT / "docs" / "load-testing.md").read_text()
SHELL = [line for block in re.findall(r"```sh\n(.*?)```", DOCUMENT, re.DOTALL) for line in block.splitlines()]
(PYTHON,) = re.findall(r"```python\n(.*?)```", DOCUMENT, re.DOTALL)
LONG_S = 120
START_S = 60

needs_mlserver = pytest.mark.skipif(
    not MLSERVER.exists(), reason="no MLServer: `make test-peers` installs it (a minute) and runs this"
)


def _load(*arguments: str, folder: Path = ROOT) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [CLIENT, "load", *arguments], cwd=folder, capture_output=True, text=True, timeout=LONG_S, check=False
    )


def _report(server: Server, folder: Path, *arguments: str) -> Report:
    ran = _load(
        *("--address", f"127.0.0.1:{server.grpc_port}"),
        *("--json", str(folder / "report.json")),
        *arguments,
    )
    assert ran.returncode == 0, ran.stderr
    return Report.model_validate_json((folder / "report.json").read_text())


def _answered(server: Server, model: str) -> float:
    return sum(
        value
        for (name, labels), value in scraped(server).items()
        if name == "foldserve_requests_total" and {("model", model), ("method", "ModelInfer")} <= labels
    )


def test_steps_of_callers_are_what_the_server_saw(server: Server, tmp_path: Path) -> None:
    before = _answered(server, "digits")
    report = _report(
        server, tmp_path, "digits", "--callers", "1,3", "--requests", "200", "--warm-up", "0", "--rows", "2",
        "--metrics-url", f"http://127.0.0.1:{server.http_port}/metrics",
        "--html", str(tmp_path / "report.html"), "--csv", str(tmp_path / "report.csv"),
    )  # fmt: skip
    assert _answered(server, "digits") - before == 400
    assert [str(step.level) for step in report.steps] == ["1", "3"]
    for step in report.steps:
        assert [(code.name, code.count) for code in step.codes] == [("OK", 200)]
        assert step.server is not None
        assert step.server.requests == 200
        assert step.server.mean_ms < (step.latency.mean_ms or 0)
        assert [stage.mean_ms > 0 for stage in step.server.stages] == [True] * 4
        (parity,) = step.parity
        assert (parity.model, parity.variant, parity.fallback) == ("digits", "folded", False)
        assert parity.at_load is not None
    assert report.servers == (f"foldserve {report.servers[0].split()[1]}",)
    assert "Where the time goes" in (tmp_path / "report.html").read_text()
    assert len((tmp_path / "report.csv").read_text().splitlines()) == 3


def test_a_mix_at_random_times_from_a_file(server: Server, tmp_path: Path) -> None:
    report = _report(
        server, tmp_path, "digits=3", "digits_pt2", "--rate", "200", "--poisson", "--duration", "2",
        "--warm-up", "0.2", "--processes", "2", "--data", str(EXAMPLE_MODELS / "digits" / "samples.npz"),
    )  # fmt: skip
    (step,) = report.steps
    assert step.due_per_s == pytest.approx(200, rel=0.3)
    first, second = (one.latency.count for one in step.models)
    assert first / (first + second) == pytest.approx(0.75, abs=0.1)
    assert step.generator.processes == 2
    assert step.server is None, "nothing told where this server's metrics are"


def test_a_ramp_rises(server: Server, tmp_path: Path) -> None:
    report = _report(server, tmp_path, "digits", "--rate", "20..200", "--duration", "2", "--warm-up", "0")
    points = [point.due_per_s for point in report.steps[0].points]
    assert points[0] < points[len(points) // 2] < points[-1]


def test_a_search_follows_from_what_it_measured(server: Server, tmp_path: Path) -> None:
    """As far as a busy machine lets it measure; unit tests say where a search ends."""
    report = _report(
        server, tmp_path, "digits", "--find-capacity", "--target-p99", "30", "--rate", "50",
        "--duration", "0.3", "--warm-up", "0.1", "--precision", "1",
    )  # fmt: skip
    assert report.capacity is not None
    probes: list[Probe] = []
    for step in report.steps:
        assert step.level.end == next_rate(probes, 50, 1)
        met = step.p99_ms is not None and step.p99_ms <= 30 and step.failed_share <= 0.001
        if met or step.generator.bottleneck is None:
            probes.append(Probe(step.level.end, met))
    assert report.capacity.bounds == bounds(probes)
    assert report.capacity.limited_by is not None or next_rate(probes, 50, 1) is None
    if not probes:
        pytest.skip("on this busy machine the generator was the limit from the first rate on")


def test_an_interrupted_search_reports_what_it_found(server: Server, tmp_path: Path) -> None:
    file = tmp_path / "report.json"
    options = ("--rate", "20", "--duration", "0.5", "--warm-up", "0", "--json", str(file))
    search = subprocess.Popen(
        [
            *(CLIENT, "load", "digits", "--address", f"127.0.0.1:{server.grpc_port}"),
            *("--find-capacity", "--target-p99", "10", *options),
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with search:
        assert search.stderr is not None
        assert next(line for line in search.stderr if " answered, " in line).startswith("20/s")
        search.send_signal(signal.SIGINT)
        said, complaint = search.communicate(timeout=LONG_S)
    assert search.returncode == 0, complaint
    report = Report.model_validate_json(file.read_text())
    assert report.capacity is not None
    if not report.capacity.interrupted:
        pytest.skip("on this busy machine the search ended before it could be interrupted")
    assert "the search was interrupted" in " ".join(said.split())
    assert report.steps


def test_two_models_are_compared_in_turn(server: Server, tmp_path: Path) -> None:
    report = _report(
        server, tmp_path, "--compare", "digits", "digits_pt2", "--rounds", "2", "--requests", "50",
        "--warm-up", "0",
    )  # fmt: skip
    assert report.comparison is not None
    assert [step.models[0].model for step in report.steps] == ["digits", "digits_pt2", "digits_pt2", "digits"]
    for metric in report.comparison.metrics:
        assert metric.ratio is not None
        assert metric.ratio.low <= metric.ratio.mean <= metric.ratio.high


def test_every_command_of_the_document_is_covered_here() -> None:
    assert {shlex.split(line)[0] for line in SHELL} == {
        ".venv/bin/foldserve-client",
        ".venv-perf/bin/perf_analyzer",
        "h2load",
    }


@pytest.mark.parametrize("command", SHELL, ids=lambda command: " ".join(shlex.split(command)[:4]))
def test_the_documents_commands_work(server: Server, command: str, tmp_path: Path) -> None:
    program = shlex.split(command)[0]
    if program == "h2load" and shutil.which(program) is None:
        pytest.skip("no h2load: apt-get install nghttp2-client")
    if program.startswith(".venv-perf") and not PERF_ANALYZER.exists():
        pytest.skip("no perf_analyzer: `make test` fetches it on Linux on x86-64")
    if program == "h2load":
        subprocess.run([ROOT / ".venv/bin/python", "-c", PYTHON], cwd=tmp_path, check=True, timeout=LONG_S)
    address = f"localhost:{server.grpc_port}"
    words = [word.replace("localhost:8001", address) for word in shlex.split(command)]
    words[0] = str(ROOT / program) if "/" in program else program
    if program.endswith("foldserve-client"):
        words += ["--address", address, "--duration", "0.5", "--warm-up", "0.1"]  # the last one counts
    ran = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, timeout=LONG_S, check=False)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    if program == "h2load":
        assert "1000 succeeded, 0 failed" in ran.stdout


MODEL = """
from mlserver import MLModel
from mlserver.codecs import NumpyCodec
from mlserver.types import InferenceResponse

class Double(MLModel):
    async def load(self):
        return True

    async def predict(self, payload):
        doubled = 2 * NumpyCodec.decode_input(payload.inputs[0])
        return InferenceResponse(model_name=self.name, outputs=[NumpyCodec.encode_output("y", doubled)])
"""
SETTINGS = {
    "name": "double",
    "implementation": "double.Double",
    "inputs": [{"name": "x", "datatype": "FP32", "shape": [-1, 4]}],
}


@pytest.fixture(scope="module")
def mlserver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of an MLServer with one model."""
    folder = tmp_path_factory.mktemp("mlserver")
    ports = [_free_port() for _ in range(3)]
    names = ("http_port", "grpc_port", "metrics_port")
    (folder / "settings.json").write_text(
        json.dumps({"host": "127.0.0.1", "parallel_workers": 0, **dict(zip(names, ports, strict=True))})
    )
    (folder / "double.py").write_text(MODEL)
    (folder / "model-settings.json").write_text(json.dumps(SETTINGS))
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(
            [MLSERVER, "start", str(folder)],
            cwd=folder,
            stdout=log,
            stderr=log,
            env=os.environ | {"PYTHONPATH": str(folder)},
        )
    try:
        deadline = time.monotonic() + START_S
        address = f"127.0.0.1:{ports[1]}"
        while not _is_ready(address):
            assert process.poll() is None, (folder / "log").read_text()
            assert time.monotonic() < deadline, (folder / "log").read_text()
            time.sleep(0.2)
        yield address
    finally:
        process.terminate()
        process.wait(START_S)


@needs_mlserver
@pytest.mark.parametrize("loop", [["--callers", "4"], ["--rate", "50", "--poisson"]], ids=" ".join)
def test_another_servers_implementation_is_measured_as_well(
    mlserver: str, loop: list[str], tmp_path: Path
) -> None:
    file = tmp_path / "report.json"
    ran = _load(
        "double", "--address", mlserver, *loop, "--requests", "40", "--warm-up", "0.2", "--json", str(file)
    )
    assert ran.returncode == 0, ran.stderr
    (step,) = Report.model_validate_json(file.read_text()).steps
    assert [(code.name, code.count) for code in step.codes] == [("OK", 40)]
    assert step.server is None


@needs_mlserver
def test_our_server_is_compared_with_another_one(server: Server, mlserver: str, tmp_path: Path) -> None:
    file = tmp_path / "report.json"
    ran = _load(
        *("--compare", f"127.0.0.1:{server.grpc_port}/digits", f"{mlserver}/double"),
        *("--requests", "30", "--warm-up", "0", "--rounds", "2", "--json", str(file)),
    )
    assert ran.returncode == 0, ran.stderr
    report = Report.model_validate_json(file.read_text())
    assert len(report.servers) == 2
    assert report.comparison is not None
    assert all(metric.ratio is not None for metric in report.comparison.metrics)


def _is_ready(address: str) -> bool:
    with closing(Client(address, retries=0, timeout_s=5)) as client:
        try:
            return client.ready("double")
        except (ClientError, grpc.RpcError):
            return False


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
