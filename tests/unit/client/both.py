"""Both clients under one set of tests."""

import asyncio
from collections.abc import Callable
from typing import Any, TypeAlias

from foldserve_client import AsyncClient, Client


class Blocking:
    """An AsyncClient whose coroutines are awaited to the end, so that one test covers both clients."""

    def __init__(self, runner: asyncio.Runner, client: AsyncClient) -> None:
        self._runner = runner
        self._client = client

    def __getattr__(self, name: str) -> Callable[..., Any]:
        method = getattr(self._client, name)
        return lambda *args, **kwargs: self._runner.run(method(*args, **kwargs))


AnyClient: TypeAlias = Client | Blocking
