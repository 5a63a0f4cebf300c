"""The bundled models, served once, and the held-out digits to send them."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import grpc
import numpy as np
import pytest
from numpy.typing import NDArray

if TYPE_CHECKING:
    from foldserve.server import Server


@pytest.fixture(scope="session")
def server() -> Iterator["Server"]:
    """One server with the bundled models, shared by the tests that only ask it."""
    from running import EXAMPLE_MODELS, serving  # only tests that ask for a server need all its parts

    with serving(EXAMPLE_MODELS) as server:
        yield server


@pytest.fixture
def channel(server: "Server") -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(f"127.0.0.1:{server.grpc_port}") as channel:
        yield channel


@pytest.fixture
def management(server: "Server") -> Iterator[grpc.Channel]:
    """To where the server may be changed."""
    with grpc.insecure_channel(server.management_address) as channel:
        yield channel


@pytest.fixture(scope="session")
def digits() -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Held-out images float32 [360, 1, 8, 8] and their labels."""
    from running import EXAMPLE_DATA

    with np.load(EXAMPLE_DATA / "digits_test.npz") as data:
        return data["images"], data["labels"]
