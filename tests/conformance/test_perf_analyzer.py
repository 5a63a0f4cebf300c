"""Triton's load generator against our server: it reads configuration and statistics, then sends load."""

import re
import subprocess
from contextlib import suppress

import pytest
from foldserve.server import Server
from running import PERF_ANALYZER

pytestmark = pytest.mark.skipif(
    not PERF_ANALYZER.exists(),
    reason="no perf_analyzer: `make test` fetches it on Linux on x86-64",
)

REQUESTS = 200
LONG_S = 60
ATTEMPTS = 3


@pytest.mark.parametrize(
    "options",
    [
        ["--concurrency-range", "1"],
        ["--concurrency-range", "4", "-b", "3"],
        ["--async", "--concurrency-range", "8"],
        ["--streaming", "--concurrency-range", "4"],
        ["--shared-memory", "system", "--output-shared-memory-size", "4096", "--concurrency-range", "2"],
        ["--shared-memory", "system", "--output-shared-memory-size", "4096", "--streaming"],
        ["--request-rate-range", "100"],
    ],
    ids=" ".join,
)
def test_it_measures_the_server_with_the_servers_own_times(complete: Server, options: list[str]) -> None:
    ran = _run(
        *("-m", "digits", "-i", "grpc", "-u", f"127.0.0.1:{complete.grpc_port}"),
        *("--shape", "images:1,8,8", "--request-count", str(REQUESTS)),
        *options,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert _number("Request count", ran.stdout) >= REQUESTS
    # It reads the server's counts beside running requests, so it misses some at either end.
    assert _number("Successful request count", ran.stdout) > REQUESTS / 2
    server_times = re.search(
        r"overhead \d+ usec \+ queue \d+ usec \+ compute input \d+ usec \+ compute infer (\d+) usec",
        ran.stdout,
    )
    assert server_times, ran.stdout
    assert int(server_times[1]) > 0


def _run(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run it; again if it does not end, which is its own doing on a busy machine.

    With --async it now and then waits on when every request has been answered.
    """
    for _ in range(ATTEMPTS):
        with suppress(subprocess.TimeoutExpired):
            return subprocess.run(
                [PERF_ANALYZER, *arguments], capture_output=True, text=True, timeout=LONG_S, check=False
            )
    pytest.fail(f"perf_analyzer did not end in {LONG_S} s, {ATTEMPTS} times")


def _number(name: str, text: str) -> int:
    found = re.search(rf"^\s*{name}: (\d+)", text, re.MULTILINE)
    assert found, text
    return int(found[1])
