"""A real server on free ports for a test."""

import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from foldserve.observability.logging import configure_logging
from foldserve.server import Server
from foldserve.settings import LogFormat, LogLevel, ServerSettings

ROOT = Path(__file__).resolve().parents[1]
EXAMPLE_MODELS = ROOT / "examples" / "models"
EXAMPLE_DATA = ROOT / "examples" / "data"
CACHE = tempfile.TemporaryDirectory(prefix="foldserve-tests-")
"""What one test imported, the next finds."""

TRITON_PYTHON = ROOT / ".venv-triton" / "bin" / "python"
"""Python with Triton's own client, made by ``make test``."""

PERF_ANALYZER = ROOT / ".venv-perf" / "bin" / "perf_analyzer"
"""Triton's load generator, fetched by ``make test``."""


@contextmanager
def serving(repository: Path, /, **settings: object) -> Iterator[Server]:
    """A server that has tried all models of ``repository``."""
    configure_logging(LogFormat.JSON, LogLevel.INFO)
    values = {
        "cache_dir": CACHE.name,
        "repository": [repository],
        "host": "127.0.0.1",
        "grpc_port": 0,
        "http_port": 0,
        **settings,
    }
    with Server(ServerSettings.model_validate(values)) as server:
        while server.not_ready():
            time.sleep(0.01)
        yield server
