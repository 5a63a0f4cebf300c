"""How cost grows with what is asked: ``scaling.py [--only payload rows]``.

Every curve beside its floor in the same run: a bare echo server with the same messages, or the session in
a loop. Each takes one to three minutes and writes a result of its own; ``scaling_tables.py`` makes the
tables and the picture.
"""

import argparse
import datetime
from collections.abc import Callable
from functools import partial

from peer_comparison import conditions
from scaling_curves import concurrency, cores, models, payload, rows
from scaling_rounds import Result
from serving_harness import write_result
from serving_models import MOBILENET, TINY

CURVES: dict[str, Callable[[int], Result]] = {
    "payload": payload,
    "concurrency": concurrency,
    "models": models,
    "rows": rows,
    "cores_tiny": partial(cores, TINY),
    "cores_mobilenet_v2": partial(cores, MOBILENET),
}
ENVIRONMENT = ("processor", "cores", "python", "onnxruntime", "grpcio")


def main() -> None:
    """Measure and write the results."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="+", choices=CURVES, default=list(CURVES), metavar="CURVE")
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    where = conditions()
    environment = {name: where[name] for name in ENVIRONMENT}
    environment["date"] = datetime.datetime.now(datetime.UTC).date().isoformat()
    for name in arguments.only:
        curve = CURVES[name](arguments.rounds)
        write_result(f"scaling_{name}", {"conditions": environment, "rounds": arguments.rounds} | curve)


if __name__ == "__main__":
    main()
