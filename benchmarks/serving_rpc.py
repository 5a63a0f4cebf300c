"""Where the transport is what costs: a tiny model, 64 callers and one, beside bare echo servers.

The server has one core, h2load another. The servers take turns; medians of the rounds count.
"""

import argparse
import json
import statistics
from collections.abc import Sequence
from typing import Any

from serving_bare import bare
from serving_harness import (
    LOAD_CORES,
    RESULTS,
    SERVER_CORE,
    Process,
    echo,
    foldserve,
    handwritten,
    record_answer,
    running,
    say,
    total,
)
from serving_load import Load, closed_loop
from serving_models import TINY, Model

CALLERS = 64
SYNC, ASYNCIO, HANDWRITTEN, OURS = "echo, sync", "echo, asyncio", "handwritten", "foldserve"
WARM_UP_S = 1.0


def many_callers(servers: Sequence[Process], model: Model, rounds: int, seconds: float) -> dict[str, Any]:
    """Requests per second and the server's processor time per request, with 64 callers."""
    loads = _in_turns(servers, model, CALLERS, rounds, seconds)
    ours = next(server for server in servers if server.name == OURS)
    batch = mean_batch(ours)
    compute = bare(
        model.file, SERVER_CORE, instances=1, threads=1, batch=max(1, round(batch)), seconds=seconds
    )
    table = {
        name: {
            "requests_per_s": statistics.median(load.rate for load in own),
            "cpu_ms": statistics.median(load.cpu_ms for load in own),
        }
        for name, own in loads.items()
    }
    cpu_ms = {name: row["cpu_ms"] for name, row in table.items()}
    return {
        "callers": CALLERS,
        "servers": table,
        "mean_batch": batch,
        "compute_ms": compute.cpu_ms,
        "cpu_without_compute_relative_to_echo": (cpu_ms[OURS] - compute.cpu_ms) / cpu_ms[SYNC],
        "requests_relative_to_handwritten": table[OURS]["requests_per_s"]
        / table[HANDWRITTEN]["requests_per_s"],
    }


def one_caller(servers: Sequence[Process], model: Model, rounds: int, seconds: float) -> dict[str, Any]:
    """Latency of a single caller, who asks again as soon as it is answered."""
    loads = _in_turns(servers, model, 1, rounds, seconds)
    table = {
        name: {
            f"p{percent}_ms": 1e3 * statistics.median(load.percentile(percent) for load in own)
            for percent in (50, 99)
        }
        for name, own in loads.items()
    }
    return {
        "servers": table,
        "p50_relative_to_echo": table[OURS]["p50_ms"] / table[SYNC]["p50_ms"],
        "p99_relative_to_echo": table[OURS]["p99_ms"] / table[SYNC]["p99_ms"],
    }


def mean_batch(server: Process) -> float:
    """Rows per run of the engine so far."""
    samples = server.metrics()
    runs = total(samples, "foldserve_inference_exec_count_total")
    return total(samples, "foldserve_inference_count_total") / runs


def _in_turns(
    servers: Sequence[Process], model: Model, callers: int, rounds: int, seconds: float
) -> dict[str, list[Load]]:
    request = model.request()
    loads: dict[str, list[Load]] = {server.name: [] for server in servers}
    for number in range(rounds + 1):
        for server in servers:
            load = closed_loop(
                server,
                request,
                server.answer(request),
                callers=callers,
                seconds=seconds if number else WARM_UP_S,
                cores=LOAD_CORES,
                keep_latencies=True,
            )
            if number:
                loads[server.name].append(load)
                say(
                    f"{callers} callers, round {number}, {server.name}: {load.rate:.0f} requests/s, "
                    f"{load.cpu_ms:.3f} ms of CPU each, p50 {1e3 * load.percentile(50):.2f} ms"
                )
    return loads


def main() -> None:
    """Measure and write the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=8, help="of each server in each round")
    arguments = parser.parse_args()
    model = TINY.exported()
    record_answer(model)
    recipes = [echo("sync", model), echo("asyncio", model), handwritten(model, threads=1), foldserve(model)]
    with running(recipes, SERVER_CORE) as servers:
        for server in servers:
            server.answer(model.request())
            if escaped := server.escaped_threads():
                say(f"{server.name}: threads beyond the server's core: {', '.join(escaped)}")
        result = {
            "many_callers": many_callers(servers, model, arguments.rounds, arguments.seconds),
            "one_caller": one_caller(servers, model, arguments.rounds, arguments.seconds),
        }
    say(json.dumps(result, indent=1))
    (RESULTS / "serving_rpc.json").write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
