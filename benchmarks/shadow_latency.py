"""What comparing answers in service costs those who ask: latency with the shadow, beside that without.

Four servers of one model, in turn on one core: without a shadow twice (how far apart the same thing is tells
what noise is), with the shadow as it comes, and with every request sampled. Requests come evenly spaced, at
half of what the first server can do.
"""

import argparse
import json
from dataclasses import replace
from statistics import median
from typing import Any

import numpy as np
from serving_harness import (
    LOAD_CORES,
    SERVER_CORE,
    Process,
    Recipe,
    foldserve,
    record_answer,
    running,
    say,
    total,
    write_result,
)
from serving_load import closed_loop
from serving_models import MOBILENET, TINY, Model
from serving_open_loop import open_loop

OFF, OFF_AGAIN, DEFAULT, ALL = "off", "off, again", "1 % (default)", "100 %"
OPTIONS = {
    OFF: ("--shadow-sample-rate", "0"),
    OFF_AGAIN: ("--shadow-sample-rate", "0"),
    DEFAULT: (),
    ALL: ("--shadow-sample-rate", "1"),
}
CALLERS, CONNECTIONS = 16, 8
LOAD = 0.5
PERCENTILES = (50, 99, 99.9)
CHECKS = "foldserve_parity_checks_total"


def recipes(model: Model) -> list[Recipe]:
    """The four servers; all have to find the same, so none measures instances and threads for itself."""
    layout = ("--instances", "1", "--intra-op-threads", "1")
    return [
        replace(foldserve(model.repository, *layout, *options), name=name)
        for name, options in OPTIONS.items()
    ]


def latencies(server: Process, model: Model, rate: float, seconds: float) -> dict[str, float]:
    """Percentiles in milliseconds, and how many requests were not answered."""
    outcomes = open_loop(
        server.port,
        model.request(),
        rate=rate,
        seconds=seconds,
        connections=CONNECTIONS,
        cores=LOAD_CORES,
    )
    answered = [1e3 * outcome.latency_s for outcome in outcomes if outcome.code == "OK"]
    row = {f"p{percent}_ms": float(np.percentile(answered, percent)) for percent in PERCENTILES}
    return row | {"not_ok": sum(outcome.code != "OK" for outcome in outcomes)}


def measure(model: Model, rounds: int, seconds: float) -> dict[str, Any]:
    """All four in turn, several rounds: medians, and each round's ratio to the first server."""
    record_answer(model)
    rows: dict[str, list[dict[str, float]]] = {name: [] for name in OPTIONS}
    checks: dict[str, dict[str, float]] = {}
    with running(recipes(model), SERVER_CORE, model.request()) as servers:
        request = model.request()
        capacity = closed_loop(
            servers[0], request, servers[0].answer(request), callers=CALLERS, seconds=3.0, cores=LOAD_CORES
        ).rate
        for number in range(rounds):
            for server in servers[number % 4 :] + servers[: number % 4]:
                rows[server.name].append(latencies(server, model, LOAD * capacity, seconds))
                say(f"{model.name}, round {number + 1}, {server.name}: {json.dumps(rows[server.name][-1])}")
        for server in servers:
            samples = server.metrics()
            results = ("ok", "breach", "dropped", "error")
            checks[server.name] = {result: total(samples, CHECKS, result=result) for result in results}
    return {
        "requests_per_s": LOAD * capacity,
        "servers": {
            name: {key: median(row[key] for row in own) for key in own[0]}
            | {
                f"{key}_relative_to_off": median(
                    row[key] / off[key] for row, off in zip(own, rows[OFF], strict=True)
                )
                for key in ("p50_ms", "p99_ms")
            }
            | {"checks": checks[name]}
            for name, own in rows.items()
        },
    }


def main() -> None:
    """Measure and write the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=6, help="of each server in each round")
    arguments = parser.parse_args()
    models = {
        model.name: measure(model.exported(), arguments.rounds, arguments.seconds)
        for model in (TINY, MOBILENET)
    }
    write_result("shadow_latency", {"load": LOAD, "models": models})


if __name__ == "__main__":
    main()
