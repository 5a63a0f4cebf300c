"""Compute's limit: a bare loop over ONNX Runtime sessions, without any server.

Run as ``serving_bare.py MODEL INSTANCES THREADS BATCH SECONDS`` it prints what it did as JSON.
"""

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import numpy as np
from serving_harness import PYTHON, cpu_list


@dataclass(frozen=True)
class Bare:
    """What a bare loop did."""

    instances: int
    """Sessions, each with a loop of its own."""

    threads: int
    """Threads within each run."""

    batch: int
    rate: float
    """Images per second, of all loops together."""

    cpu_ms: float
    """Processor time per image, in milliseconds."""


def bare(
    model: Path, cores: Collection[int], *, instances: int, threads: int, batch: int, seconds: float
) -> Bare:
    """Loop over the model for so many seconds, in a process of its own on these cores."""
    arguments = [str(model), *map(str, (instances, threads, batch, seconds))]
    run = subprocess.run(
        ["taskset", "-c", cpu_list(cores), PYTHON, __file__, *arguments],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        env=os.environ | {"ORT_DISABLE_TELEMETRY": "1"},
    )
    return Bare(**json.loads(run.stdout))


def settings(cores: int) -> list[tuple[int, int]]:
    """Every sensible (instances, threads) on so many cores: all of them in use, none twice."""
    return [(instances, cores // instances) for instances in range(1, cores + 1) if cores % instances == 0]


def measure(model: str, instances: int, threads: int, batch: int, seconds: float) -> Bare:
    """Loop over sessions of ``model``."""
    import onnxruntime  # noqa: PLC0415  # whoever only calls bare() needs none

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    sessions = [
        onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        for _ in range(instances)
    ]
    (spec,) = sessions[0].get_inputs()
    feed = {spec.name: np.random.default_rng(0).standard_normal((batch, *spec.shape[1:]), np.float32)}
    return looped([partial(session.run, None, feed) for session in sessions], threads, batch, seconds)


def looped(runs: Sequence[Callable[[], object]], threads: int, batch: int, seconds: float) -> Bare:
    """Loop over ``runs`` side by side; one of each to warm up comes before the clock starts.

    Each takes ``batch`` images, and ``threads`` threads.
    """
    images = [0] * len(runs)
    rates = [0.0] * len(runs)
    for run in runs:
        run()

    def loop(number: int) -> None:
        started = time.perf_counter()
        while (now := time.perf_counter()) < started + seconds:
            runs[number]()
            images[number] += batch
        rates[number] = images[number] / (now - started)

    cpu_s = time.process_time()
    loops = [threading.Thread(target=loop, args=(number,)) for number in range(len(runs))]
    for thread in loops:
        thread.start()
    for thread in loops:
        thread.join()
    cpu_s = time.process_time() - cpu_s
    return Bare(len(runs), threads, batch, sum(rates), 1e3 * cpu_s / sum(images))


if __name__ == "__main__":
    file, *numbers, duration = sys.argv[1:]
    result = measure(file, *map(int, numbers), seconds=float(duration))  # type: ignore[misc]  # mypy counts a starred map as any number
    sys.stdout.write(json.dumps(asdict(result)))
