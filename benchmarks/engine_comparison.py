"""What choosing an engine within a budget brings: at load, served, at the first request, in accuracy.

Each model is served by two servers in turn, on one core: as it comes, and with a relative L2 of 5e-2 allowed
and int8 as one of the precisions. Beside each runs a loop over a session of the engine that it chose.
"""

import argparse
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from engine_first import first_of, first_served
from engine_sessions import Opened, alone, converted, read_images, record_in, repeated
from engine_tables import TABLES
from foldserve.runtime.engines import BY_NAME, baseline
from foldserve.runtime.session import Provider
from foldserve.settings import Precision
from foldserve_proto import grpc_service_pb2 as pb
from foldserve_proto import grpc_service_pb2_grpc as service
from peer_comparison import conditions
from serving_harness import (
    HERE,
    LOAD_CORES,
    SERVER_CORE,
    Process,
    Recipe,
    foldserve,
    mean_batch,
    running,
    say,
    write_result,
)
from serving_load import closed_loop
from serving_models import BUILD, INPUT, MOBILENET, RESNET, TINY, Model

EXAMPLES = HERE.parent / "examples"
DIGITS = "digits"
HELD_OUT = EXAMPLES / "data" / "digits_test.npz"
MODELS: dict[str, Model | None] = {DIGITS: None} | {model.name: model for model in (TINY, MOBILENET, RESNET)}
QUICK = (DIGITS, TINY.name)
CALLERS = 16
LOOKS = 5
"""So often the layouts are timed in turn."""

STARTS = 3
"""So many first requests are looked at of each."""

SAMPLES = 32
"""Seeded images that models with random weights are calibrated on, and compared with."""

DEFAULT, WIDE = "default", "5e-2, int8"
OPTIONS = {
    DEFAULT: (),
    WIDE: (
        *("--parity-relative-l2", "0.05"),
        *(part for precision in Precision for part in ("--precisions", precision)),
    ),
}


@dataclass(frozen=True)
class Budget:
    """How a model is served with a budget, as was found at the first start."""

    recipe: Recipe
    """Starts from the cache by now."""

    entry: Path
    """The folder of that cache."""

    facts: Mapping[str, str]
    """Those of the model's metadata."""

    @property
    def engine(self) -> str:
        """The one that was chosen."""
        return self.facts["engine"]

    @property
    def most_rows(self) -> int:
        """Rows of the largest batch."""
        return int(self.facts["rows_of_a_run"])

    def opened(self, engine: str, samples: Path, rows: int, images: Path | None = None) -> Opened:
        """An engine by itself, as the server would open it, asked the samples or other images."""
        return Opened(
            engine,
            str(self.entry),
            str(converted(self.entry, BY_NAME[engine], samples)),
            str(images or samples),
            rows,
            instances=int(self.facts["instances"]),
            threads=int(self.facts["intra_op_threads"]),
        )


@dataclass(frozen=True)
class Subject:
    """A model in a repository of its own, with samples beside it."""

    name: str

    @property
    def repository(self) -> Path:
        """The repository."""
        return BUILD / "engines" / self.name

    @property
    def samples(self) -> Path:
        """What int8 is calibrated on."""
        return self.repository / self.name / "samples.npz"

    def made(self) -> "Subject":
        """This model, with its files."""
        model, folder = MODELS[self.name], self.samples.parent
        if model is None:
            shutil.copytree(EXAMPLES / "models" / self.name, folder, dirs_exist_ok=True)
        else:
            shutil.copytree(model.exported().file.parent, folder / "1", dirs_exist_ok=True)
            images = np.random.default_rng(0).standard_normal((SAMPLES, *model.shape), np.float32)
            np.savez(self.samples, allow_pickle=False, **{INPUT: images})
        return self

    def request(self, rows: int) -> pb.ModelInferRequest:
        """A request of so many of the samples."""
        name, samples = read_images(self.samples)
        images = repeated(samples, rows)
        tensor = pb.ModelInferRequest.InferInputTensor(name=name, datatype="FP32", shape=images.shape)
        return pb.ModelInferRequest(
            model_name=self.name, inputs=[tensor], raw_input_contents=[images.tobytes()]
        )


def first_start(subject: Subject, budget: str, cache: Path) -> Budget:
    """Have the engines tried, and the choice kept."""
    recipe = foldserve(subject.repository, *OPTIONS[budget], cache=cache)
    with running([recipe], SERVER_CORE) as (server,):
        server.wait_ready()
        facts = _facts(server, subject.name)
    say(f"{subject.name}, {budget}: {facts['engine']}")
    (entry,) = (cache / "models").glob("*/entry.json")
    return Budget(recipe, entry.parent, facts)


def served(subject: Subject, budgets: Mapping[str, Budget], rounds: int, seconds: float) -> dict[str, Any]:
    """Both servers in turn, and the loops beside them; medians of the rounds, and of their ratios."""
    found: dict[str, list[dict[str, float]]] = {name: [] for name in budgets}
    engines = {name: [budget.engine] for name, budget in budgets.items()}
    for number in range(rounds):
        for name, budget in budgets.items():
            measured, answering = _round(subject, budget, seconds)
            found[name].append(measured)
            engines[name].append(answering)
            say(f"{subject.name}, round {number + 1}, {name}: {answering} {measured}")
    return {
        name: {"engine": ", then ".join(dict.fromkeys(engines[name]))} | beside(own, found[DEFAULT])
        for name, own in found.items()
    }


