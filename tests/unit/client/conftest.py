"""A server on a free port, and each client connected to it."""

import asyncio
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest
from foldserve_client import AsyncClient, Client
from foldserve_proto.fold_service_pb2_grpc import add_FoldServiceServicer_to_server
from foldserve_proto.grpc_service_pb2_grpc import add_GRPCInferenceServiceServicer_to_server
from unit.client.both import AnyClient, Blocking
from unit.client.echo import EchoServicer, ReportServicer

UNLIMITED = (("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1))


@pytest.fixture
def echo() -> EchoServicer:
    servicer = EchoServicer()
    servicer.serve("echo", [("x", "FP32", [-1, 4])], ["y"], max_batch_size=8)
    servicer.serve("pair", [("a", "INT64", [-1]), ("b", "BYTES", [-1])], ["c", "d"])
    return servicer


@pytest.fixture
def reports() -> ReportServicer:
    return ReportServicer()


@pytest.fixture
def address(echo: EchoServicer, reports: ReportServicer) -> Iterator[str]:
    server = grpc.server(ThreadPoolExecutor(max_workers=4), options=UNLIMITED)
    add_GRPCInferenceServiceServicer_to_server(echo, server)
    add_FoldServiceServicer_to_server(reports, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield f"127.0.0.1:{port}"
    echo.stuck.set()
    server.stop(None).wait()


@pytest.fixture(params=["sync", "asyncio"])
def client(request: pytest.FixtureRequest, address: str) -> Iterator[AnyClient]:
    if request.param == "sync":
        with Client(address, timeout_s=10) as client:
            yield client
    else:
        with asyncio.Runner() as runner:
            blocking = Blocking(runner, runner.run(_connect(address)))
            yield blocking
            blocking.close()


async def _connect(address: str) -> AsyncClient:
    return AsyncClient(address, timeout_s=10)
