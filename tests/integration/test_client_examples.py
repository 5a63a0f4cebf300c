"""The examples in the client's docstrings, on a real server; every public method has one."""

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from docstrings import check, examples
from foldserve.server import Server
from foldserve_client import AsyncClient, Client, ClientError, InferResult, Tls
from integration.repositories import EXPLICIT
from numpy.typing import NDArray
from running import EXAMPLE_MODELS, ROOT, serving
from watching import until

Digits = tuple[NDArray[np.float32], NDArray[np.int64]]


def methods(client: type) -> list[str]:
    return [name for name in dir(client) if not name.startswith("_")]


SHOWN: list[Any] = [
    *(getattr(client, name) for client in (Client, AsyncClient) for name in methods(client)),
    *(Client, AsyncClient, ClientError, InferResult, Tls),
]


@pytest.fixture(scope="module")
def changing() -> Iterator[Server]:
    """A server that the examples may change."""
    with (
        serving(EXAMPLE_MODELS, **EXPLICIT, load_models=["*"]) as server,
        Client(server.management_address) as client,
    ):
        until(lambda: not client.drift("digits").unavailable, "the unfolded model is open")
        yield server


async def _asynchronous(address: str) -> AsyncClient:
    return AsyncClient(address)


def test_both_clients_have_the_same_methods() -> None:
    assert methods(Client) == methods(AsyncClient)
    assert {"infer", "stream", "classify", "load_model", "parity", "close"} <= set(methods(Client))


@pytest.mark.parametrize("shown", SHOWN, ids=lambda shown: shown.__qualname__)
def test_what_docstrings_show_is_true(
    shown: Any, changing: Server, digits: Digits, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = examples(shown.__doc__)
    assert found, f"{shown.__qualname__} shows no example"
    addresses = {"8001": f"localhost:{changing.grpc_port}", "8003": changing.management_address}
    for example in found:
        for port, address in addresses.items():
            example.source = example.source.replace(f"localhost:{port}", address)
    monkeypatch.chdir(ROOT)
    with asyncio.Runner() as runner:
        clients: dict[str, Any] = {}
        for name, address in zip(("client", "manager"), addresses.values(), strict=True):
            waits = "Async" in shown.__qualname__
            clients[name] = runner.run(_asynchronous(address)) if waits else Client(address)
        known = {"np": np, "images": digits[0], "Path": Path}
        classes = {one.__name__: one for one in (Client, AsyncClient, ClientError, Tls)}
        check(found, {**known, **classes, **clients}, runner)
        for client in clients.values():
            closing = client.close()
            if closing is not None:
                runner.run(closing)
