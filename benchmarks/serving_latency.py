"""The tail of the latency at 70 % of what a server can do: a tiny model, requests evenly spaced.

The server has one core, the generator another. The servers take turns, each at 70 % of its own capacity,
which is what 64 callers get out of it in the same round; medians of the rounds count.
"""

import argparse
from statistics import median
from typing import Any

import numpy as np
from serving_harness import (
    LOAD_CORES,
    SERVER_CORE,
    Process,
    echo,
    foldserve,
    handwritten,
    record_answer,
    running,
    say,
    warn_of_escapes,
    write_result,
)
from serving_load import closed_loop
from serving_models import TINY, Model
from serving_open_loop import open_loop

CALLERS = 64
CONNECTIONS = 16
LOAD = 0.7
PERCENTILES = (50, 99, 99.9)


def at_part_load(server: Process, model: Model, seconds: float) -> dict[str, float]:
    """Percentiles of the latency in milliseconds, how late the generator itself was, and what failed."""
    request = model.request()
    response = server.answer(request)
    capacity = closed_loop(
        server, request, response, callers=CALLERS, seconds=min(3.0, seconds), cores=LOAD_CORES
    ).rate
    outcomes = open_loop(
        server.port,
        request,
        rate=LOAD * capacity,
        seconds=seconds,
        connections=CONNECTIONS,
        cores=LOAD_CORES,
    )
    latencies = [1e3 * outcome.latency_s for outcome in outcomes if outcome.code == "OK"]
    row = {f"p{percent}_ms": float(np.percentile(latencies, percent)) for percent in PERCENTILES}
    row["p99.9_relative_to_p50"] = row["p99.9_ms"] / row["p50_ms"]
    row["generator_late_p99_ms"] = 1e3 * float(np.percentile([outcome.late_s for outcome in outcomes], 99))
    row["not_ok"] = sum(outcome.code != "OK" for outcome in outcomes)
    return {"requests_per_s": LOAD * capacity} | row


def main() -> None:
    """Measure and write the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=10, help="of each server in each round")
    arguments = parser.parse_args()
    model = TINY.exported()
    record_answer(model)
    rows: dict[str, list[dict[str, float]]] = {}
    recipes = [echo("sync", model), handwritten(model, threads=1), foldserve(model.repository)]
    with running(recipes, SERVER_CORE, model.request()) as servers:
        warn_of_escapes(servers)
        for number in range(arguments.rounds):
            for server in servers:
                row = at_part_load(server, model, arguments.seconds)
                rows.setdefault(server.name, []).append(row)
                say(f"round {number + 1}, {server.name}: {row}")
    table: dict[str, Any] = {
        name: {key: median(row[key] for row in own) for key in own[0]} for name, own in rows.items()
    }
    write_result("serving_latency", {"load": LOAD, "servers": table})


if __name__ == "__main__":
    main()
