"""What tests do with repositories and models of a running server."""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import grpc
import numpy as np
import pytest
from foldserve.server import Server
from foldserve_client import Client
from foldserve_proto import grpc_service_pb2 as pb
from foldserve_proto.grpc_service_pb2_grpc import GRPCInferenceServiceStub

ONE_CPU = {"provider": "cpu", "instances": 1, "intra_op_threads": 1}
"""Nothing to measure at load."""

POLL = {**ONE_CPU, "model_control": "poll", "poll_interval_s": 0.05}
EXPLICIT = {**ONE_CPU, "model_control": "explicit"}


@contextmanager
def connected(server: Server) -> Iterator[tuple[Client, GRPCInferenceServiceStub]]:
    """Clients of the management port, which answers everything."""
    address = server.management_address
    with Client(address) as client, grpc.insecure_channel(address) as channel:
        yield client, GRPCInferenceServiceStub(channel)


def answer(client: Client, version: str = "", name: str = "plus") -> float:
    """What the model adds."""
    return float(client.infer(name, np.zeros((1, 2), np.float32), version=version)["y"][0, 0])


def eventually(condition: Callable[[], bool]) -> None:
    """Wait for what a thread of the server does in its own time."""
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline, "it never came to be"
        time.sleep(0.01)


def index(stub: GRPCInferenceServiceStub, **request: Any) -> dict[tuple[str, str], tuple[str, str]]:
    """(name, version) → (state, reason)."""
    models = stub.RepositoryIndex(pb.RepositoryIndexRequest(**request)).models
    return {(model.name, model.version): (model.state, model.reason) for model in models}


def load(
    stub: GRPCInferenceServiceStub,
    name: str = "plus",
    parameters: Mapping[str, str | bytes | int] | None = None,
) -> None:
    request = pb.RepositoryModelLoadRequest(model_name=name)
    for key, value in (parameters or {}).items():
        parameter = request.parameters[key]
        if isinstance(value, str):
            parameter.string_param = value
        elif isinstance(value, bytes):
            parameter.bytes_param = value
        else:
            parameter.int64_param = value
    stub.RepositoryModelLoad(request)


def unload(stub: GRPCInferenceServiceStub, name: str = "plus") -> None:
    stub.RepositoryModelUnload(pb.RepositoryModelUnloadRequest(model_name=name))


@contextmanager
def refused(code: grpc.StatusCode, text: str) -> Iterator[None]:
    with pytest.raises(grpc.RpcError) as refusal:
        yield
    assert (refusal.value.code(), text in str(refusal.value.details())) == (code, True), refusal.value
