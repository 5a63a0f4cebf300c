"""Where computing is what costs: throughput with 16 callers beside a bare loop over ONNX Runtime sessions.

Once with the server on one core and the callers on the others, and once with both on all cores; the bare loop
has those of the server. First the best of its settings is searched for, then it and the servers take turns;
medians of the rounds count. What the transport alone takes of those cores, the echo server tells; what
comparing answers in service takes, a second server of ours that compares none.
"""

import argparse
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from statistics import median
from typing import Any

from serving_bare import Bare, bare, settings
from serving_harness import (
    ALL_CORES,
    LOAD_CORES,
    OURS,
    SERVER_CORE,
    SYNC_ECHO,
    Recipe,
    echo,
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
NOT_COMPARING = "foldserve, nothing compared"
CORES = {"apart": (SERVER_CORE, LOAD_CORES), "together": (ALL_CORES, ALL_CORES)}
"""Cores of the server and of its callers."""


def limit(model: Model, cores: Collection[int], seconds: float) -> Bare:
    """The fastest bare loop of all its instances, threads and batch sizes."""
    tried = []
    for instances, threads in settings(len(cores)):
        for batch in BATCHES:
            one = bare(
                model.file,
                cores,
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


def beside_limit(
    model: Model, placement: str, rounds: int, seconds: float, search_s: float
) -> dict[str, Any]:
    """Throughput of the servers and of the best bare loop."""
    cores, callers_cores = CORES[placement]
    best = limit(model, cores, search_s)
    bares = []
    loads: dict[str, list[Load]] = {}
    batches = []
    recipes = (
        echo("sync", model),
        handwritten(model, threads=len(cores)),
        foldserve(model.repository),
        replace(foldserve(model.repository, "--shadow-reference", "off"), name=NOT_COMPARING),
    )
    for number in range(rounds):
        again = bare(
            model.file,
            cores,
            instances=best.instances,
            threads=best.threads,
            batch=best.batch,
            seconds=seconds,
        )
        bares.append(again)
        for recipe in recipes:
            load, batch = _served(recipe, model, seconds, cores, callers_cores)
            loads.setdefault(recipe.name, []).append(load)
            if batch is not None:
                batches.append(batch)
        rates = {name: round(own[-1].steady_rate, 1) for name, own in loads.items()}
        say(f"{model.name}, {placement}, round {number + 1}: bare {again.rate:.1f} images/s, {rates}")
    transport = loads.pop(SYNC_ECHO)
    return {
        "cores": len(cores),
        "callers": CALLERS,
        "bare": {"instances": best.instances, "threads": best.threads, "batch": best.batch},
        "bare_images_per_s": median(one.rate for one in bares),
        "bare_cpu_ms": median(one.cpu_ms for one in bares),
        "echo_cpu_ms": median(load.cpu_ms for load in transport),
        "possible_relative_to_bare": median(
            one.cpu_ms / (one.cpu_ms + load.cpu_ms) for load, one in zip(transport, bares, strict=True)
        ),
        "served_images_per_s": {
            name: median(load.steady_rate for load in own) for name, own in loads.items()
        },
        "mean_batch": median(batches),
        "relative_to_bare": _median_of_rounds(loads, bares, lambda load, one: load.steady_rate / one.rate),
        "cpu_relative_to_bare": _median_of_rounds(loads, bares, lambda load, one: load.cpu_ms / one.cpu_ms),
    }


def _median_of_rounds(
    loads: Mapping[str, Sequence[Load]], bares: Sequence[Bare], figure: Callable[[Load, Bare], float]
) -> dict[str, float]:
    return {name: median(map(figure, own, bares)) for name, own in loads.items()}


def _served(
    recipe: Recipe, model: Model, seconds: float, cores: Collection[int], callers_cores: Collection[int]
) -> tuple[Load, float | None]:
    """A load on a server that has its cores to itself, and the mean batch where the server knows it."""
    request = model.request()
    with running([recipe], cores) as (server,):
        response = server.answer(request)
        load = closed_loop(server, request, response, callers=CALLERS, seconds=seconds, cores=callers_cores)
        return load, mean_batch(server) if recipe.name == OURS else None


def main() -> None:
    """Measure and write the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=20, help="of each server in each round")
    parser.add_argument("--search-seconds", type=float, default=4, help="of each setting of the bare loop")
    given = parser.parse_args()
    result = {}
    for model in (MOBILENET, RESNET):
        record_answer(model.exported())
        result[model.name] = {
            placement: beside_limit(model, placement, given.rounds, given.seconds, given.search_seconds)
            for placement in CORES
        }
    write_result("serving_compute", {"models": result})


if __name__ == "__main__":
    main()
