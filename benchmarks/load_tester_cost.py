"""What the load tester costs beside h2load: requests per second and processor time, in turn on one server.

The server has one core, the generator another. Medians of the rounds count.
"""

import argparse
import json
import resource
import subprocess
import tempfile
from dataclasses import dataclass, fields
from pathlib import Path
from statistics import median
from typing import Any

from serving_harness import LOAD_CORES, SERVER_CORE, Process, cpu_list, foldserve, running, say, write_result
from serving_load import closed_loop
from serving_models import TINY

CLIENT = Path(foldserve(TINY.repository).command[0]).with_name("foldserve-client")


@dataclass(frozen=True)
class Cost:
    """One measurement of one generator."""

    requests_per_s: float
    cpu_us: float
    """Of the generator, per request."""

    p50_ms: float


def ours(server: Process, callers: int, seconds: float) -> Cost:
    """The load tester with one process."""
    with tempfile.TemporaryDirectory() as scratch:
        file = Path(scratch) / "report.json"
        pinned = ("taskset", "-c", cpu_list(LOAD_CORES), str(CLIENT), "load", TINY.name)
        where = ("--address", f"127.0.0.1:{server.port}", "--json", str(file))
        load = ("--callers", str(callers), "--duration", str(seconds), "--warm-up", "0.5")
        subprocess.run([*pinned, *where, *load], check=True, capture_output=True)
        (step,) = json.loads(file.read_text())["steps"]
    cost = step["generator"]["cpu_us_per_request"]
    return Cost(step["answered_per_s"], cost, step["latency"]["percentiles_ms"]["50"])


def h2load(server: Process, callers: int, seconds: float) -> Cost:
    """h2load with one thread, which is one core."""
    request = TINY.request()
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    load = closed_loop(
        server, request, server.answer(request), callers=callers, seconds=seconds, cores=LOAD_CORES
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return Cost(load.rate, 1e6 * cpu_s / load.requests, load.percentile_ms(50))


def in_turn(server: Process, callers: int, rounds: int, seconds: float) -> dict[str, Any]:
    """Both generators, one after the other in every round."""
    pairs = []
    for number in range(rounds):
        pairs.append((ours(server, callers, seconds), h2load(server, callers, seconds)))
        say(f"{callers} callers, round {number + 1}: ours {pairs[-1][0]}, h2load {pairs[-1][1]}")
    sides = dict(zip(("foldserve-client load", "h2load"), zip(*pairs, strict=True), strict=True))
    medians = {
        name: {field.name: median(getattr(cost, field.name) for cost in costs) for field in fields(Cost)}
        for name, costs in sides.items()
    }
    return {
        "callers": callers,
        **medians,
        "requests_relative_to_h2load": median(a.requests_per_s / b.requests_per_s for a, b in pairs),
        "cpu_relative_to_h2load": median(a.cpu_us / b.cpu_us for a, b in pairs),
    }


def main() -> None:
    """Measure and write the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=4, help="of each generator in each round")
    arguments = parser.parse_args()
    with running([foldserve(TINY.exported().repository)], SERVER_CORE, TINY.request()) as (server,):
        results = [in_turn(server, callers, arguments.rounds, arguments.seconds) for callers in (1, 64)]
    write_result("load_tester_cost", {"measurements": results})


if __name__ == "__main__":
    main()
