"""The states of a model version and the only ways from one to the next.

NEW → LOADING → FOLDING → PROVING → WARMING → READY → DRAINING → UNLOADED
any state before UNLOADED → FAILED(reason)
"""

from enum import StrEnum


class State(StrEnum):
    """Where a model version is in its life."""

    NEW = "NEW"
    LOADING = "LOADING"
    FOLDING = "FOLDING"
    PROVING = "PROVING"
    WARMING = "WARMING"
    READY = "READY"
    DRAINING = "DRAINING"
    UNLOADED = "UNLOADED"
    FAILED = "FAILED"


NEXT: dict[State, frozenset[State]] = {
    State.NEW: frozenset({State.LOADING, State.FAILED}),
    State.LOADING: frozenset({State.FOLDING, State.FAILED}),
    State.FOLDING: frozenset({State.PROVING, State.FAILED}),
    State.PROVING: frozenset({State.WARMING, State.FAILED}),
    State.WARMING: frozenset({State.READY, State.FAILED}),
    State.READY: frozenset({State.DRAINING, State.FAILED}),
    State.DRAINING: frozenset({State.UNLOADED, State.FAILED}),
    State.UNLOADED: frozenset(),
    State.FAILED: frozenset(),
}
"""The edges of the state machine."""


class IllegalTransition(AssertionError):
    """A step that the state machine does not have: a mistake in foldserve, never of a caller."""


class Lifecycle:
    """The state of one model version, and why it failed if it did."""

    def __init__(self) -> None:
        self.state = State.NEW
        self.reason = ""

    def advance(self, state: State) -> None:
        """Take one edge of the state machine; raises :class:`IllegalTransition` where there is none."""
        if state not in NEXT[self.state]:
            raise IllegalTransition(f"no edge from {self.state} to {state}")
        self.state = state

    def fail(self, reason: str) -> None:
        """Go to FAILED and keep the reason."""
        self.advance(State.FAILED)
        self.reason = reason
