"""Where the transport is what costs: a tiny model, 64 callers and one, beside bare echo servers.

The server has one core, h2load another. The servers take turns; medians of the rounds count.
"""

import argparse
from collections.abc import Sequence
from statistics import median
from typing import Any

from serving_bare import bare
from serving_harness import (
    HANDWRITTEN,
    LOAD_CORES,
    OURS,
    SERVER_CORE,
    SYNC_ECHO,
    Process,
    echo,
    foldserve,
    handwritten,
    mean_batch,
    record_answer,
    running,
    warn_of_escapes,
    write_result,
)
from serving_load import in_turns, median_ratio
from serving_models import PATCHES, TINY, Model


def many_callers(
    servers: Sequence[Process], model: Model, callers: int, rounds: int, seconds: float
) -> dict[str, Any]:
    """Requests per second, and what they cost the server beyond its model, relative to the echo server."""
    loads = in_turns(servers, model, callers=callers, rounds=rounds, seconds=seconds, cores=LOAD_CORES)
    table = {
        name: {
            "requests_per_s": median(load.rate for load in own),
            "cpu_ms": median(load.cpu_ms for load in own),
            "p50_ms": median(load.percentile_ms(50) for load in own),
            "p99_ms": median(load.percentile_ms(99) for load in own),
        }
        for name, own in loads.items()
    }
    batch = mean_batch(next(server for server in servers if server.name == OURS))
    compute = bare(
        model.file, SERVER_CORE, instances=1, threads=1, batch=max(1, round(batch)), seconds=seconds
    )
    ours, floor, baseline = loads[OURS], loads[SYNC_ECHO], loads[HANDWRITTEN]
    return {
        "callers": callers,
        "servers": table,
        "mean_batch": batch,
        "compute_ms": compute.cpu_ms,
        "cpu_without_compute_relative_to_echo": median_ratio(
            ours, floor, lambda load: load.cpu_ms, less=compute.cpu_ms
        ),
        "p50_relative_to_echo": median_ratio(ours, floor, lambda load: load.percentile_ms(50)),
        "requests_relative_to_handwritten": median_ratio(ours, baseline, lambda load: load.rate),
    }


def beside_echo(model: Model, callers: Sequence[int], rounds: int, seconds: float) -> list[dict[str, Any]]:
    """One measurement for each number of callers, every server new for each."""
    record_answer(model.exported())
    results = []
    for number in callers:
        recipes = [
            echo("sync", model),
            echo("asyncio", model),
            handwritten(model, threads=1),
            foldserve(model.repository),
        ]
        with running(recipes, SERVER_CORE, model.request()) as servers:
            warn_of_escapes(servers)
            results.append(many_callers(servers, model, number, rounds, seconds))
    return results


def main() -> None:
    """Measure and write the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=6, help="of each server in each round")
    parser.add_argument("--large", action="store_true", help="messages of 602 kB, with one caller and 16")
    arguments = parser.parse_args()
    model, callers = (PATCHES, (1, 16)) if arguments.large else (TINY, (1, 64))
    result = beside_echo(model, callers, arguments.rounds, arguments.seconds)
    write_result("serving_rpc_large" if arguments.large else "serving_rpc", {"measurements": result})


if __name__ == "__main__":
    main()
