"""How long each stage of a load takes; entering one moves the model version's lifecycle on."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

from foldserve.serving.lifecycle import Lifecycle, State


class Stages:
    """Walks one lifecycle through the states of a load and keeps the seconds spent in each."""

    def __init__(self, lifecycle: Lifecycle) -> None:
        self._lifecycle = lifecycle
        self.seconds: dict[str, float] = {}

    @contextmanager
    def of(self, state: State) -> Iterator[None]:
        """Be in ``state`` for as long as the block lasts; it may be entered again while the load is there."""
        if self._lifecycle.state is not state:
            self._lifecycle.advance(state)
        with self.timed(state.lower()):
            yield

    @contextmanager
    def timed(self, name: str) -> Iterator[None]:
        """Count the block's seconds under ``name``."""
        started = time.perf_counter()
        yield
        self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - started

    def pass_through(self, *states: State) -> None:
        """Go on to the last of ``states``, which follow each other, from wherever among them the load is."""
        if self._lifecycle.state in states:
            states = states[states.index(self._lifecycle.state) + 1 :]
        for state in states:
            self._lifecycle.advance(state)
