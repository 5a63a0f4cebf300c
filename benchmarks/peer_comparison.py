"""foldserve beside what users would pick instead: ``peer_comparison.py [--peers Triton] [--models tiny]``.

The same model, the same image in every request, one core for the server and the others for the load;
foldserve and one peer run side by side and are asked in turn. What is measured is added to
results/peers.json.
"""

import argparse
import datetime
import json
import os
import platform
import tempfile
import time
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from numpy.typing import NDArray
from peer_load import closed_loop
from peer_recipes import FOLDSERVE, PEERS, Peer, environment, requirements
from peer_servers import Exchange, Tree
from serving_bare import bare
from serving_harness import (
    LOAD_CORES,
    OURS,
    RESULTS,
    SERVER_CORE,
    SYNC_ECHO,
    BenchmarkFailed,
    Recipe,
    busy_s,
    record_answer,
    say,
)
from serving_load import Load
from serving_models import MOBILENET, RESNET, TINY, Model

RESULT = RESULTS / "peers.json"
CALLERS = {TINY: 64, MOBILENET: 16, RESNET: 16}
SECONDS = {TINY: 3.0, MOBILENET: 4.0, RESNET: 7.0}
"""How long each server is asked in each round."""

ROUNDS = {TINY: 3, MOBILENET: 2, RESNET: 2}
WARM_UP_S = {TINY: 2.0, MOBILENET: 2.0, RESNET: 4.0}
NEAR = 1e-4
"""Largest relative L2 distance of a peer's answer from the model's own; half precision would be beyond."""


@dataclass(frozen=True)
class Started:
    """A server that has answered."""

    peer: Peer
    server: Tree
    exchange: Exchange
    size: int
    """Bytes of an answer."""

    start_s: float


def started(
    peer: Peer, model: Model, expected: NDArray[np.float32], folder: Path, stack: ExitStack
) -> Started:
    """Start a server, check its first answer, and stop it with ``stack``."""
    command = tuple(peer.command(model, environment(peer)))
    exchange = peer.exchange(model)
    server = Tree(Recipe(peer.name, command), SERVER_CORE, folder / f"{peer.name}.log")
    stack.callback(server.stop)
    answer = server.ask(exchange)
    start_s = time.monotonic() - server.started
    scores = exchange.decode(answer).ravel()
    if peer.name != SYNC_ECHO:
        distance = float(np.linalg.norm(scores - expected) / np.linalg.norm(expected))
        if not distance <= NEAR:
            raise BenchmarkFailed(f"{peer.name} answers {scores} instead of {expected}")
    return Started(peer, server, exchange, len(answer), start_s)


def compare(peer: Peer, model: Model, expected: NDArray[np.float32]) -> dict[str, Any]:
    """foldserve and the peer side by side, asked in turn."""
    environment(peer)
    with tempfile.TemporaryDirectory(prefix="peers-") as logs, ExitStack() as stack:
        pair = [started(one, model, expected, Path(logs), stack) for one in (FOLDSERVE, peer)]
        loads: list[list[Load]] = [[], []]
        since, busy_before = time.monotonic(), busy_s() - _own_s(pair)
        for number in range(ROUNDS[model] + 1):
            for one, other, own in zip(pair, reversed(pair), loads, strict=True):
                with other.server.halted() if other.peer.halts else nullcontext():
                    load = closed_loop(
                        one.server,
                        one.exchange,
                        size=one.size,
                        callers=CALLERS[model],
                        seconds=SECONDS[model] if number else WARM_UP_S[model],
                        cores=LOAD_CORES,
                    )
                if number:
                    own.append(load)
        others = (busy_s() - _own_s(pair) - busy_before) / (time.monotonic() - since)
        ours, theirs = (_figures(one, own) for one, own in zip(pair, loads, strict=True))
    ratio = median(mine.steady_rate / other.steady_rate for mine, other in zip(*loads, strict=True))
    say(f"{model.name}: {peer.name} {theirs['requests_per_s']:.0f}/s, {OURS} {ours['requests_per_s']:.0f}/s")
    return {"front": peer.front, "ratio": ratio, "foldserve": ours, "peer": theirs, "others_cores": others}


