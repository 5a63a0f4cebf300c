"""What the first request of a model waits for, beside the next ones and the bare transport's own first.

Whatever asks a server for the first time over a new connection waits longer, also where nothing is computed:
the echo server, asked with the same messages, shows how much of it is gRPC's.
"""

import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

import grpc
from engine_sessions import first_and_next
from foldserve_proto import grpc_service_pb2 as pb
from foldserve_proto import grpc_service_pb2_grpc as service
from serving_harness import LOAD_CORES, SERVER_CORE, START_S, Process, Recipe, echo_of, running

SMALL_CALLS = 50

Stub = service.GRPCInferenceServiceStub
Seconds = dict[str, float]


def first_served(recipe: Recipe, request: pb.ModelInferRequest, rounds: int) -> list[Seconds]:
    """Of a server, started so often, and each time of an echo server that gives the same answer."""
    found = []
    with TemporaryDirectory(prefix="bench-first-") as scratch:
        answer = Path(scratch, "answer")
        for _ in range(rounds):
            with running([recipe], SERVER_CORE) as (server,):
                server.wait_ready()
                with _connected(server) as stub:
                    own = first_and_next(partial(stub.ModelInfer, request))
                    answer.write_bytes(stub.ModelInfer(request).SerializeToString())
            with running([echo_of(answer)], SERVER_CORE) as (server,), _connected(server) as stub:
                bare = first_and_next(partial(stub.ModelInfer, request))
            found.append(own | {f"echo_{key}": bare[key] for key in ("first_s", "next_s")})
    return found


def first_of(measured: Sequence[Mapping[str, float]]) -> Seconds:
    """Medians of several first requests, of those after them, and of what compares them start by start.

    ``beyond_echo`` is the ratio without the time by which the echo server's own first answer took longer.
    """
    found = {key: median(one[key] for one in measured) for key in measured[0]}
    found["ratio"] = median(one["first_s"] / one["next_s"] for one in measured)
    if "echo_first_s" in found:
        found["echo_ratio"] = median(one["echo_first_s"] / one["echo_next_s"] for one in measured)
        found["beyond_echo"] = median(
            (one["first_s"] - (one["echo_first_s"] - one["echo_next_s"])) / one["next_s"] for one in measured
        )
    return found


@contextmanager
def _on_cores(cores: Collection[int]) -> Iterator[None]:
    """Threads that are made in the block, this one too, run on these."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


@contextmanager
def _connected(server: Process) -> Iterator[Stub]:
    """A connection over which the server has answered small calls, asked from other cores than its own.

    The first ones bring up parts of gRPC: on the first contended lock it measures the processor's frequency,
    which takes some milliseconds, once in the life of a process.
    """
    with _on_cores(LOAD_CORES), server.channel() as channel:
        grpc.channel_ready_future(channel).result(START_S)
        stub = Stub(channel)
        for _ in range(SMALL_CALLS):
            with suppress(grpc.RpcError):  # the echo server can do nothing else
                stub.ServerLive(pb.ServerLiveRequest())
        yield stub
