"""From a version folder to a servable: opened from the cache or prepared, tuned, warm."""

import contextlib
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

from foldserve.disk_cache import prune, read_entry
from foldserve.errors import ExecutionFailed, InvalidModel, LoadFailed
from foldserve.graph_library import import_graph_library
from foldserve.observability.logging import get_logger
from foldserve.runtime.engines import Engine
from foldserve.runtime.memory import return_freed_memory
from foldserve.runtime.providers import resolve_provider
from foldserve.runtime.session import Session, Shrinking
from foldserve.runtime.tuning import Layout, Tuning
from foldserve.serving.artefacts import MODEL, Artefact, artefact_key, evidence_in, file_of
from foldserve.serving.batcher import Batcher
from foldserve.serving.classification import read_labels
from foldserve.serving.declared import check_declared, warn_of_batching_in_vain
from foldserve.serving.lifecycle import Lifecycle, State
from foldserve.serving.marks import ends_under, under
from foldserve.serving.opening import Opening, in_words
from foldserve.serving.pace import UNSTEADY
from foldserve.serving.rehearsal import CHANCE_ENDS, rehearse, rehearsed
from foldserve.serving.repository import ModelVersion
from foldserve.serving.reshaped import keeps_rows, reshaped
from foldserve.serving.servable import Provenance, Servable
from foldserve.serving.stages import Stages
from foldserve.serving.tune import tuned
from foldserve.settings import ModelSettings, ServerSettings

if TYPE_CHECKING:
    from foldserve.parity.evidence import Evidence
    from foldserve.serving.engines import OpenSessions
    from foldserve.serving.preparation import Prepared

log = get_logger()


def load(
    source: ModelVersion,
    lifecycle: Lifecycle,
    settings: ModelSettings,
    server: ServerSettings,
    *,
    requests_are_served: bool = True,
) -> Servable:
    """Load one model version; on return its lifecycle is in WARMING and it only needs publishing.

    ``requests_are_served``: by other models, which must not suffer from whatever is in this one. Raises the
    exceptions under :class:`~foldserve.errors.LoadFailed`.
    """
    with tempfile.TemporaryDirectory(prefix="foldserve-") as scratch:
        loading = _Loading(source, settings, server, Stages(lifecycle), Path(scratch))
        loaded = loading.restored() or loading.prepared(requests_are_served)
    return_freed_memory()
    loading.prune()
    loading.stages.pass_through(State.FOLDING, State.PROVING, State.WARMING)
    return loading.servable(loaded)


@dataclass(frozen=True)
class _Loaded:
    """A prepared model, open as it will serve."""

    artefact: Artefact
    tuning: Tuning
    session: Session
    file: Path
    """What the baseline engine ran."""

    from_cache: bool