def _own_s(pair: list[Started]) -> float:
    """Processor time so far of what this measurement runs; what else the machine does is others'."""
    return sum(os.times()[:4]) + sum(one.server.cpu_s() for one in pair)


def _figures(one: Started, loads: list[Load]) -> dict[str, float]:
    return {
        "requests_per_s": median(load.steady_rate for load in loads),
        "p50_ms": median(load.percentile_ms(50) for load in loads),
        "p99_ms": median(load.percentile_ms(99) for load in loads),
        "cpu_ms": median(1e3 * load.cpu_s / load.seconds / load.steady_rate for load in loads),
        "memory_mb": one.server.memory_bytes() / 1e6,
        "start_s": one.start_s,
    }


def own_answer(model: Model) -> NDArray[np.float32]:
    """What the model says of the request's image, without any optimisation of the graph."""
    import onnxruntime  # noqa: PLC0415  # only after the environment says that it may not phone home

    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(str(model.file), options, providers=["CPUExecutionProvider"])
    image = np.frombuffer(model.request().raw_input_contents[0], np.float32).reshape(1, *model.shape)
    scores: NDArray[np.float32] = session.run(None, {session.get_inputs()[0].name: image})[0].ravel()
    return scores


def loop(model: Model) -> dict[str, Any]:
    """The session in a loop on the same core, at the best of three batch sizes: what no server can exceed."""
    runs = [bare(model.file, SERVER_CORE, instances=1, threads=1, batch=n, seconds=2) for n in (1, 8, 32)]
    best = max(runs, key=lambda run: run.rate)
    return {"images_per_s": best.rate, "batch": best.batch, "cpu_ms": best.cpu_ms}


def conditions() -> dict[str, Any]:
    """The machine and what ran on it."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    processor = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "?")
    return {
        "processor": processor,
        "cores": len(os.sched_getaffinity(0)),
        "system": platform.platform(),
        "python": platform.python_version(),
        "onnxruntime": version("onnxruntime-gpu"),
        "grpcio": version("grpcio"),
        "peers": {peer.name: requirements(peer) for peer in PEERS.values() if peer.environment},
    }


def keep(model: Model, name: str, entry: dict[str, Any]) -> None:
    """Add what was measured to the result, in place of what was measured before."""
    result = json.loads(RESULT.read_text()) if RESULT.exists() else {"models": {}}
    result["conditions"] = conditions()
    today = datetime.datetime.now(datetime.UTC).date().isoformat()
    entries = result["models"].setdefault(model.name, {"callers": CALLERS[model], "servers": {}})
    entries["servers"][name] = entry | {"date": today}
    RESULT.write_text(json.dumps(result, indent=1) + "\n")


def main() -> None:
    """Measure pair after pair; what does not install or start is kept with the reason."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--peers", nargs="+", choices=PEERS, default=list(PEERS))
    names = {model.name: model for model in CALLERS}
    parser.add_argument("--models", nargs="+", choices=names, default=list(names))
    parser.add_argument("--loop", action="store_true", help="measure only the session in a loop")
    arguments = parser.parse_args()
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"
    for model in (names[name].exported() for name in arguments.models):
        if arguments.loop:
            keep(model, "session loop", {"loop": loop(model)})
            continue
        expected = own_answer(model)
        if SYNC_ECHO in arguments.peers:
            record_answer(model)
        for peer in (PEERS[name] for name in arguments.peers):
            try:
                keep(model, peer.name, compare(peer, model, expected))
            except BenchmarkFailed as failure:
                say(f"{model.name}: {peer.name} failed: {failure}")
                keep(model, peer.name, {"front": peer.front, "failed": str(failure)})


if __name__ == "__main__":
    main()
