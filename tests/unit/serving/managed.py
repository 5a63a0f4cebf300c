"""A manager of models over a repository, and loads that wait until they may go on."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from foldserve.observability.metrics import Metrics
from foldserve.serving import manager
from foldserve.serving.lifecycle import State
from foldserve.serving.loader import load
from foldserve.serving.manager import ModelManager
from foldserve.serving.repository import ModelFolder, ModelVersion, look_at
from foldserve.serving.servable import Servable
from foldserve.settings import ServerSettings
from running import CACHE

LONG_S = 30.0


class Managed:
    """A manager over a repository, and what it told about readiness."""

    def __init__(self, repository: Path, **settings: object) -> None:
        self.repository = repository
        self.told: list[tuple[str, bool]] = []
        self.metrics = Metrics()
        values = {
            "provider": "cpu",
            "instances": 1,
            "intra_op_threads": 1,
            "precisions": [],
            "cache_dir": CACHE.name,
            **settings,
        }
        self.manager = ModelManager(
            ServerSettings.model_validate({"repository": [repository], **values}),
            self.metrics,
            lambda name, ready: self.told.append((name, ready)),
        )

    def folder(self, name: str = "plus") -> ModelFolder:
        return look_at(self.repository / name, self.repository)

    def update(self, name: str = "plus", *, reload: bool = False) -> None:
        self.manager.update(self.folder(name), reload=reload)

    def states(self) -> dict[tuple[str, int | None], State]:
        return {(one.name, one.version): one.state for one in self.manager.statuses()}

    def gauge(self, name: str) -> list[dict[str, str]]:
        """The labels of the series of a gauge that are 1."""
        return [
            sample.labels
            for metric in self.metrics.registry.collect()
            for sample in metric.samples
            if sample.name == name and sample.value == 1
        ]


@contextmanager
def managing(repository: Path, **settings: object) -> Iterator[Managed]:
    managed = Managed(repository, **settings)
    try:
        yield managed
    finally:
        managed.manager.stop_accepting()
        managed.manager.close(deadline=time.monotonic() + LONG_S)


def drained() -> None:
    """Wait for the threads that drain."""
    for thread in threading.enumerate():
        if thread.name in ("plus", "minus"):
            thread.join(LONG_S)


class Blocked:
    """Loads of some versions, which begin, and go on when they may."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *versions: int) -> None:
        self.begun = {version: threading.Event() for version in versions}
        self.may_go_on = threading.Event()

        def slow_load(source: ModelVersion, *rest: Any, **options: Any) -> Servable:
            if source.version in self.begun:
                self.begun[source.version].set()
                assert self.may_go_on.wait(LONG_S)
            return load(source, *rest, **options)

        monkeypatch.setattr(manager, "load", slow_load)
