"""The curves: payload, callers, models, rows in a request, and cores with instances.

The server has one core and the load another, except where the curve is about cores.
"""

import tempfile
import time
from collections.abc import Collection, Sequence
from contextlib import ExitStack
from pathlib import Path

from scaling_models import FOLDER, copies, echoing, echoing_repository, of_rows
from scaling_rounds import (
    Result,
    asking,
    beside_echo,
    figures,
    floors,
    observed,
    relative,
    spread,
    spread_over,
    summary,
)
from serving_bare import Bare, bare
from serving_harness import ALL_CORES, LOAD_CORES, OURS, SERVER_CORE, Process, Recipe, foldserve, running, say
from serving_models import MOBILENET, TINY, Model

KB = 1024
PAYLOADS = tuple(4**power * KB for power in range(8))
"""1 kB to 16 MB in each direction."""

PAYLOAD_CALLERS = {"one_caller": 1, "many_callers": 4}
PAYLOAD_SECONDS = {"one_caller": 0.8, "many_callers": 1.2}
CALLERS = tuple(2**power for power in range(9))
CALLERS_SECONDS = 1.6
LONG_LINE = ("--max-queue-size", "512", "--grpc-workers", "512")
"""Room for all the callers: with what is set as a rule, some of the most would be refused."""

MODELS = (1, 10, 30, 100)
MODELS_CALLERS = 100
MODELS_SECONDS = 2.5
FILLING_S = 900.0
"""Longest that a first start with all the models may take."""

ROWS = tuple(2**power for power in range(7))
ROWS_CALLERS = 8
ROWS_SECONDS = 1.5
INSTANCES = (1, 2, 4)
CORES_CALLERS = {TINY: 64, MOBILENET: 16}
CORES_SECONDS = {TINY: 2.0, MOBILENET: 2.5}


def payload(rounds: int) -> Result:
    """One model for each size, which answers with as many bytes as it was sent; one caller, and several."""
    with running([foldserve(echoing_repository(PAYLOADS))], SERVER_CORE) as (ours,):
        ours.wait_ready()
        requests = [echoing(size).request() for size in PAYLOADS]
        responses = [ours.answer(request) for request in requests]
        points = []
        with floors(responses) as echoes:
            for size, request, response, echo in zip(PAYLOADS, requests, responses, echoes, strict=True):
                point: Result = {"bytes": size}
                for name, callers in PAYLOAD_CALLERS.items():
                    ask, seconds = asking(request, response, callers), PAYLOAD_SECONDS[name]
                    say(f"{size // KB} kB, {callers} callers:")
                    point[name] = beside_echo(ours, echo, ask, seconds, rounds)
                points.append(point)
    return {"callers": PAYLOAD_CALLERS, "points": points}


def concurrency(rounds: int) -> Result:
    """More and more callers of the tiny model."""
    request = TINY.exported().request()
    points = []
    with running([foldserve(TINY.repository, *LONG_LINE)], SERVER_CORE, request) as (ours,):
        response = ours.answer(request)
        with floors([response]) as (echo,):
            for callers in CALLERS:
                say(f"{callers} callers:")
                ask = asking(request, response, callers)
                point = beside_echo(ours, echo, ask, CALLERS_SECONDS, rounds)
                points.append({"callers": callers} | point)
    return {"points": points}


def models(rounds: int) -> Result:
    """More and more models like the tiny one, all of them asked; started from the cache."""
    repository, every = copies(max(MODELS))
    _fill_cache(repository, every)
    points = []
    for count in MODELS:
        chosen = every[:count]
        began = time.perf_counter()
        with running([_server_of(repository, chosen)], SERVER_CORE) as (ours,):
            ours.wait_ready()
            start_s = time.perf_counter() - began
            requests = [model.request() for model in chosen]
            responses = [ours.answer(request) for request in requests]
            ready_mb = ours.rss_bytes() / 1e6
            with floors(responses[:1]) as (echo,):
                say(f"{count} models:")
                ask = spread_over(requests, MODELS_CALLERS)
                point = beside_echo(ours, echo, ask, MODELS_SECONDS, rounds)
            memory = {"start_s": start_s, "ready_mb": ready_mb, "asked_mb": ours.rss_bytes() / 1e6}
            say(str(memory))
        points.append({"models": count} | memory | point)
    return {"callers": MODELS_CALLERS, "points": points}