def beside(own: Sequence[Mapping[str, float]], default: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Medians of a server's rounds, of its share of the loops, and of its ratio to the default budget's."""
    return {key: median(one[key] for one in own) for key in ("rows", "served", "bare")} | {
        "relative_to_bare": median(one["served"] / one["bare"] for one in own),
        "relative_to_default": median(
            one["served"] / other["served"] for one, other in zip(own, default, strict=True)
        ),
    }


def _round(subject: Subject, budget: Budget, seconds: float) -> tuple[dict[str, float], str]:
    """Images per second of a server and of a loop over its engine; which engine answers at the end."""
    request = subject.request(rows=1)
    with running([budget.recipe], SERVER_CORE) as (server,):
        response = server.answer(request)
        load = closed_loop(server, request, response, callers=CALLERS, seconds=seconds, cores=LOAD_CORES)
        rows, answering = mean_batch(server), _facts(server, subject.name)["engine"]
    opened = budget.opened(budget.engine, subject.samples, min(CALLERS, budget.most_rows))
    bare = alone("bare", opened, SERVER_CORE, seconds=seconds)
    return {"rows": rows, "served": load.steady_rate, "bare": bare["rate"]}, answering


def first_requests(
    subject: Subject, budgets: Mapping[str, Budget], engines: Sequence[str], rounds: int = STARTS
) -> list[dict[str, Any]]:
    """One row and the largest batch: over servers of the chosen engines, and of sessions of the others."""
    chosen = {budget.engine: budget for budget in reversed(list(budgets.values()))}
    found = []
    for engine in engines:
        budget = chosen.get(engine, budgets[WIDE])
        for rows in dict.fromkeys((1, budget.most_rows)):
            if engine in chosen:
                measured = first_served(budget.recipe, subject.request(rows), rounds)
            else:
                opened = budget.opened(engine, subject.samples, rows)
                measured = [alone("first", opened, SERVER_CORE) for _ in range(rounds)]
            where = {"engine": engine, "through_server": engine in chosen, "rows": rows}
            found.append(where | first_of(measured))
            say(f"{subject.name}, first request: {found[-1]}")
    return found


def _facts(server: Process, model: str) -> dict[str, str]:
    with server.channel() as channel:
        stub = service.GRPCInferenceServiceStub(channel)
        properties = stub.ModelMetadata(pb.ModelMetadataRequest(name=model)).properties
        return {key.removeprefix("foldserve."): value for key, value in properties.items()}


def layouts(subject: Subject, budget: Budget) -> dict[str, float]:
    """Times as fast in blocks of channels as in NCHW, for one row and for the largest batch."""
    engine = baseline(Provider.CPU).name
    return {
        str(rows): alone("blocked", budget.opened(engine, subject.samples, rows), SERVER_CORE, rounds=LOOKS)[
            "speedup"
        ]
        for rows in dict.fromkeys((1, budget.most_rows))
    }


def accuracy(subject: Subject, budget: Budget, engine: str) -> float:
    """Share of the held-out digits that an engine reads right."""
    opened = budget.opened(engine, subject.samples, budget.most_rows, HELD_OUT)
    return alone("accuracy", opened, SERVER_CORE)["accuracy"]


def compared(subject: Subject, rounds: int, seconds: float) -> dict[str, Any]:
    """All about one model."""
    with TemporaryDirectory(prefix="bench-engines-") as scratch:
        caches = {name: Path(scratch, str(number)) for number, name in enumerate(OPTIONS)}
        budgets = {name: first_start(subject, name, cache) for name, cache in caches.items()}
        report = record_in(budgets[WIDE].entry).engines
        engines = [trial.engine for trial in report.trials if not trial.failure]
        result = {
            "engines": report.model_dump(mode="json"),
            "served": served(subject, budgets, rounds, seconds),
            "layouts": layouts(subject, budgets[DEFAULT]),
            "first": first_requests(subject, budgets, engines),
        }
        if subject.name == DIGITS:
            result["accuracy"] = {engine: accuracy(subject, budgets[WIDE], engine) for engine in engines}
        return result


def main() -> None:
    """Measure and write the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=4, help="of each server and each loop in each round")
    parser.add_argument("--quick", action="store_true", help="a trial: the small models, one round, not kept")
    given = parser.parse_args()
    names, rounds, seconds = (QUICK, 1, 2.0) if given.quick else (given.models, given.rounds, given.seconds)
    models = {name: compared(Subject(name).made(), rounds, seconds) for name in names}
    result = {"processor": conditions()["processor"], "callers": CALLERS, "models": models}
    say("\n\n".join(table(result) for table in TABLES.values()))
    if not given.quick:
        write_result("engines", result)


if __name__ == "__main__":
    main()
