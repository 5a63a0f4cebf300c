"""What foldserve_client adds to bare gRPC stubs, and what its parts and its shared memory bring.

In turn, on one server: the tiny model, one row a call, by stubs and by both clients; *patches*, whose rows
have 602 kB, in messages and in shared memory; larger batches in one message and in the client's parts.
"""

import argparse
import asyncio
import os
import statistics
import time
from collections.abc import Awaitable, Callable
from typing import Any

import grpc
import numpy as np
from foldserve_client import AsyncClient, Client
from foldserve_client.tensors import Array
from foldserve_proto import grpc_service_pb2 as pb
from foldserve_proto.grpc_service_pb2_grpc import GRPCInferenceServiceStub
from serving_harness import ALL_CORES, LOAD_CORES, SERVER_CORE, Process, foldserve, running, say, write_result
from serving_models import INPUT, PATCHES, TINY, Model

UNLIMITED = (("grpc.max_send_message_length", -1), ("grpc.max_receive_message_length", -1))
Row = dict[str, float]


def request_of(model: Model, array: Array) -> pb.ModelInferRequest:
    """The request that a caller of the stubs writes."""
    request = pb.ModelInferRequest(model_name=model.name)
    request.inputs.add(name=INPUT, datatype="FP32", shape=array.shape)
    request.raw_input_contents.append(array.tobytes())
    return request


def output_of(response: pb.ModelInferResponse) -> Array:
    """What such a caller makes of the answer."""
    return np.frombuffer(response.raw_output_contents[0], np.float32).reshape(response.outputs[0].shape)


def timed(call: Callable[[], object], server: Process, calls: int) -> Row:
    """Microseconds of a call by the clock, and of processor time here and in the server."""
    call()
    clock, here, there = time.perf_counter(), time.process_time(), server.cpu_s()
    for _ in range(calls):
        call()
    ends = time.perf_counter(), time.process_time(), server.cpu_s()
    names = ("microseconds", "client_cpu_microseconds", "server_cpu_microseconds")
    begins = (clock, here, there)
    return {name: 1e6 * (end - begin) / calls for name, begin, end in zip(names, begins, ends, strict=True)}


async def timed_async(call: Callable[[], Awaitable[object]], server: Process, calls: int) -> Row:
    """The same with asyncio."""
    await call()
    clock, here, there = time.perf_counter(), time.process_time(), server.cpu_s()
    for _ in range(calls):
        await call()
    ends = time.perf_counter(), time.process_time(), server.cpu_s()
    names = ("microseconds", "client_cpu_microseconds", "server_cpu_microseconds")
    begins = (clock, here, there)
    return {name: 1e6 * (end - begin) / calls for name, begin, end in zip(names, begins, ends, strict=True)}


def sync_calls(server: Process, rounds: int, calls: int) -> dict[str, list[Row]]:
    """One row of the tiny model by stubs and by the client."""
    image = np.random.default_rng(0).standard_normal((1, *TINY.shape), np.float32)
    address = f"127.0.0.1:{server.port}"
    with grpc.insecure_channel(address, UNLIMITED) as channel, Client(address) as client:
        stub = GRPCInferenceServiceStub(channel)
        return in_turn(
            {
                "stubs": lambda: output_of(stub.ModelInfer(request_of(TINY, image), timeout=60)),
                "Client": lambda: client.infer(TINY.name, image).output,
            },
            server,
            rounds,
            calls,
        )


async def async_calls(server: Process, rounds: int, calls: int) -> dict[str, list[Row]]:
    """The same with asyncio."""
    image = np.random.default_rng(0).standard_normal((1, *TINY.shape), np.float32)
    address = f"127.0.0.1:{server.port}"
    rows: dict[str, list[Row]] = {"asyncio stubs": [], "AsyncClient": []}
    async with grpc.aio.insecure_channel(address, UNLIMITED) as channel, AsyncClient(address) as client:
        stub = GRPCInferenceServiceStub(channel)

        async def bare() -> Array:
            return output_of(await stub.ModelInfer(request_of(TINY, image), timeout=60))

        async def ours() -> Array:
            return (await client.infer(TINY.name, image)).output

        for _ in range(rounds):
            for name, call in zip(rows, (bare, ours), strict=True):
                rows[name].append(await timed_async(call, server, calls))
    return rows


