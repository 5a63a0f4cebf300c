"""One point of a curve: foldserve and its floor asked in turn, round after round."""

import tempfile
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from foldserve_proto import grpc_service_pb2 as pb
from serving_harness import (
    HERE,
    LOAD_CORES,
    OURS,
    PYTHON,
    SERVER_CORE,
    SYNC_ECHO,
    BenchmarkFailed,
    Process,
    Recipe,
    running,
    say,
    total,
)
from serving_load import HTTP_OK, Load, closed_loop, h2load

Result = dict[str, Any]
Ask = Callable[[Process, float], Load]
"""Puts a server under load for so many seconds."""

GONE = ("OK", "CANCELLED")
"""What becomes of requests: h2load leaves some unanswered when its time is up."""


@contextmanager
def floors(responses: Sequence[pb.ModelInferResponse]) -> Iterator[list[Process]]:
    """An echo server on the server's core for each response; all but the one that is asked rest."""
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        recipes = []
        for number, response in enumerate(responses):
            file = Path(folder) / f"{number}.response"
            file.write_bytes(response.SerializeToString())
            command = (PYTHON, str(HERE / "serving_echo.py"), "sync", "{port}", str(file))
            recipes.append(Recipe(SYNC_ECHO, command))
        with running(recipes, SERVER_CORE, pb.ModelInferRequest()) as servers:
            yield servers


def asking(
    request: pb.ModelInferRequest,
    response: pb.ModelInferResponse,
    callers: int,
    cores: Collection[int] = LOAD_CORES,
) -> Ask:
    """Let so many callers ask, from these cores."""

    def ask(server: Process, seconds: float) -> Load:
        return closed_loop(server, request, response, callers=callers, seconds=seconds, cores=cores)

    return ask


def beside_echo(ours: Process, echo: Process, ask: Ask, seconds: float, rounds: int) -> Result:
    """The figures of both servers, rows in a run of our engine, and the ratio of each round.

    The first round only warms up.
    """
    loads: dict[str, list[Load]] = {OURS: [], SYNC_ECHO: []}
    batches = []
    for number in range(rounds + 1):
        load, batch = observed(ours, ask, seconds)
        floor = ask(echo, seconds)
        if number:
            loads[OURS].append(load)
            loads[SYNC_ECHO].append(floor)
            batches.append(batch)
    result = {name: figures(own) for name, own in loads.items()}
    ratios = relative(result[OURS], result[SYNC_ECHO])
    say(f"{summary(result[OURS])}; relative to echo {summary(ratios)}")
    return result | {"relative_to_echo": ratios, "mean_batch": spread(batches)}


def observed(ours: Process, ask: Ask, seconds: float) -> tuple[Load, float]:
    """A load on our server, and the rows in a run of its engine meanwhile."""
    before = ours.metrics()
    load = ask(ours, seconds)
    after = ours.metrics()

    def grown(name: str, **labels: str) -> float:
        return total(after, name, **labels) - total(before, name, **labels)

    requests = "foldserve_requests_total"
    refused = grown(requests) - sum(grown(requests, code=code) for code in GONE)
    if refused:
        raise BenchmarkFailed(f"{refused:.0f} requests were not answered\n{ours.tail()}")
    runs = grown("foldserve_inference_exec_count_total")
    return load, grown("foldserve_inference_count_total") / runs


def figures(loads: Sequence[Load]) -> Result:
    """What the rounds' loads were like."""
    values: dict[str, Callable[[Load], float]] = {
        "requests_per_s": lambda load: load.steady_rate,
        "cpu_ms": lambda load: 1e3 * load.cpu_s / load.seconds / load.steady_rate,
        "p50_ms": lambda load: load.percentile_ms(50),
        "p99_ms": lambda load: load.percentile_ms(99),
    }
    return {name: spread([value(load) for load in loads]) for name, value in values.items()}


def relative(ours: Result, floor: Result) -> Result:
    """Our figures divided by the floor's, round by round."""
    return {
        name: spread([one / other for one, other in zip(own["rounds"], floor[name]["rounds"], strict=True)])
        for name, own in ours.items()
    }


def spread(values: Sequence[float]) -> Result:
    """The rounds' values, to four digits, and their median."""
    rounds = [float(f"{value:.4g}") for value in values]
    return {"median": median(rounds), "rounds": rounds}


def summary(figures: Result) -> str:
    """Medians in a line."""
    return ", ".join(f"{name} {value['median']:.4g}" for name, value in figures.items())


def spread_over(
    requests: Sequence[pb.ModelInferRequest], callers: int, cores: Collection[int] = LOAD_CORES
) -> Ask:
    """Let as many callers as equally as possible ask each request, of which there are no more than callers.

    h2load has one request only, so there is one for each; what counts is the time in which all were at work.
    """
    shares = [
        callers // len(requests) + (number < callers % len(requests)) for number in range(len(requests))
    ]

    def ask(server: Process, seconds: float) -> Load:
        with tempfile.TemporaryDirectory() as scratch, ThreadPoolExecutor(len(requests)) as generators:
            folders = [Path(scratch) / str(number) for number in range(len(requests))]

            def generate(request: pb.ModelInferRequest, share: int, folder: Path) -> Any:
                folder.mkdir()
                options = ["--clients", str(share), "--max-concurrent-streams", "1"]
                options += ["--duration", f"{1e3 * seconds:.0f}ms", "--log-file", str(folder / "log")]
                h2load(server, request, folder, options, cores)

            before = server.cpu_s()
            list(generators.map(generate, requests, shares, folders))
            cpu_s = server.cpu_s() - before
            logs = [_log(folder / "log") for folder in folders]
        return together(logs, cpu_s)

    return ask


def together(logs: Sequence[np.ndarray[Any, np.dtype[np.int64]]], cpu_s: float) -> Load:
    """The load of several generators while all of them were at work.

    ``logs`` are h2load's, int64 [requests, 3]: start in microseconds, HTTP's status, microseconds taken;
    ``cpu_s`` is the server's processor time for all of their requests.
    """
    if not all(map(len, logs)):
        raise BenchmarkFailed("a load generator was never answered: let them work longer")
    began = max(int(log[:, 0].min()) for log in logs)
    ended = min(int((log[:, 0] + log[:, 2]).max()) for log in logs)
    rows = np.concatenate(logs)
    finished = rows[:, 0] + rows[:, 2]
    counted = (rows[:, 1] == HTTP_OK) & (finished >= began) & (finished <= ended)
    if ended <= began or not counted.any():
        raise BenchmarkFailed("the load generators were never all at work at once: let them work longer")
    ends = np.sort(finished[counted])
    share = counted.sum() / len(rows)
    return Load(
        int(counted.sum()),
        (ended - began) / 1e6,
        share * cpu_s,
        rows[counted, 2] / 1e6,
        (ends - ends[0]) / 1e6,
    )


def _log(file: Path) -> np.ndarray[Any, np.dtype[np.int64]]:
    """h2load's log, which is empty if nothing was answered."""
    return np.loadtxt(file, dtype=np.int64, ndmin=2) if file.stat().st_size else np.empty((0, 3), np.int64)