class _Loading:
    """One load: what it is about, and the two ways in which it may go."""

    def __init__(
        self,
        source: ModelVersion,
        settings: ModelSettings,
        server: ServerSettings,
        stages: Stages,
        scratch: Path,
    ) -> None:
        self._source = source
        self._settings = settings
        self._server = server
        self._scratch = scratch
        self._name = f"model '{source.name}' version {source.version}"
        self._opening = Opening(self._name, settings)
        self.stages = stages
        with stages.of(State.LOADING):
            self._identity = source.identity()
            try:
                self._key = artefact_key(source, settings, resolve_provider(settings.provider))
            except OSError as error:
                raise InvalidModel(
                    f"{self._name} cannot be read: {error.strerror} ({error.filename}); mend its rights"
                ) from None
        self._cache = server.cache_dir
        self._marks = self._cache / "opening" / self._key

    def restored(self) -> _Loaded | None:
        """What an earlier load left in the cache; None where there is nothing, or it is not as it was."""
        folder = self._cache / "models" / self._key
        with self.stages.of(State.LOADING):
            artefact = read_entry(folder, Artefact)
        if artefact is None:
            return None
        loaded, reason = None, "it does not answer as it did"
        if ends_under(self._marks) > CHANCE_ENDS:
            reason = f"the process ended again and again while {artefact.engine.name} opened it"
        else:
            try:
                with under(self._marks):
                    loaded = self._opened(artefact, folder, from_cache=True)
            except LoadFailed as error:
                reason = str(error)
        if loaded is None:
            log.warning("preparing a cached model anew", model=self._name, reason=reason)
            shutil.rmtree(folder, ignore_errors=True)
        elif not artefact.parity_report.passed:
            log.error(
                "parity breach when this model was prepared",
                model=self._name,
                serving=artefact.variant,
                optimisation=in_words(artefact.optimisation),
                evidence=artefact.parity_report.explanation,
            )
        return loaded

    def prepared(self, requests_are_served: bool) -> _Loaded:
        """The model folded, proven, and kept for the next start."""
        # Half a second of imports that a start from the cache does without.
        import_graph_library()
        from foldserve.serving import model_file, preparation  # noqa: PLC0415
        from foldserve.serving.artefact_files import artefact_files  # noqa: PLC0415

        with self.stages.of(State.LOADING):
            file = model_file.onnx_file(self._source, self._scratch, self._server)
        entry = self._cache / "models" / self._key
        with artefact_files(entry, self._scratch / "model") as files:
            with rehearsed(
                self._marks, lambda: self._rehearse(file), requests_are_served=requests_are_served
            ) as ends:
                # ONNX Runtime survives it by now: where a process ended, another engine may be why.
                tune = None if ends else self._tuned
                made = preparation.prepare(
                    file, self._source.samples, self._opening, self.stages, files=files, tune=tune
                )
            if self._source.identity() != self._identity:
                raise InvalidModel(f"{self._name}: its files were changed while it was loaded; load it again")
            with self.stages.of(State.WARMING):
                record = _record(made)
                artefact = files.finish(made.choice.candidate.model, made.evidence, record)
        proven = dict(made.proven)
        if artefact is not record:  # somebody else's files are there, and serve
            for session in proven.values():
                session.close()
            proven.clear()
        loaded = self._opened(artefact, files.entry, from_cache=False, proven=proven)
        if loaded is None and proven:
            # What is random in a model may repeat itself in each new session, but not within one.
            loaded = self._opened(artefact, files.entry, from_cache=False)
        if loaded is None:
            raise InvalidModel(
                f"{self._name} answers differently each time it is opened, so nothing can be proven; "
                "remove what is random from it"
            )
        return loaded

    def _rehearse(self, file: Path) -> None:
        with self.stages.of(State.LOADING):
            rehearse(self._name, file, self._source.samples, timeout_s=self._server.import_timeout_s)

    def prune(self) -> None:
        """Keep the cache within its bounds; a model that is open by now needs its entry no more."""
        with contextlib.suppress(OSError):  # another server may be pruning the same cache
            prune(self._cache, self._server.cache_max_bytes)

    def servable(self, loaded: _Loaded) -> Servable:
        """The servable that answers with ``loaded``."""
        artefact, settings, source = loaded.artefact, self._settings, self._source
        session = loaded.session
        check_declared(session.inputs, session.outputs, settings, source.origins)
        if not artefact.batches:
            warn_of_batching_in_vain(source.name, settings, source.origins)
        session = reshaped(session, settings)
        labels = read_labels(source.folder.parent, settings.labels, [spec.name for spec in session.outputs])
        provenance = Provenance(
            variant=artefact.variant,
            optimisation=artefact.optimisation,
            artefact_key=self._key,
            requested_provider=settings.provider,
            fold_report=artefact.fold_report,
            parity_report=artefact.parity_report,
            batches=artefact.batches and keeps_rows(settings),
            stage_seconds=self.stages.seconds,
            reference_seconds=artefact.reference_seconds,
            provider_seconds=artefact.provider_seconds,
            engines=artefact.engines,
            file=loaded.file,
            from_cache=loaded.from_cache,
            tuning=loaded.tuning,
            settings=settings,
        )
        batcher = Batcher(
            session,
            most_rows=provenance.rows_of_a_run,
            instances=loaded.tuning.layout.instances,
            capacity=settings.max_queue_size,
            batching=settings.batching,
            model=source.name,
            short_s=0.0 if UNSTEADY & artefact.fold_report.operators_before.keys() else None,
        )
        return Servable(source.name, source.version, session, provenance, batcher, labels=labels)

    def _opened(
        self,
        artefact: Artefact,
        folder: Path,
        *,
        from_cache: bool,
        proven: "OpenSessions" = MappingProxyType({}),
    ) -> _Loaded | None:
        """The model in ``folder``, tuned; None if it does not repeat what it answered when it was proven.

        ``proven`` is the session of it that was proven, or another that answered the same, if one is open.
        """
        engine, evidence = artefact.engine, evidence_in(folder)
        unused = dict(proven)

        def open_with(layout: Layout, warm_rows: int = 1) -> Session:
            return unused.pop(layout, None) or self._opening.open_engine(
                engine, folder / file_of(engine), layout, artefact.optimisation, warm_rows=warm_rows
            )

        with self.stages.timed("tuning"):
            tuning, session = self._tuned(engine, open_with, evidence, artefact.batches)
            session = session or unused.pop(tuning.layout, None)
            if evidence is not None and isinstance(session, Shrinking):
                with contextlib.suppress(ExecutionFailed):  # what fails now serves no worse for it
                    session.shrink(evidence.probe)
        with self.stages.timed(State.WARMING.lower()):
            session = session or open_with(tuning.layout, tuning.most_rows)
            for other in unused.values():
                other.close()
            if (
                session in proven.values()
                or evidence is None
                or evidence.holds(session, artefact.parity_report.budget)
            ):
                return _Loaded(artefact, tuning, session, folder / MODEL, from_cache)
            session.close()
            return None

    def _tuned(
        self,
        engine: Engine,
        open_with: Callable[[Layout], Session],
        evidence: "Evidence | None",
        batches: bool,  # as preparation's Tune has it
    ) -> tuple[Tuning, Session | None]:
        return tuned(
            engine.name,
            evidence,
            self._settings,
            open_with,
            batches=batches,
            tunings=self._cache / "tunings",
            artefact_key=self._key,
        )


def _record(made: "Prepared") -> Artefact:
    return Artefact(
        variant=made.choice.candidate.form.variant,
        provider=made.choice.session.provider,
        provider_seconds=dict(made.provider_seconds),
        optimisation=made.choice.optimisation,
        fold_report=made.choice.candidate.fold_report,
        parity_report=made.choice.parity_report,
        batches=made.batches,
        reference_seconds=made.reference_seconds,
        engines=made.engines,
    )
