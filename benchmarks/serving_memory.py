"""Memory after a first start and after a second one, and over many loads and unloads in a running server."""

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from foldserve_proto import grpc_service_pb2 as pb
from foldserve_proto import grpc_service_pb2_grpc as service
from serving_harness import ALL_CORES, START_S, foldserve, running, say, write_result
from serving_models import MOBILENET, RESNET, TINY, Model

SETTLED_S = 3.0
"""After a server has kept the original that answers are compared with, in seconds: by then it has it open."""


def starts(model: Model) -> dict[str, float]:
    """Resident memory, in MB, after a start with an empty cache and after the next one."""
    found = {}
    with tempfile.TemporaryDirectory(prefix="bench-cache-") as cache:
        for title in ("first_mb", "second_mb"):
            with running([foldserve(model.repository, cache=Path(cache))], ALL_CORES) as (server,):
                server.wait_ready()
                while not any(Path(cache).glob("originals/*/entry.json")):
                    time.sleep(0.1)
                time.sleep(SETTLED_S)
                found[title] = server.rss_bytes() / 1e6
    say(f"{model.name}: {found['first_mb']:.0f} MB, then {found['second_mb']:.0f} MB")
    return found


def cycles(model: Model, count: int) -> dict[str, Any]:
    """Resident memory, in MB, loaded and unloaded, after each cycle of load, inference and unload."""
    loaded, unloaded = [], []
    request = model.request()
    with running([foldserve(model.repository, "--model-control", "explicit")], ALL_CORES) as (server,):
        server.wait_ready()
        at_start = server.rss_bytes()
        with server.channel() as channel:
            stub = service.GRPCInferenceServiceStub(channel)
            for number in range(count):
                stub.RepositoryModelLoad(
                    pb.RepositoryModelLoadRequest(model_name=model.name), timeout=START_S
                )
                stub.ModelInfer(request, timeout=START_S)
                loaded.append(server.rss_bytes() / 1e6)
                stub.RepositoryModelUnload(
                    pb.RepositoryModelUnloadRequest(model_name=model.name), timeout=START_S
                )
                _wait_unloaded(stub)
                unloaded.append(server.rss_bytes() / 1e6)
                say(f"cycle {number + 1}: {loaded[-1]:.0f} MB loaded, {unloaded[-1]:.0f} MB unloaded")
    half = count // 2
    return {
        "model": model.name,
        "model_mb": model.file.stat().st_size / 1e6,
        "at_start_mb": at_start / 1e6,
        "loaded_mb": loaded,
        "unloaded_mb": unloaded,
        "growth_mb_per_cycle": float(np.polyfit(range(count - half), unloaded[half:], 1)[0]),
    }


def _wait_unloaded(stub: service.GRPCInferenceServiceStub) -> None:
    """Unloading is answered at once; wait until it is done."""
    while any(
        model.state in ("READY", "UNLOADING")
        for model in stub.RepositoryIndex(pb.RepositoryIndexRequest()).models
    ):
        time.sleep(0.01)


def main() -> None:
    """Measure and write the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cycles", type=int, default=50)
    count = parser.parse_args().cycles
    after_starts = {model.name: starts(model.exported()) for model in (TINY, MOBILENET, RESNET)}
    write_result("serving_memory", cycles(RESNET.exported(), count) | {"starts": after_starts})


if __name__ == "__main__":
    main()
