"""An engine by itself, opened as the server opens it: ``engine_sessions.py TASK ARGUMENTS``, these as JSON.

Each task runs in a process of its own on chosen cores, so that no engine profits from what another one left.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Collection
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from statistics import median

import numpy as np
from foldserve.disk_cache import read_entry
from foldserve.errors import ExecutionFailed
from foldserve.parity.probes import LARGEST_BATCH, ProbeSet
from foldserve.parity.report import ProbeSource
from foldserve.runtime.engines import BY_NAME, Engine
from foldserve.runtime.session import Session, Shrinking
from foldserve.runtime.tuning import Layout
from foldserve.serving.artefacts import MODEL, Artefact, evidence_in, file_of
from foldserve.serving.conversion import convert
from foldserve.serving.ladder import Optimisation
from foldserve.serving.opening import Opening
from foldserve.settings import ModelSettings
from numpy.typing import NDArray
from serving_bare import looped
from serving_harness import PYTHON, BenchmarkFailed, cpu_list

Images = NDArray[np.float32]

LOOK_S = 0.3
"""Length of a look at a session beside another."""

NEXT, LONGEST_S, FEWEST = 50, 3.0, 5
"""Calls after the first one: so many, or as many as there is time for, but not fewer than a few."""


@dataclass(frozen=True)
class Opened:
    """What is opened, and what it is asked."""

    engine: str
    entry: str
    """The cache's folder of the model that was proven."""

    file: str
    """What the engine runs: the model there, or a conversion of it."""

    images: str
    """What it is asked: an ``.npz`` with the model's only input."""

    rows: int
    """Of each run."""

    instances: int = 1
    threads: int = 1


def alone(task: str, opened: Opened, cores: Collection[int], **arguments: float) -> dict[str, float]:
    """Do a task on these cores in a process of its own."""
    given = json.dumps({"opened": asdict(opened), "arguments": arguments})
    run = subprocess.run(
        ["taskset", "-c", cpu_list(cores), PYTHON, __file__, task, given],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        env=os.environ | {"ORT_DISABLE_TELEMETRY": "1"},
    )
    answer: dict[str, float] = json.loads(run.stdout)
    return answer


def record_in(entry: Path) -> Artefact:
    """What the cache keeps of a model."""
    artefact = read_entry(entry, Artefact)
    if artefact is None:
        raise BenchmarkFailed(f"{entry} holds no model")
    return artefact


def converted(entry: Path, engine: Engine, samples: Path) -> Path:
    """What an engine runs of the model in ``entry``: made where the choice left it out."""
    file = entry / file_of(engine)
    if not file.exists():
        name, images = read_images(samples)
        starts = range(0, len(images), LARGEST_BATCH)
        probes = tuple({name: images[start : start + LARGEST_BATCH]} for start in starts)
        convert(entry / MODEL, engine.precision, ProbeSet(ProbeSource.SAMPLES, probes), file)
    return file


def read_images(file: Path) -> tuple[str, Images]:
    """The model's only input: its name, and the images [n, ...]."""
    with np.load(file) as archive:
        name = archive.files[0]
        return name, archive[name]


def repeated(images: Images, rows: int) -> Images:
    """So many rows, those of ``images`` again and again."""
    return images[np.arange(rows) % len(images)]


def first_and_next(
    ask: Callable[[], object], *, most: int = NEXT, fewest: int = FEWEST, longest_s: float = LONGEST_S
) -> dict[str, float]:
    """Seconds of the first call, the median of the next ones, and how many these are."""
    seconds: list[float] = []
    until = time.perf_counter() + longest_s
    while len(seconds) <= fewest or (len(seconds) <= most and time.perf_counter() < until):
        started = time.perf_counter()
        ask()
        seconds.append(time.perf_counter() - started)
    first, *others = seconds
    return {"first_s": first, "next_s": median(others), "count": len(others)}


def _session(opened: Opened, optimisation: Optimisation | None = None) -> Session:
    """The session, after what the server does with it before it takes requests."""
    entry = Path(opened.entry)
    session = Opening(opened.engine, ModelSettings()).open_engine(
        BY_NAME[opened.engine],
        Path(opened.file),
        Layout(instances=opened.instances, threads=opened.threads),
        optimisation or record_in(entry).optimisation,
        warm_rows=opened.rows,
    )
    evidence = evidence_in(entry)
    if evidence is not None:
        session.run(evidence.probe)
        if isinstance(session, Shrinking):
            with suppress(ExecutionFailed):
                session.shrink(evidence.probe)
    return session


def bare(opened: Opened, seconds: float) -> dict[str, float]:
    """Images per second of a loop over the session."""
    session = _session(opened)
    name, images = read_images(Path(opened.images))
    run = partial(session.run, {name: repeated(images, opened.rows)})
    done = looped([run] * opened.instances, opened.threads, opened.rows, seconds)
    return {"rate": done.rate, "cpu_ms": done.cpu_ms}


def first(opened: Opened) -> dict[str, float]:
    """The first run beside the next ones."""
    session = _session(opened)
    name, images = read_images(Path(opened.images))
    return first_and_next(partial(session.run, {name: repeated(images, opened.rows)}))


def blocked(opened: Opened, rounds: int) -> dict[str, float]:
    """Times as fast with ONNX Runtime's blocks of channels (NCHWc) as in NCHW, measured in turn."""
    name, images = read_images(Path(opened.images))
    inputs = {name: repeated(images, opened.rows)}
    sessions = [_session(opened, form) for form in (Optimisation.SOUND, Optimisation.PRECISE)]
    rounds_s = [
        [first_and_next(partial(session.run, inputs), longest_s=LOOK_S)["next_s"] for session in sessions]
        for _ in range(rounds)
    ]
    return {"speedup": median(plain_s / blocks_s for blocks_s, plain_s in rounds_s)}


def accuracy(opened: Opened) -> dict[str, float]:
    """Share of the images whose arg-max is their label, which lies beside them; ``rows`` at a time."""
    session = _session(opened)
    name, images = read_images(Path(opened.images))
    with np.load(opened.images) as archive:
        labels = archive["labels"]
    right = 0
    for start in range(0, len(images), opened.rows):
        batch = slice(start, start + opened.rows)
        (logits,) = session.run({name: images[batch]})
        right += int((logits.argmax(axis=1) == labels[batch]).sum())
    return {"accuracy": right / len(images)}


TASKS: dict[str, Callable[..., dict[str, float]]] = {
    "bare": bare,
    "first": first,
    "blocked": blocked,
    "accuracy": accuracy,
}


if __name__ == "__main__":
    task, text = sys.argv[1:]
    given = json.loads(text)
    sys.stdout.write(json.dumps(TASKS[task](Opened(**given["opened"]), **given["arguments"])))
