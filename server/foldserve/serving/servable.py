"""A model version that is ready to answer, and the handles that keep it alive while it does."""

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict

from foldserve.errors import ModelNotReady, QueueFull
from foldserve.folding.report import FoldReport
from foldserve.observability.inference import InferenceMetrics
from foldserve.parity.report import ParityReport
from foldserve.runtime.session import Provider, Session
from foldserve.runtime.tuning import Tuning
from foldserve.serving.batcher import Batcher, Later
from foldserve.serving.classification import Labels
from foldserve.serving.engine_choice import EngineReport
from foldserve.serving.ladder import Optimisation, Variant
from foldserve.serving.validation import RECURRENT
from foldserve.serving.waiting import Waiting
from foldserve.settings import Batching, ModelSettings, ProviderChoice

if TYPE_CHECKING:
    from foldserve.parity.shadow import Shadow


@dataclass(frozen=True)
class Provenance:
    """How the served session came to be: what metadata, reports and metrics tell about it."""

    variant: Variant
    optimisation: Optimisation
    """What the runtime may do to the graph."""

    artefact_key: str
    """The name under which the prepared model is kept: a hash of all that it was made from."""

    requested_provider: ProviderChoice
    fold_report: FoldReport
    parity_report: ParityReport
    """The proof of the folded model, also where it failed and the unfolded one serves."""

    batches: bool
    """Whether requests may share a run: their rows were found to be independent."""

    stage_seconds: Mapping[str, float]
    """What each stage of loading took."""

    reference_seconds: Sequence[float]
    """What the unoptimised original took for each probe."""

    provider_seconds: Mapping[Provider, float]
    """One run on each provider; empty where there was no choice between two."""

    engines: EngineReport
    """Which engines were tried, and which one serves."""

    file: Path
    """The ONNX file that the baseline engine ran when it was proven; the cache may drop it later on."""

    from_cache: bool
    """Whether an earlier load had prepared it."""

    tuning: Tuning
    settings: ModelSettings

    @property
    def engine(self) -> str:
        """Name of the engine that was chosen."""
        return self.engines.engine

    @property
    def most_rows(self) -> int | None:
        """Rows of the largest batch that callers are told of; None where requests never share a run."""
        return self.settings.max_batch_size or None if self.batches else None

    @property
    def rows_of_a_run(self) -> int | None:
        """Rows that one run gets at most: less than callers are told where a larger batch gains nothing and
        nobody asked for one."""
        if self.most_rows is None or self.settings.batching != Batching():
            return self.most_rows
        return min(self.most_rows, self.tuning.most_rows)


class Fallback(BaseModel):
    """That another form of the model answers since parity broke in service, and what showed it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    since: float
    """Seconds since 1970."""

    reason: str
    """As metrics count it."""

    evidence: str
    """Which outputs left their budget, and how far."""

    variant: Variant
    """Which form answers."""

    engine: str
    """The engine that runs it."""

    runtime_optimisation: str
    """What the runtime may do to its graph."""


class Servable:
    """One loaded model version; requests hold a handle of it, unloading waits for them."""

    def __init__(
        self,
        name: str,
        version: int,
        session: Session,
        provenance: Provenance,
        batcher: Batcher,
        *,
        labels: Labels = MappingProxyType({}),
    ) -> None:
        self.name = name
        self.version = version
        self.inputs = session.inputs
        self.outputs = session.outputs
        self.output_names = tuple(spec.name for spec in session.outputs)
        self.provider = session.provider
        self.most_rows = provenance.most_rows
        self.provenance = provenance
        self.needs_elements = bool(RECURRENT & provenance.fold_report.operators_before.keys())
        """Whether inputs without elements must not get to the session."""

        self.variant = provenance.variant
        """Which form answers now."""

        self.engine = provenance.engine
        """Which engine runs it."""

        self.shadow: Shadow | None = None
        """What compares answers with the unfolded model's; None where nothing does."""

        self.fallback: Fallback | None = None
        """None while it answers in the form that it was loaded in."""

        self.labels = labels
        self.metrics = InferenceMetrics(name, str(version), provenance.variant, lambda: batcher.waiting)
        self._session = session
        self._batcher = batcher
        self._handles = 0
        self._closing = False
        self._lock = threading.Lock()
        self._drained = threading.Event()

    @property
    def rows_of_a_run(self) -> int | None:
        """Rows that one run gets at most; None where requests never share a run, or do so no more.

        ``most_rows`` stays what it was at load: a caller's answer must not depend on what others sent.
        """
        return self._batcher.most_rows

    def acquire(self) -> None:
        """Take a handle, which keeps the servable loaded; raises :class:`ModelNotReady` once it drains."""
        with self._lock:
            if self._closing:
                raise ModelNotReady(f"model '{self.name}' version {self.version} is being unloaded")
            self._handles += 1

    def release(self) -> None:
        """Give a handle back."""
        with self._lock:
            self._handles -= 1
            if self._closing and not self._handles:
                self._drained.set()

    def submit(self, request: Waiting, *, priority: int, timeout_us: int, later: Later | None) -> None:
        """Put a validated request in line; arguments and errors are :meth:`Batcher.submit`'s."""
        self._batcher.submit(request, priority=priority, timeout_us=timeout_us, later=later)

    def refusal(self) -> QueueFull | None:
        """See :meth:`Batcher.refusal`."""
        return self._batcher.refusal()

    def fall_back(self, session: Session, fallback: Fallback, instead_of: Fallback | None) -> bool:
        """Let ``session``, which is what ``fallback`` says, answer from the next run on.

        False, and nothing is changed, if this one is closing or something else answers than ``instead_of``.
        """
        with self._lock:
            if self._closing or self.fallback is not instead_of:
                return False
            self.fallback = fallback
            self._answer_with(session, fallback.variant, fallback.engine)
            if self.shadow is not None:
                self.shadow.metrics.count_fallback(fallback.reason)
            return True

    def reset_fallback(self) -> bool:
        """Answer in the form that it was loaded in, and trust it again; False if it answered so already."""
        with self._lock:
            was_active, self.fallback = self.fallback is not None, None
            if was_active:
                self._answer_with(self._session, self.provenance.variant, self.provenance.engine)
            if self.shadow is not None:
                self.shadow.metrics.end_fallback()
        if self.shadow is not None:
            self.shadow.reset()
        return was_active

    def _answer_with(self, session: Session, variant: Variant, engine: str) -> None:
        self.metrics.answer_with(variant)
        self.variant = variant
        self.engine = engine
        self.provider = session.provider
        self._batcher.use(session)

    def drain(self, timeout_s: float) -> bool:
        """Refuse new handles, wait ``timeout_s`` seconds at most for the open ones; True if none is left."""
        with self._lock:
            self._closing = True
            if not self._handles:
                self._drained.set()
        return self._drained.wait(timeout_s)

    def close(self) -> None:
        """End the engine and release the session; only after :meth:`drain`."""
        if self.shadow is not None:
            self.shadow.close()
        self._batcher.close()
        self._session.close()