def _fill_cache(repository: Path, every: Sequence[Model]) -> None:
    """Let each model be folded, proven and measured, unless an earlier run did: what counts comes after."""
    with running([_server_of(repository, every)], SERVER_CORE) as (ours,):
        ours.wait_ready(FILLING_S)


def _server_of(repository: Path, chosen: Sequence[Model]) -> Recipe:
    names = [option for model in chosen for option in ("--load-models", model.name)]
    return foldserve(repository, "--model-control", "explicit", *names, cache=FOLDER / "cache")


def rows(rounds: int) -> Result:
    """More and more rows of the tiny model in one request, beside the session in a loop with as many."""
    single = TINY.exported().request()
    requests = [of_rows(single, number) for number in ROWS]
    points = []
    with running([foldserve(TINY.repository)], SERVER_CORE, single) as (ours,):
        responses = [ours.answer(request) for request in requests]
        with floors(responses) as echoes:
            for number, request, response, echo in zip(ROWS, requests, responses, echoes, strict=True):
                say(f"{number} rows:")
                ask = asking(request, response, ROWS_CALLERS)
                point = beside_echo(ours, echo, ask, ROWS_SECONDS, rounds)
                loops = [_loop(TINY, SERVER_CORE, 1, number, ROWS_SECONDS) for _ in range(rounds)]
                points.append({"rows": number} | point | {"loop": _loop_figures(loops)})
    return {"callers": ROWS_CALLERS, "points": points}


def cores(model: Model, rounds: int) -> Result:
    """One core and all of them, with more and more instances, beside as many loops over sessions.

    On one core the load has the others; on all cores it shares them with the server. The loops have no load.
    """
    request = model.exported().request()
    with tempfile.TemporaryDirectory(prefix="bench-cache-") as cache, ExitStack() as stack:
        servers = [
            (instances, server)
            for own in (SERVER_CORE, ALL_CORES)
            for instances, server in zip(
                INSTANCES,
                stack.enter_context(running(_with_instances(model, own, Path(cache)), own, request)),
                strict=True,
            )
        ]
        points = [_beside_loop(model, server, instances, rounds) for instances, server in servers]
    return {"callers": CORES_CALLERS[model], "points": points}


def _with_instances(model: Model, own: Collection[int], cache: Path) -> list[Recipe]:
    return [
        foldserve(
            model.repository,
            *("--instances", str(instances), "--intra-op-threads", str(_threads(own, instances))),
            cache=cache,
        )
        for instances in INSTANCES
    ]


def _threads(own: Collection[int], instances: int) -> int:
    """Threads in a run, so that all instances together have one for each core, if they can."""
    return max(1, len(own) // instances)


def _beside_loop(model: Model, server: Process, instances: int, rounds: int) -> Result:
    request = model.request()
    response = server.answer(request)
    load_cores = LOAD_CORES if server.cores == SERVER_CORE else server.cores

    ask = asking(request, response, CORES_CALLERS[model], load_cores)

    seconds = CORES_SECONDS[model]
    observations, loops = [], []
    for number in range(rounds + 1):
        observation = observed(server, ask, seconds)
        if number:
            observations.append(observation)
            loops.append(_loop(model, server.cores, instances, 1, seconds))
    ours, floor = figures([load for load, _ in observations]), _loop_figures(loops)
    ratios = relative({name: ours[name] for name in floor}, floor)
    what = f"{model.name}, {len(server.cores)} cores, {instances} instances"
    say(f"{what}: {summary(ours)}; relative to the loop {summary(ratios)}")
    return {
        "cores": len(server.cores),
        "instances": instances,
        "threads": _threads(server.cores, instances),
        OURS: ours,
        "mean_batch": spread([batch for _, batch in observations]),
        "loop": floor,
        "relative_to_loop": ratios,
    }


def _loop(model: Model, own: Collection[int], instances: int, batch: int, seconds: float) -> Bare:
    threads = _threads(own, instances)
    return bare(model.file, own, instances=instances, threads=threads, batch=batch, seconds=seconds)


def _loop_figures(loops: Sequence[Bare]) -> Result:
    """What the loops were like, per run of a batch: what a request of as many rows cannot go below."""
    return {
        "requests_per_s": spread([loop.rate / loop.batch for loop in loops]),
        "cpu_ms": spread([loop.cpu_ms * loop.batch for loop in loops]),
    }
