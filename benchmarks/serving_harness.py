"""Servers as processes of their own: started on chosen cores, watched through /proc, ended by their id."""

import contextlib
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
from foldserve_proto import grpc_service_pb2 as pb
from foldserve_proto import grpc_service_pb2_grpc as service
from prometheus_client.parser import text_string_to_metric_families
from serving_models import BUILD, Model

HERE = Path(__file__).parent
RESULTS = HERE / "results"
PYTHON = sys.executable
FOLDSERVE = Path(PYTHON).with_name("foldserve")
START_S = 120.0
QUIET_CORES = 0.05
"""A machine on which other processes use no more than this is quiet."""

STOP_S = 30.0
TICKS = os.sysconf("SC_CLK_TCK")
PAGE = os.sysconf("SC_PAGE_SIZE")

ALL_CORES = frozenset(os.sched_getaffinity(0))
SERVER_CORE = frozenset([min(ALL_CORES)])
LOAD_CORES = ALL_CORES - SERVER_CORE or ALL_CORES
"""The server has one core to itself, whoever calls it has the others."""

OURS, HANDWRITTEN, SYNC_ECHO = "foldserve", "hand-written", "echo, sync"
"""Names of the servers."""

CACHES = tempfile.TemporaryDirectory(prefix="bench-caches-")

Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


class BenchmarkFailed(Exception):
    """A benchmark cannot be run, or measured something else than it was meant to."""


@dataclass(frozen=True)
class Recipe:
    """How a server is started; its command gets the gRPC port in place of ``{port}``, likewise ``{http}``."""

    name: str
    command: tuple[str, ...]


def foldserve(repository: Path, *options: str, cache: Path | None = None) -> Recipe:
    """Our server of a repository, as it comes; without ``cache``, it finds nothing measured before."""
    cache = cache or Path(tempfile.mkdtemp(dir=CACHES.name))
    ports = ("--grpc-port", "{port}", "--http-port", "{http}", "--management-address", "public")
    where = ("--host", "127.0.0.1", *ports)
    what = ("--repository", str(repository), "--cache-dir", str(cache), "--log-format", "json")
    return Recipe(OURS, (str(FOLDSERVE), "serve", *where, *what, *options))


def handwritten(model: Model, threads: int) -> Recipe:
    """The server that people write by hand."""
    script = str(HERE / "serving_handwritten.py")
    return Recipe(HANDWRITTEN, (PYTHON, script, "{port}", str(model.file), str(threads)))


def echo(kind: str, model: Model) -> Recipe:
    """The ``sync`` or ``asyncio`` echo server, which repeats what :func:`record_answer` kept."""
    return echo_of(response_file(model), kind)


def echo_of(answer: Path, kind: str = "sync") -> Recipe:
    """An echo server that repeats the ModelInferResponse in a file."""
    return Recipe(f"echo, {kind}", (PYTHON, str(HERE / "serving_echo.py"), kind, "{port}", str(answer)))


def response_file(model: Model) -> Path:
    """Where the answer to the model's request is kept, for the echo servers to repeat."""
    return BUILD / f"{model.name}.response"


class Process:
    """A running server."""

    def __init__(self, recipe: Recipe, cores: Collection[int], log: Path) -> None:
        self.name = recipe.name
        self.port, self.http_port = free_port(), free_port()
        self.cores = frozenset(cores)
        self.log = log
        command = [part.format(port=self.port, http=self.http_port) for part in recipe.command]
        pinned = ["taskset", "-c", cpu_list(cores), *command]
        with log.open("wb") as output:
            self._process = subprocess.Popen(
                pinned,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=os.environ | {"ORT_DISABLE_TELEMETRY": "1", "PYTHONDONTWRITEBYTECODE": "1"},
            )
        self.pid = self._process.pid

    def answer(self, request: pb.ModelInferRequest, timeout_s: float = START_S) -> pb.ModelInferResponse:
        """The answer to ``request``, waiting until the server gives one."""
        deadline = time.monotonic() + timeout_s
        with self.channel() as channel:
            stub = service.GRPCInferenceServiceStub(channel)
            while True:
                try:
                    response: pb.ModelInferResponse = stub.ModelInfer(request, timeout=START_S)
                    return response
                except grpc.RpcError as error:
                    if self._gone() or time.monotonic() > deadline:
                        raise BenchmarkFailed(f"{self.name}: {error}\n{self.tail()}") from None
                    time.sleep(0.02)

    def channel(self) -> grpc.Channel:
        """A channel to the server."""
        options = [
            ("grpc.max_send_message_length", -1),
            ("grpc.max_receive_message_length", -1),
            ("grpc.max_reconnect_backoff_ms", 50),
            ("grpc.initial_reconnect_backoff_ms", 50),
        ]
        return grpc.insecure_channel(f"127.0.0.1:{self.port}", options)

    def wait_ready(self, timeout_s: float = START_S) -> None:
        """Wait until the HTTP side says that every model was tried."""
        deadline = time.monotonic() + timeout_s
        while True:
            with contextlib.suppress(OSError):
                self.http("/readyz")
                return
            if self._gone() or time.monotonic() > deadline:
                raise BenchmarkFailed(f"{self.name} does not get ready\n{self.tail()}")
            time.sleep(0.01)

    def http(self, path: str) -> str:
        """What the HTTP side answers; raises OSError for a failure."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.http_port}{path}", timeout=30) as answer:
            text: str = answer.read().decode()
            return text

    def metrics(self) -> Samples:
        """Every sample of /metrics, by its name and labels."""
        return {
            (sample.name, frozenset(sample.labels.items())): sample.value
            for family in text_string_to_metric_families(self.http("/metrics"))
            for sample in family.samples
        }

    def cpu_s(self) -> float:
        """Processor time so far, of all threads, in seconds."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / TICKS

    def rss_bytes(self) -> int:
        """Resident memory."""
        return int(Path(f"/proc/{self.pid}/statm").read_text().split()[1]) * PAGE

    def reset_peak(self) -> None:
        """Let the peak of resident memory start anew."""
        Path(f"/proc/{self.pid}/clear_refs").write_text("5")

    def peak_rss_bytes(self) -> int:
        """The most resident memory since the last :meth:`reset_peak`."""
        status = Path(f"/proc/{self.pid}/status").read_text()
        return int(status.split("VmHWM:")[1].split()[0]) * 1024

    def escaped_threads(self) -> list[str]:
        """Names of the threads that took the liberty to run on cores that they were not given."""
        escaped = []
        for task in Path(f"/proc/{self.pid}/task").iterdir():
            with contextlib.suppress(OSError):
                if not os.sched_getaffinity(int(task.name)) <= self.cores:
                    escaped.append((task / "comm").read_text().strip())
        return escaped

    def tail(self, lines: int = 15) -> str:
        """The end of what the server wrote."""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])

    def stop(self) -> None:
        """End the process."""
        self._process.terminate()
        try:
            self._process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _gone(self) -> bool:
        return self._process.poll() is not None


