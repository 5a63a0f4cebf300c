"""A model version that is ready to answer, and the handles that keep it alive while it does."""

import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum

from foldserve.errors import ModelNotReady
from foldserve.folding.report import FoldReport
from foldserve.parity.report import ParityReport
from foldserve.runtime.session import Session
from foldserve.serving.queue import ExecutionQueue
from foldserve.serving.validation import Array
from foldserve.settings import ProviderChoice


class Variant(StrEnum):
    """Which form of the model answers requests."""

    FOLDED = "folded"
    UNFOLDED = "unfolded"


@dataclass(frozen=True)
class Provenance:
    """How the served session came to be: what metadata, reports and metrics tell about it."""

    variant: Variant
    optimisation: str
    """What the runtime may do to the graph: ``all``, ``without`` some optimisers, or ``off``."""

    requested_provider: ProviderChoice
    fold_report: FoldReport
    parity_report: ParityReport
    """The proof of the folded model, also where it failed and the unfolded one serves."""

    stage_seconds: Mapping[str, float]
    """What each stage of loading took."""

    reference_seconds: Sequence[float]
    """What the unoptimised original took for each probe."""


@dataclass(frozen=True, slots=True)
class Execution:
    """The outputs of one execution, in the order asked for, and what it took in seconds."""

    outputs: list[Array]
    queue_s: float
    compute_infer_s: float


class Servable:
    """One loaded model version; requests use it through :meth:`handle`, unloading waits for the handles."""

    def __init__(
        self, name: str, version: int, session: Session, provenance: Provenance, queue: ExecutionQueue
    ) -> None:
        self.name = name
        self.version = version
        self.inputs = session.inputs
        self.outputs = session.outputs
        self.provider = session.provider
        self.provenance = provenance
        self._session = session
        self._queue = queue
        self._handles = 0
        self._closing = False
        self._changed = threading.Condition()

    @contextmanager
    def handle(self) -> Iterator["Servable"]:
        """Keep the servable loaded for the block; raises :class:`ModelNotReady` once it drains."""
        with self._changed:
            if self._closing:
                raise ModelNotReady(f"model '{self.name}' version {self.version} is being unloaded")
            self._handles += 1
        try:
            yield self
        finally:
            with self._changed:
                self._handles -= 1
                self._changed.notify_all()

    def execute(
        self, inputs: Mapping[str, Array], outputs: Sequence[str], deadline: float | None
    ) -> Execution:
        """Run validated inputs through the model once the engine is free.

        Raises what :class:`ExecutionQueue` and :class:`Session` raise.
        """
        arrived = time.perf_counter()
        with self._queue.turn(deadline):
            started = time.perf_counter()
            results = self._session.run(inputs, outputs)
            finished = time.perf_counter()
        return Execution(results, queue_s=started - arrived, compute_infer_s=finished - started)

    def drain(self, timeout_s: float) -> bool:
        """Refuse new handles, wait ``timeout_s`` seconds at most for the open ones; True if none is left."""
        with self._changed:
            self._closing = True
            return self._changed.wait_for(lambda: self._handles == 0, timeout_s)

    def close(self) -> None:
        """Release the session; only after :meth:`drain`."""
        self._session.close()
