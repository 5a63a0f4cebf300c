"""Servers that compare every answer with the unfolded model's."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from foldserve.server import Server
from foldserve_client import Client
from running import EXAMPLE_MODELS, serving

ALWAYS = {"sample_rate": 1.0, "window": 20, "breaches": 3}


@contextmanager
def watching(repository: Path = EXAMPLE_MODELS, **settings: object) -> Iterator[tuple[Server, Client]]:
    """A server that compares every answer as fast as it can, if nothing else is said, and its client."""
    with (
        serving(repository, **{"shadow": ALWAYS, "shadow_cpu_share": 1.0} | settings) as server,
        Client(server.management_address) as client,
    ):
        yield server, client


def until(condition: Callable[[], Any], what: str) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.01)
