"""Load from h2load, which asks far more of a server than a Python client could: framed requests."""

import re
import shutil
import struct
import subprocess
import tempfile
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import numpy as np
from foldserve_proto import grpc_service_pb2 as pb
from serving_harness import BenchmarkFailed, Process, cpu_list, say
from serving_models import Model

METHOD = "/inference.GRPCInferenceService/ModelInfer"
NEEDED = "these benchmarks need h2load: apt-get install nghttp2-client (Debian, Ubuntu), brew install nghttp2"
HTTP_OK = 200
WARM_UP_S = 2.0
FRAME = struct.Struct(">BI")
"""Before each gRPC message: whether it is compressed, and its length."""


@dataclass(frozen=True)
class Load:
    """What came of a run of h2load."""

    requests: int
    """Requests answered, with whatever status."""

    seconds: float
    cpu_s: float
    """Processor time of the server."""

    latencies_s: Sequence[float]
    """From the first byte sent to the last received."""

    finished_s: Sequence[float]
    """When each was answered, from the first answer on."""

    @property
    def rate(self) -> float:
        """Requests answered per second."""
        return self.requests / self.seconds

    @property
    def cpu_ms(self) -> float:
        """The server's processor time per request, in milliseconds."""
        return 1e3 * self.cpu_s / self.requests

    @property
    def steady_rate(self) -> float:
        """Requests per second as the slope of the answers over time.

        Unlike :attr:`rate` it does not depend on where the measurement cuts the first and the last batch.
        """
        return float(np.polyfit(self.finished_s, np.arange(len(self.finished_s)), 1)[0])

    def percentile_ms(self, percent: float) -> float:
        """The latency that so many percent of the requests did not exceed, in milliseconds."""
        return 1e3 * float(np.percentile(self.latencies_s, percent))


def closed_loop(
    server: Process,
    request: pb.ModelInferRequest,
    response: pb.ModelInferResponse,
    *,
    callers: int,
    seconds: float,
    cores: Collection[int],
) -> Load:
    """Let ``callers`` callers, each on a connection of its own, ask again as soon as they are answered.

    h2load sees HTTP's status, which is 200 for a gRPC error too; but an error has no message. So the bytes
    received are compared with what as many answers of ``response``'s size have, and a difference raises
    :class:`BenchmarkFailed`.
    """
    with tempfile.TemporaryDirectory() as scratch:
        log = Path(scratch) / "requests.tsv"
        options = ["--clients", str(callers), "--max-concurrent-streams", "1"]
        options += ["--duration", f"{1e3 * seconds:.0f}ms"]
        options += ["--log-file", str(log)]
        before = server.cpu_s()
        output = h2load(server, request, Path(scratch), options, cores)
        cpu_s = server.cpu_s() - before
        requests = int(_found(r"(\d+) done", output))
        if not requests:
            raise BenchmarkFailed(f"{server.name} answered nothing\n{output}\n{server.tail()}")
        received = int(_found(r"\((\d+)\) data", output))
        rows = np.loadtxt(log, dtype=np.int64, ndmin=2)
    expected = requests * (FRAME.size + response.ByteSize())
    if not 0.99 * expected <= received <= 1.01 * expected + callers * response.ByteSize():
        raise BenchmarkFailed(
            f"{server.name} sent {received} bytes in answer to {requests} requests, not {expected}: "
            f"some were refused, or answered with something else\n{output}\n{server.tail()}"
        )
    answered = rows[rows[:, 1] == HTTP_OK]
    finished = np.sort(answered[:, 0] + answered[:, 2])
    return Load(requests, seconds, cpu_s, answered[:, 2] / 1e6, (finished - finished[0]) / 1e6)


def in_turns(
    servers: Sequence[Process],
    model: Model,
    *,
    callers: int,
    rounds: int,
    seconds: float,
    cores: Collection[int],
) -> dict[str, list[Load]]:
    """One load after the other on each server, round after round; the first round only warms up."""
    request = model.request()
    loads: dict[str, list[Load]] = {server.name: [] for server in servers}
    for number in range(rounds + 1):
        for server in servers:
            load = closed_loop(
                server,
                request,
                server.answer(request),
                callers=callers,
                seconds=seconds if number else min(seconds, WARM_UP_S),
                cores=cores,
            )
            if number:
                loads[server.name].append(load)
                say(
                    f"{model.name}, {callers} callers, round {number}, {server.name}: "
                    f"{load.rate:.0f} requests/s, {load.cpu_ms:.3f} ms of CPU each, "
                    f"p50 {load.percentile_ms(50):.2f} ms"
                )
    return loads


def median_ratio(
    loads: Sequence[Load], others: Sequence[Load], figure: Callable[[Load], float], less: float = 0.0
) -> float:
    """A figure of ``loads``, ``less`` taken off, relative to that of ``others``: median of the rounds."""
    return median((figure(load) - less) / figure(other) for load, other in zip(loads, others, strict=True))


def h2load(
    server: Process, request: pb.ModelInferRequest, scratch: Path, options: list[str], cores: Collection[int]
) -> str:
    """Run h2load against the server with a request in every call; what it prints."""
    if shutil.which("h2load") is None:
        raise BenchmarkFailed(NEEDED)
    message = request.SerializeToString()
    body = scratch / "request"
    body.write_bytes(FRAME.pack(0, len(message)) + message)
    headers = ["-H", "content-type: application/grpc", "-H", "te: trailers"]
    address = f"http://127.0.0.1:{server.port}{METHOD}"
    run = subprocess.run(
        ["taskset", "-c", cpu_list(cores), "h2load", *options, "--data", str(body), *headers, address],
        capture_output=True,
        text=True,
        check=False,
    )
    if run.returncode:
        raise BenchmarkFailed(f"h2load failed: {run.stderr}{run.stdout}")
    return run.stdout


def _found(pattern: str, output: str) -> str:
    match = re.search(pattern, output)
    if match is None:
        raise BenchmarkFailed(f"h2load printed something unknown, without {pattern!r}:\n{output}")
    return match[1]