def sharing(server: Process, rows: int, rounds: int, calls: int) -> dict[str, list[Row]]:
    """A batch of *patches* in a message, in parts, and in shared memory."""
    images = np.random.default_rng(0).standard_normal((rows, *PATCHES.shape), np.float32)
    address = f"127.0.0.1:{server.port}"
    with (
        grpc.insecure_channel(address, UNLIMITED) as channel,
        Client(address) as client,
        Client(address, shared_memory=True) as sharer,
    ):
        stub = GRPCInferenceServiceStub(channel)
        return in_turn(
            {
                "stubs, one message": lambda: stub.ModelInfer(request_of(PATCHES, images), timeout=60),
                "Client": lambda: client.infer(PATCHES.name, images),
                "Client, shared memory": lambda: sharer.infer(PATCHES.name, images),
            },
            server,
            rounds,
            calls,
        )


def parts(server: Process, rows: int, rounds: int, calls: int) -> dict[str, list[Row]]:
    """A batch of the tiny model in one message, and in parts."""
    images = np.random.default_rng(0).standard_normal((rows, *TINY.shape), np.float32)
    address = f"127.0.0.1:{server.port}"
    with grpc.insecure_channel(address, UNLIMITED) as channel, Client(address) as client:
        stub = GRPCInferenceServiceStub(channel)

        def of_32_rows() -> None:
            futures = [
                stub.ModelInfer.future(request_of(TINY, images[start : start + 32]))
                for start in range(0, rows, 32)
            ]
            for future in futures:
                future.result()

        return in_turn(
            {
                "stubs, one message": lambda: stub.ModelInfer(request_of(TINY, images), timeout=60),
                "stubs, parts of 32 rows": of_32_rows,
                "Client": lambda: client.infer(TINY.name, images),
            },
            server,
            rounds,
            calls,
        )


def in_turn(
    callers: dict[str, Callable[[], object]], server: Process, rounds: int, calls: int
) -> dict[str, list[Row]]:
    """The rounds of each caller."""
    rows: dict[str, list[Row]] = {name: [] for name in callers}
    for _ in range(rounds):
        for name, call in callers.items():
            rows[name].append(timed(call, server, calls))
    return rows


def summary(rows: dict[str, list[Row]]) -> dict[str, Row]:
    """Medians, and the median over the rounds of what each took as a multiple of the first."""
    first = next(iter(rows.values()))
    table = {}
    for name, own in rows.items():
        table[name] = {key: statistics.median(row[key] for row in own) for key in own[0]}
        table[name]["relative"] = statistics.median(
            row["microseconds"] / base["microseconds"] for row, base in zip(own, first, strict=True)
        )
        say(f"{name}: {table[name]}")
    return table


def main() -> None:
    """Measure and write the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--calls", type=int, default=1000, help="of one row, in each round")
    arguments = parser.parse_args()
    rounds, calls = arguments.rounds, arguments.calls
    result: dict[str, Any] = {}
    os.sched_setaffinity(0, LOAD_CORES)
    recipe = foldserve(
        TINY.exported().repository, "--repository", str(PATCHES.exported().repository), "--shared-memory"
    )
    with running([recipe], SERVER_CORE, TINY.request()) as (server,):
        server.wait_ready()
        result["one row"] = summary(sync_calls(server, rounds, calls))
        result["one row, asyncio"] = summary(asyncio.run(async_calls(server, rounds, calls)))
        for rows in (1, 8, 32):
            name = f"{rows} rows of 602 kB"
            result[name] = summary(sharing(server, rows, rounds, max(3, calls // 25 // rows)))
        result["1024 rows of 3 kB"] = summary(parts(server, 1024, rounds, max(3, calls // 100)))
    os.sched_setaffinity(0, ALL_CORES)
    write_result("client_overhead", result)


if __name__ == "__main__":
    main()
