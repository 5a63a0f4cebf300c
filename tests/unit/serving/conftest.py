"""What the tests of the manager share, and those of the batcher."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from foldserve.runtime.session import Array
from foldserve.serving.batcher import Batcher
from foldserve.settings import Batching
from running import EXAMPLE_DATA
from unit.serving.held_engine import HeldSession, MakeBatcher
from unit.serving.managed import Managed, managing


@pytest.fixture
def managed(tmp_path: Path) -> Iterator[Managed]:
    with managing(tmp_path) as managed:
        yield managed


@pytest.fixture(scope="module")
def images() -> Array:
    with np.load(EXAMPLE_DATA / "digits_test.npz") as data:
        images: Array = data["images"]
        return images


@pytest.fixture
def session() -> Iterator[HeldSession]:
    session = HeldSession()
    yield session
    session.free.set()


@pytest.fixture
def make_batcher(session: HeldSession) -> Iterator[MakeBatcher]:
    made: list[Batcher] = []

    def make(
        *,
        most_rows: int | None = 32,
        instances: int = 1,
        capacity: int = 100,
        batching: Batching | None = None,
        short_s: float | None = None,
    ) -> Batcher:
        made.append(
            Batcher(
                session,
                most_rows=most_rows,
                instances=instances,
                capacity=capacity,
                batching=batching,
                short_s=short_s,
            )
        )
        return made[-1]

    yield make
    for batcher in made:
        batcher.close()
