"""What it takes to load: beside making a bare ONNX Runtime session, and at the second start beside the first.

*Loading* is the sum of the server's own stages, tuning excluded: that is chosen by taking time to measure. A
*start* is the time from the command to the moment when the server is ready.
"""

import argparse
import json
import os
import subprocess
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

from serving_harness import ALL_CORES, HERE, PYTHON, foldserve, running, say, write_result
from serving_models import RESNET

EXAMPLES = HERE.parent / "examples" / "models"
TUNING = "tuning"
DURATION = "foldserve_load_duration_seconds"
SESSION = """
import sys, time
import onnxruntime
started = time.perf_counter()
onnxruntime.InferenceSession(sys.argv[1], providers=["CPUExecutionProvider"])
print(time.perf_counter() - started)
"""


def session_s(model: Path) -> float:
    """Seconds that ONNX Runtime takes for a session with default settings, in a process of its own."""
    run = subprocess.run(
        [PYTHON, "-c", SESSION, str(model)],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        env=os.environ | {"ORT_DISABLE_TELEMETRY": "1"},
    )
    return float(run.stdout)


def start(repository: Path, cache: Path) -> dict[str, Any]:
    """Seconds of one start of a repository, and of each model's stages."""
    began = time.perf_counter()
    with running([foldserve(repository, cache=cache)], ALL_CORES) as (server,):
        server.wait_ready()
        ready_s = time.perf_counter() - began
        stages: dict[str, dict[str, float]] = {}
        for (name, labels), value in server.metrics().items():
            if name == DURATION:
                given = dict(labels)
                stages.setdefault(given["model"], {})[given["stage"]] = value
    return {"ready_s": ready_s, "stages_s": stages}


def starts(repository: Path, rounds: int) -> dict[str, Any]:
    """The first start with an empty cache and the second one, and the first start's loading."""
    first, second = [], []
    for number in range(rounds):
        with tempfile.TemporaryDirectory(prefix="bench-cache-") as cache:
            first.append(start(repository, Path(cache)))
            second.append(start(repository, Path(cache)))
        say(f"{repository.name}, round {number + 1}: {json.dumps([first[-1], second[-1]])}")
    first_s, second_s = (median(one["ready_s"] for one in all_rounds) for all_rounds in (first, second))
    return {
        "first_s": first_s,
        "second_s": second_s,
        "first_relative_to_second": first_s / second_s,
        "first_stages_s": first[-1]["stages_s"],
        "second_stages_s": second[-1]["stages_s"],
        "loading_s": median(_loading_s(one["stages_s"]) for one in first),
    }


def _loading_s(stages: dict[str, dict[str, float]]) -> float:
    return sum(seconds for own in stages.values() for stage, seconds in own.items() if stage != TUNING)


def main() -> None:
    """Measure and write the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    model = RESNET.exported()
    session = median(session_s(model.file) for _ in range(rounds))
    result = {"resnet50": starts(model.repository, rounds), "examples": starts(EXAMPLES, rounds)}
    result["resnet50"] |= {
        "session_s": session,
        "cold_load_relative_to_session": result["resnet50"]["loading_s"] / session,
    }
    write_result("serving_loading", {"repositories": result})


if __name__ == "__main__":
    main()
