"""What the tests of the manager share."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from unit.serving.managed import Managed, managing


@pytest.fixture
def managed(tmp_path: Path) -> Iterator[Managed]:
    with managing(tmp_path) as managed:
        yield managed