@contextmanager
def running(
    recipes: Sequence[Recipe], cores: Collection[int], request: pb.ModelInferRequest | None = None
) -> Iterator[list[Process]]:
    """The servers of ``recipes`` on the same cores, ended with the block.

    Each has answered ``request``, if there is one, before the next is started: ours measures at its start.
    """
    with tempfile.TemporaryDirectory(prefix="bench-") as logs, contextlib.ExitStack() as stack:
        processes = []
        for number, recipe in enumerate(recipes):
            process = Process(recipe, cores, Path(logs) / f"{number}.log")
            stack.callback(process.stop)
            processes.append(process)
            if request is not None:
                process.answer(request)
        yield processes


def record_answer(model: Model) -> None:
    """Keep our answer to the model's request, for the echo servers to repeat."""
    with running([foldserve(model.repository)], ALL_CORES) as (server,):
        response_file(model).write_bytes(server.answer(model.request()).SerializeToString())


def warn_of_escapes(servers: Sequence[Process]) -> None:
    """Say which servers run on cores that they were not given."""
    for server in servers:
        if escaped := server.escaped_threads():
            say(f"{server.name} also runs on cores that it was not given: {', '.join(escaped)}")


def mean_batch(server: Process) -> float:
    """Rows per run of our server's engine so far."""
    samples = server.metrics()
    runs = total(samples, "foldserve_inference_exec_count_total")
    return total(samples, "foldserve_inference_count_total") / runs


def total(samples: Samples, name: str, **labels: str) -> float:
    """The sum of the samples called ``name`` that have these labels."""
    wanted = set(labels.items())
    return sum(value for (sample, own), value in samples.items() if sample == name and wanted <= own)


def cpu_list(cores: Collection[int]) -> str:
    """Cores as ``taskset`` wants them."""
    return ",".join(map(str, sorted(cores)))


def others_cores() -> float:
    """How many cores other processes kept busy, on average since this one started.

    To be called when all servers have ended. What the others take is missing from what is measured: a result
    counts only where this is near 0.
    """
    others_s = busy_s() - BUSY_AT_START_S - sum(os.times()[:4])
    return others_s / (time.monotonic() - STARTED)


def write_result(name: str, result: dict[str, Any]) -> None:
    """Keep a result, and show it."""
    others = others_cores()
    text = json.dumps(result | {"others_cores": others}, indent=1) + "\n"
    say(text)
    if others > QUIET_CORES:
        say(f"Take this again on a quiet machine: other processes kept {others:.2f} cores busy.")
    (RESULTS / f"{name}.json").write_text(text)


def say(text: str) -> None:
    """Tell whoever waits."""
    sys.stderr.write(text + "\n")


def busy_s() -> float:
    """What all cores worked since the machine started, in seconds."""
    total = Path("/proc/stat").read_text().splitlines()[0]
    user, nice, system, _idle, _waiting, *interrupts = map(int, total.split()[1:9])
    return sum((user, nice, system, *interrupts)) / TICKS


BUSY_AT_START_S, STARTED = busy_s(), time.monotonic()


def free_port() -> int:
    """A port of this machine that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
