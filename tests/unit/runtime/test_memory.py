import gc
import weakref
from collections.abc import Iterator

import pytest
from foldserve.runtime.memory import return_freed_memory


class Ring:
    """An object that only a collection frees."""

    def __init__(self) -> None:
        self.itself = self


@pytest.fixture(autouse=True)
def _thaw() -> Iterator[None]:
    yield
    gc.unfreeze()


def test_what_lives_is_exempt_from_collections_until_it_is_garbage_at_the_next_call() -> None:
    ring = Ring()
    died = weakref.ref(ring)
    return_freed_memory()
    assert gc.get_freeze_count() > 0
    del ring
    gc.collect()
    assert died() is not None
    return_freed_memory()
    assert died() is None
