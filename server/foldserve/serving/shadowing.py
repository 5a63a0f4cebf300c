"""The shadows of a server's models: one worker for all, and the fallback when one finds too much."""

import threading
from collections.abc import Callable
from dataclasses import replace
from queue import SimpleQueue

from foldserve.observability.logging import get_logger
from foldserve.observability.metrics import Metrics
from foldserve.observability.parity import ParityMetrics
from foldserve.parity.breach_folder import BreachFolder
from foldserve.parity.live_comparison import budgets_in_service
from foldserve.parity.shadow import Shadow
from foldserve.parity.shadow_worker import ShadowWorker
from foldserve.serving.fallback import TakeOver
from foldserve.serving.opening import Opening
from foldserve.serving.original import Original
from foldserve.serving.reference import LazyReference
from foldserve.serving.repository import ModelVersion
from foldserve.serving.servable import Servable
from foldserve.settings import ReferenceMode, ServerSettings

Work = Callable[[], None]

CLOSING_S = 1.0
"""Longest that a clean end waits for what the worker is at."""

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
        self._judging = threading.Lock()
        # Not started by the worker: threads inherit its low priority, and so would those of their sessions.
        self._takeovers: SimpleQueue[Work | None] = SimpleQueue()
        threading.Thread(target=self._run, name="fallbacks", daemon=True).start()

    def attach(self, servable: Servable, source: ModelVersion) -> None:
        """Have a servable's answers compared from now on, if its settings ask for it."""
        settings = servable.provenance.settings
        if settings.shadow.reference is ReferenceMode.OFF or not settings.shadow.sample_rate:
            self._metrics.parity.forget(servable.name, str(servable.version))
            return
        opening = Opening(f"model '{servable.name}' version {servable.version}", settings)
        # It must not keep an upload's files beyond the servable's life.
        unowned = replace(source, owner=None)
        original = Original(unowned, settings, self._settings, servable.provenance.artefact_key)
        reference = LazyReference(original, opening)
        shadow = servable.shadow = Shadow(
            settings.shadow,
            budgets_in_service(servable.provenance.parity_report, servable.output_names),
            reference,
            self._worker,
            ParityMetrics(servable.name, str(servable.version), lambda: reference.weights_bytes),
            on_trip=lambda breaches: self._takeovers.put(lambda: take_over(breaches)),
            breach_folder=self._breach_folder,
        )
        take_over = TakeOver(servable, shadow, original, opening, self._judging)
        self._metrics.parity.add(shadow.metrics)

    def close(self) -> None:
        """End the threads; what waits is left undone."""
        self._takeovers.put(None)
        self._worker.close(CLOSING_S)

    def _run(self) -> None:
        while (work := self._takeovers.get()) is not None:
            try:
                threading.Thread(target=_take_over, args=(work,), name="fallback", daemon=True).start()
            except RuntimeError:  # no more threads
                _take_over(work)
            del work  # it knows the servable


def _take_over(work: Work) -> None:
    try:
        work()
    except Exception:
        log.exception("a fallback failed")
