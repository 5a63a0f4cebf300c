"""A real server on free ports, with the bundled models, and ways to ask it."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import grpc
import numpy as np
import pytest
from foldserve.server import Server
from foldserve.settings import ServerSettings
from numpy.typing import NDArray

ROOT = Path(__file__).resolve().parents[2]
EXAMPLE_MODELS = ROOT / "examples" / "models"


@contextmanager
def serving(repository: Path, **settings: object) -> Iterator[Server]:
    """A server that has tried all models of ``repository``."""
    values = {"repository": [repository], "host": "127.0.0.1", "grpc_port": 0, "http_port": 0, **settings}
    with Server(ServerSettings.model_validate(values)) as server:
        while server.not_ready():
            time.sleep(0.01)
        yield server


@pytest.fixture(scope="session")
def server() -> Iterator[Server]:
    """One server with the bundled models, shared by the tests that only ask it."""
    with serving(EXAMPLE_MODELS) as server:
        yield server


@pytest.fixture
def channel(server: Server) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(f"127.0.0.1:{server.grpc_port}") as channel:
        yield channel


@pytest.fixture(scope="session")
def digits() -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Held-out images float32 [360, 1, 8, 8] and their labels."""
    with np.load(ROOT / "examples" / "data" / "digits_test.npz") as data:
        return data["images"], data["labels"]
