"""A real server on free ports for a test."""

import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from foldserve.observability.logging import configure_logging
from foldserve.server import Server
from foldserve.settings import LogFormat, LogLevel, ServerSettings
from prometheus_client.parser import text_string_to_metric_families

ROOT = Path(__file__).resolve().parents[1]
EXAMPLE_MODELS = ROOT / "examples" / "models"
EXAMPLE_DATA = ROOT / "examples" / "data"
CACHE = tempfile.TemporaryDirectory(prefix="foldserve-tests-")
"""What one test imported, the next finds."""

TRITON_PYTHON = ROOT / ".venv-triton" / "bin" / "python"
"""Python with Triton's own client, made by ``make test``."""

PERF_ANALYZER = ROOT / ".venv-perf" / "bin" / "perf_analyzer"
"""Triton's load generator, fetched by ``make test``."""


Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]
"""Values by the metric's name and its labels."""


def scraped(server: Server) -> Samples:
    """What a server tells Prometheus, read by Prometheus's own text parser."""
    with urllib.request.urlopen(f"http://127.0.0.1:{server.http_port}/metrics", timeout=10) as answer:
        families = text_string_to_metric_families(answer.read().decode())
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in families
        for sample in family.samples
    }


def of_digits(name: str, **labels: str) -> tuple[str, frozenset[tuple[str, str]]]:
    """The key of a metric of the bundled model."""
    return name, frozenset({"model": "digits", "version": "1", **labels}.items())


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
        "management_address": "127.0.0.1:0",
        "shadow": {"sample_rate": 1e-9},  # there, but no test finds a comparison by chance in its way
        "precisions": [],  # test_engines tries them; each model of each test would take a second for it
        **settings,
    }
    with Server(ServerSettings.model_validate(values)) as server:
        while server.not_ready():
            time.sleep(0.01)
        yield server
