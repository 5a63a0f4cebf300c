"""The tuning of a model that is about to serve: as set, as it was measured before, or measured now."""

import threading
from collections.abc import Callable
from functools import lru_cache, partial
from pathlib import Path

import numpy as np

from foldserve.disk_cache import entry_key, read_entry, write_entry
from foldserve.errors import ExecutionFailed
from foldserve.observability.logging import get_logger
from foldserve.parity.evidence import Evidence
from foldserve.parity.probes import Probe
from foldserve.runtime.cpus import available_cpus, cpu_model
from foldserve.runtime.session import Session
from foldserve.runtime.tuning import Layout, Tuning, batch_sizes, layouts, measure
from foldserve.settings import ModelSettings

log = get_logger()

LARGEST_TRIED = 256
"""Rows of the largest batch that is measured."""

measuring = threading.Lock()
"""Models that load side by side would measure each other."""


def widest(settings: ModelSettings) -> Layout:
    """The layout of most threads within a run: what a model is proven with."""
    return _layouts(settings)[-1]


def tuned(
    engine: str,
    evidence: Evidence | None,
    settings: ModelSettings,
    open_with: Callable[[Layout], Session],
    *,
    batches: bool,
    tunings: Path,
    artefact_key: str,
) -> tuple[Tuning, Session | None]:
    """The tuning of a prepared model on an engine; ``open_with`` makes a session of it for a layout.

    ``evidence`` has the inputs to measure with; without it nothing is measured. ``batches``: whether requests
    may share a run. What was measured is kept in
    ``tunings``, for this machine and these settings. A session that was made on the way may come with it.
    Raises what ``open_with`` raises.
    """
    candidates = _layouts(settings)
    most_rows = max(1, settings.max_batch_size) if batches else 1
    rows = batch_sizes(min(most_rows, LARGEST_TRIED))
    if evidence is None or len(candidates) * len(rows) == 1:
        return Tuning(layout=candidates[-1], most_rows=most_rows), None
    deciding = settings.model_dump_json(include={"objective", "instances", "intra_op_threads"})
    entry = tunings / entry_key(
        [artefact_key, engine, deciding, f"{most_rows}", f"{available_cpus()} x {cpu_model()}"]
    )
    known = read_entry(entry, Tuning)
    if known is not None:
        return known, None
    with measuring:
        tuning, session = _measured(candidates, rows, evidence.probe, settings, open_with)
    if tuning.most_rows == rows[-1]:  # the more the better, as far as was tried
        tuning = tuning.model_copy(update={"most_rows": most_rows})
    try:
        write_entry(entry, lambda _: tuning)
    except OSError:
        log.debug("the cache cannot be written: measuring again at each start")
    return tuning, session


def _layouts(settings: ModelSettings) -> list[Layout]:
    return layouts(available_cpus(), settings.instances, settings.intra_op_threads)


def _measured(
    candidates: list[Layout],
    rows: list[int],
    probe: Probe,
    settings: ModelSettings,
    open_with: Callable[[Layout], Session],
) -> tuple[Tuning, Session | None]:
    batch_of = batches_of(probe)

    def run(session: Session, size: int) -> None:
        session.run(batch_of(size) if len(rows) > 1 else probe)

    try:
        # The widest first: it is open already where the model was just proven.
        return measure(reversed(candidates), rows, open_with, run, settings.objective)
    except ExecutionFailed:
        return Tuning(layout=candidates[-1], most_rows=rows[-1]), None


def batches_of(probe: Probe) -> Callable[[int], Probe]:
    """Makes batches of so many rows, and keeps the last few: to make one anew would count as its run."""
    return lru_cache(maxsize=2)(partial(_repeated, probe))


def _repeated(probe: Probe, rows: int) -> Probe:
    """So many rows, those of ``probe`` again and again."""
    return {name: array[np.arange(rows) % len(array)] for name, array in probe.items()}
