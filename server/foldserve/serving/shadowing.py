"""The shadows of a server's models: one worker for all, and the fallback when one finds too much."""

import threading
from collections.abc import Callable
from functools import partial
from queue import SimpleQueue

from foldserve.observability.logging import get_logger
from foldserve.observability.metrics import Metrics
from foldserve.observability.parity import ParityMetrics
from foldserve.parity.breach_folder import BreachFolder
from foldserve.parity.shadow import Shadow, budgets_in_service
from foldserve.parity.shadow_worker import ShadowWorker
from foldserve.serving.fallback import take_over
from foldserve.serving.opening import Opening
from foldserve.serving.original import Original
from foldserve.serving.reference import LazyReference
from foldserve.serving.repository import ModelVersion
from foldserve.serving.servable import Servable
from foldserve.settings import ReferenceMode, ServerSettings

TakeOver = Callable[[], None]

log = get_logger()


class Shadowing:
    """Gives servables their shadows; raises what :class:`BreachFolder` raises."""

    def __init__(self, settings: ServerSettings, metrics: Metrics) -> None:
        self._settings = settings
        self._breach_folder = (
            BreachFolder(settings.breach_dir, settings.breach_max_files, settings.breach_max_bytes)
            if settings.breach_dir is not None
            else None
        )
        self._worker = ShadowWorker(settings.shadow_cpu_share)
        self._metrics = metrics
        metrics.parity.cpu_s = lambda: self._worker.cpu_s
        # A thread of its own: sessions that the worker made would have threads of its low priority.
        self._takeovers: SimpleQueue[TakeOver | None] = SimpleQueue()
        threading.Thread(target=self._take_over, name="fallback", daemon=True).start()

    def attach(self, servable: Servable, source: ModelVersion) -> None:
        """Have a servable's answers compared from now on, if its settings ask for it."""
        settings = servable.provenance.settings
        if settings.shadow.reference is ReferenceMode.OFF or not settings.shadow.sample_rate:
            return
        opening = Opening(f"model '{servable.name}' version {servable.version}", settings)
        original = Original(source, settings, self._settings, servable.provenance.artefact_key)
        reference = LazyReference(original, opening)
        budgets = budgets_in_service(servable.provenance.parity_report, servable.output_names)
        take = partial(take_over, servable, original, opening, budgets)
        servable.shadow = Shadow(
            settings.shadow,
            budgets,
            reference,
            self._worker,
            ParityMetrics(servable.name, str(servable.version), lambda: reference.weights_bytes),
            on_trip=lambda breach: self._takeovers.put(lambda: take(breach)),
            rows_are_independent=servable.most_rows is not None,
            breach_folder=self._breach_folder,
        )
        self._metrics.parity.add(servable.shadow.metrics)

    def close(self) -> None:
        """End both threads; what waits is left undone."""
        self._worker.close()
        self._takeovers.put(None)

    def _take_over(self) -> None:
        while (take := self._takeovers.get()) is not None:
            try:
                take()
            except Exception:
                log.exception("a fallback failed; the model answers as before")
