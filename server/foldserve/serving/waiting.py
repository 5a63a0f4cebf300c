"""A request in line, and what becomes of it."""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from foldserve.runtime.session import Array


class Execution(NamedTuple):
    """The outputs of one request, in the order asked for, and what it took in seconds."""

    outputs: list[Array]
    queue_s: float
    compute_infer_s: float
    runs: tuple[int, ...]
    """Rows of each run of the engine that counts as this request's: of those in a batch, the first has it.

    A run of no rows counts as none.
    """


@dataclass(slots=True, eq=False)
class Waiting:
    """A request in line; times are in seconds of ``time.monotonic``."""

    inputs: Mapping[str, Array]
    outputs: Sequence[str]
    rows: int
    cancelled: Callable[[], bool]
    done: Callable[[Execution | Exception], None]
    """Told what became of the request, exactly once, by any thread; must not raise."""

    deadline: float = math.inf
    """From then on it is refused."""

    overdue: float = math.inf
    """From then on it lets all others of its priority pass."""

    priority: int = 0
    """The lower, the sooner."""

    arrived: float = field(default_factory=time.monotonic)
    nbytes: int = field(init=False)
    """Size of the inputs."""

    def __post_init__(self) -> None:
        self.nbytes = sum(array.nbytes for array in self.inputs.values())

    def fits(self, other: "Waiting") -> bool:
        """Whether both may run in one batch: same outputs, and same shapes beyond the first axis."""
        return self.outputs == other.outputs and all(
            array.shape[1:] == other.inputs[name].shape[1:] for name, array in self.inputs.items()
        )


def rows_in(requests: Sequence[Waiting]) -> int:
    """Rows of all of them: asked with each request, and a sum over a generator takes three times as long."""
    rows = 0
    for waiting in requests:
        rows += waiting.rows
    return rows
