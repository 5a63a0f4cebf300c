"""Where computing is what costs: throughput with 16 callers beside a bare loop over ONNX Runtime sessions.

Everybody has all cores, the callers included. First the best of the bare loop's settings is searched for,
then the bare loop and the servers take turns; medians of the rounds count.
"""

import argparse
from statistics import median
from typing import Any

from serving_bare import Bare, bare, settings
from serving_harness import (
    ALL_CORES,
    OURS,
    Recipe,
    foldserve,
    handwritten,
    mean_batch,
    record_answer,
    running,
    say,
    write_result,
)
from serving_load import Load, closed_loop
from serving_models import MOBILENET, RESNET, Model

CALLERS = 16
BATCHES = (1, 2, 4, 8, 16)


def limit(model: Model, seconds: float) -> Bare:
    """The fastest bare loop of all its instances, threads and batch sizes."""
    tried = []
    for instances, threads in settings(len(ALL_CORES)):
        for batch in BATCHES:
            one = bare(
                model.file,
                ALL_CORES,
                instances=instances,
                threads=threads,
                batch=batch,
                seconds=seconds,
            )
            say(
                f"{model.name}, bare: {instances} × {threads} threads, batch {batch}: {one.rate:.1f} images/s"
            )
            tried.append(one)
    return max(tried, key=lambda one: one.rate)


def beside_limit(model: Model, rounds: int, seconds: float, search_s: float) -> dict[str, Any]:
    """Throughput of the servers and of the best bare loop."""
    record_answer(model.exported())
    best = limit(model, search_s)
    bares = []
    loads: dict[str, list[Load]] = {}
    batches = []
    for number in range(rounds):
        again = bare(
            model.file,
            ALL_CORES,
            instances=best.instances,
            threads=best.threads,
            batch=best.batch,
            seconds=seconds,
        )
        bares.append(again)
        for recipe in (handwritten(model, threads=len(ALL_CORES)), foldserve(model.repository)):
            load, batch = _served(recipe, model, seconds)
            loads.setdefault(recipe.name, []).append(load)
            if batch is not None:
                batches.append(batch)
        rates = {name: round(own[-1].steady_rate, 1) for name, own in loads.items()}
        say(f"{model.name}, round {number + 1}: bare {again.rate:.1f} images/s, {rates}")
    return {
        "cores": len(ALL_CORES),
        "callers": CALLERS,
        "bare": {"instances": best.instances, "threads": best.threads, "batch": best.batch},
        "bare_images_per_s": median(one.rate for one in bares),
        "served_images_per_s": {
            name: median(load.steady_rate for load in own) for name, own in loads.items()
        },
        "mean_batch": median(batches),
        "relative_to_bare": {
            name: median(load.steady_rate / one.rate for load, one in zip(own, bares, strict=True))
            for name, own in loads.items()
        },
        "cpu_relative_to_bare": {
            name: median(load.cpu_ms / one.cpu_ms for load, one in zip(own, bares, strict=True))
            for name, own in loads.items()
        },
    }


def _served(recipe: Recipe, model: Model, seconds: float) -> tuple[Load, float | None]:
    """A load on a server that has the machine to itself, and the mean batch where the server knows it."""
    request = model.request()
    with running([recipe], ALL_CORES) as (server,):
        response = server.answer(request)
        load = closed_loop(server, request, response, callers=CALLERS, seconds=seconds, cores=ALL_CORES)
        return load, mean_batch(server) if recipe.name == OURS else None


def main() -> None:
    """Measure and write the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=20, help="of each server in each round")
    parser.add_argument("--search-seconds", type=float, default=4, help="of each setting of the bare loop")
    given = parser.parse_args()
    result = {
        model.name: beside_limit(model, given.rounds, given.seconds, given.search_seconds)
        for model in (MOBILENET, RESNET)
    }
    write_result("serving_compute", {"models": result})


if __name__ == "__main__":
    main()
