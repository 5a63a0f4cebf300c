"""What the taps that show drift cost: the reference with them and without, run in turn on one thread.

Both are what the shadow compares answers with: unfolded, unoptimised, one image at a time.
"""

import argparse
import tempfile
import time
from pathlib import Path
from statistics import median

import numpy as np
from foldserve.runtime.onnxruntime_session import OnnxRuntimeSession
from foldserve.serving.model_file import read_model
from foldserve.serving.original_files import write
from foldserve.serving.original_record import ORIGINAL, REFERENCE
from foldserve.settings import ProviderChoice
from serving_harness import say, write_result
from serving_models import INPUT, MOBILENET, RESNET, TINY, Model


def opened(file: Path) -> OnnxRuntimeSession:
    """As the shadow opens it."""
    return OnnxRuntimeSession(
        file, provider=ProviderChoice.CPU, optimise=False, intra_op_threads=1, keeps_memory=False
    )


def measure(model: Model, seconds: float) -> dict[str, float]:
    """Median seconds of a run with and without taps, and the median of their ratios, pair by pair."""
    image = np.random.default_rng(0).standard_normal((1, *model.shape), np.float32)
    with tempfile.TemporaryDirectory() as scratch:
        write(read_model(model.file), Path(scratch))
        sessions = [opened(Path(scratch) / name) for name in (ORIGINAL, REFERENCE)]
        pairs: list[list[float]] = []
        end = time.monotonic() + seconds
        while time.monotonic() < end or len(pairs) < 3:
            pair = []
            for session in sessions:
                started = time.thread_time()
                session.run({INPUT: image})
                pair.append(time.thread_time() - started)
            pairs.append(pair)
        taps = len(sessions[1].outputs) - len(sessions[0].outputs)
    without, with_taps = np.median(pairs[1:], axis=0)
    return {
        "taps": taps,
        "without_s": float(without),
        "with_s": float(with_taps),
        "ratio": median(tapped / plain for plain, tapped in pairs[1:]),
    }


def main() -> None:
    """Measure and write the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=15, help="of each model")
    arguments = parser.parse_args()
    rows = {model.name: measure(model.exported(), arguments.seconds) for model in (TINY, MOBILENET, RESNET)}
    for name, row in rows.items():
        say(f"{name}: {row['ratio']:.2f} × with {row['taps']} taps")
    write_result("drift_cost", {"models": rows})


if __name__ == "__main__":
    main()
