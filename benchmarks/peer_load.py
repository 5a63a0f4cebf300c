"""The same load for every server, over the protocol that each speaks: h2load, which does HTTP/1.1 as well."""

import re
import subprocess
import tempfile
from collections.abc import Collection, Sequence
from pathlib import Path

import numpy as np
from peer_servers import Exchange, Tree
from serving_harness import BenchmarkFailed, cpu_list
from serving_load import FRAME, HTTP_OK, Load


def closed_loop(
    server: Tree, exchange: Exchange, *, size: int, callers: int, seconds: float, cores: Collection[int]
) -> Load:
    """Let ``callers`` callers, each on a connection of its own, ask again as soon as they are answered.

    A gRPC error has HTTP's status 200, but no message: so the bytes received are compared with as many
    answers of ``size`` bytes, and a difference raises :class:`BenchmarkFailed`, as another status does.
    """
    with tempfile.TemporaryDirectory() as scratch:
        log, body = Path(scratch) / "requests.tsv", Path(scratch) / "body"
        body.write_bytes(_framed(exchange))
        command = ["taskset", "-c", cpu_list(cores), "h2load", *_protocol(exchange)]
        command += ["--clients", str(callers), "--duration", f"{1e3 * seconds:.0f}ms"]
        command += ["--log-file", str(log), "--data", str(body)]
        before = server.cpu_s()
        run = subprocess.run(
            [*command, f"http://127.0.0.1:{server.port}{exchange.path}"],
            capture_output=True,
            text=True,
            check=False,
        )
        cpu_s = server.cpu_s() - before
        if run.returncode:
            raise BenchmarkFailed(f"h2load failed: {run.stderr}{run.stdout}")
        rows = np.loadtxt(log, dtype=np.int64, ndmin=2)
    requests = _count(r"(\d+) done", run.stdout)
    received = _count(r"\((\d+)\) data", run.stdout)
    expected = requests * (size + (FRAME.size if exchange.grpc else 0))
    refused = _count(r"(\d+) 3xx", run.stdout) + _count(r"(\d+) 4xx", run.stdout)
    refused += _count(r"(\d+) 5xx", run.stdout)
    near = 0.98 * expected <= received <= 1.02 * expected + callers * (size + FRAME.size)
    if not requests or refused or not near:
        raise BenchmarkFailed(
            f"{server.name} answered {requests} requests with {received} bytes instead of {expected}, "
            f"{refused} with another status\n{run.stdout}\n{server.tail()}"
        )
    answered = rows[rows[:, 1] == HTTP_OK]
    finished = np.sort(answered[:, 0] + answered[:, 2])
    return Load(requests, seconds, cpu_s, answered[:, 2] / 1e6, (finished - finished[0]) / 1e6)


def _framed(exchange: Exchange) -> bytes:
    return FRAME.pack(0, len(exchange.message)) + exchange.message if exchange.grpc else exchange.message


def _protocol(exchange: Exchange) -> Sequence[str]:
    headers = {"content-type": "application/grpc", "te": "trailers"} if exchange.grpc else exchange.headers
    options = ["--max-concurrent-streams", "1"] if exchange.grpc else ["--h1"]
    for name, value in headers.items():
        options += ["--header", f"{name}: {value}"]
    return options


def _count(pattern: str, output: str) -> int:
    match = re.search(pattern, output)
    if match is None:
        raise BenchmarkFailed(f"h2load printed something unknown, without {pattern!r}:\n{output}")
    return int(match[1])
