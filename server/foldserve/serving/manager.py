"""Model versions come into service here, and go out of it.

A version that is loaded again becomes ready before the one it replaces drains; where it fails, that one
serves on. Whoever loads or unloads a model holds its lock, and no other model waits for that.
"""

import threading
import time
from collections.abc import Callable, Iterable

from foldserve.errors import FoldserveError, LoadFailed, ModelNotReady, RequestCancelled
from foldserve.observability.logging import get_logger
from foldserve.observability.metrics import Metrics
from foldserve.runtime.memory import return_freed_memory
from foldserve.serving.facts import forget, publish, summary, withdraw
from foldserve.serving.lifecycle import State
from foldserve.serving.loader import load
from foldserve.serving.marks import forgive
from foldserve.serving.model_configuration import read_configuration
from foldserve.serving.model_table import Entry, Model, ModelTable
from foldserve.serving.repository import ModelFolder, ModelVersion
from foldserve.serving.servable import Servable
from foldserve.serving.shadowing import Shadowing
from foldserve.serving.version_policy import (
    aspired_versions,
    missing_versions,
    versions_to_load,
    versions_to_unload,
)
from foldserve.settings import ModelSettings, ServerSettings

Wanted = Callable[[], bool]
"""Whether somebody still waits for a load or an unload when its turn comes."""

log = get_logger()


def _always() -> bool:
    return True


class ModelManager(ModelTable):
    """Brings models into service as their folders and settings ask.

    ``on_ready`` is told each time a model becomes ready (True) or stops being so (False).
    """

    def __init__(
        self, settings: ServerSettings, metrics: Metrics, on_ready: Callable[[str, bool], None]
    ) -> None:
        super().__init__()
        self._settings = settings
        self._metrics = metrics
        self._shadowing = Shadowing(settings, metrics)
        self._on_ready = on_ready
        self._changing = threading.Lock()
        """Held while a table is replaced, never for longer."""

        self._load_slots = threading.BoundedSemaphore(settings.load_threads)
        self._drains: set[threading.Thread] = set()
        self._started = threading.Event()
        self._draining = False

    def expect(self, names: Iterable[str]) -> None:
        """Announce the models of the start, which :meth:`update` is to try."""
        for name in names:
            self._model(name).awaited = True
            self._on_ready(name, False)

    def started(self) -> None:
        """Report ready from now on: the models of the start have been tried."""
        self._started.set()

    def update(
        self,
        folder: ModelFolder,
        *,
        override: str | None = None,
        reload: bool = False,
        wanted: Wanted = _always,
    ) -> None:
        """Serve the versions of a model that its settings ask for, as its folder holds them now.

        Loads what is new or changed, with ``reload`` everything; what is superfluous goes afterwards.
        ``override`` is that of :func:`~foldserve.serving.model_configuration.read_configuration`, whose
        errors are raised. Raises :class:`LoadFailed` with the reasons when a version does not load; what
        served before serves on. Raises :class:`RequestCancelled`, and does nothing, if it is not ``wanted``
        when its turn comes.
        """
        model = self._model(folder.name)
        with model.lock, self._load_slots:
            if self._draining:
                raise ModelNotReady("the server is stopping; nothing is loaded any more")
            _require(wanted)
            try:
                configuration = read_configuration(folder, self._settings, override)
                settings, origins = configuration.settings, configuration.origins
                if not folder.versions:
                    self._unload_all(model)
                aspired = aspired_versions(
                    settings.versions, folder.versions, folder.other_folders, origins.get("versions", "")
                )
            except Exception as error:
                self._refuse(model, _reason(error))
                raise
            model.failure = ""
            self._metrics.ready.remove_by_labels({"model": model.name, "version": ""})
            for version in missing_versions(settings.versions, folder.versions):
                log.error("a version to serve is not there", model=model.name, version=version)
            present = {version: (folder.files, files) for version, files in folder.versions.items()}
            failures = [
                f"version {version}: {failure}"
                for version in versions_to_load(aspired, present, {} if reload else model.tried)
                if (failure := self._load(model, folder.version(version, settings.file, origins), settings))
            ]
            model.tried |= {version: present[version] for version in aspired}
            for version in versions_to_unload(aspired, present, model.ready):
                self._unload(model, version)
            self._forget_missing(model)
            model.awaited = False
        if failures:
            raise LoadFailed(f"model '{model.name}' failed to load, {'; '.join(failures)}")

    def refuse(self, name: str, reason: str) -> None:
        """Tell why a model is not even tried; what served before serves on."""
        model = self._model(name)
        with model.lock:
            self._refuse(model, reason)

    def unload(self, name: str, *, wanted: Wanted = _always) -> None:
        """Take a model out of service; requests in flight finish, and nobody waits for them.

        Raises :class:`RequestCancelled` as :meth:`update` does.
        """
        model = self._model(name)
        with model.lock:
            _require(wanted)
            model.failure = ""
            self._unload_all(model)
            self._forget_missing(model)

    def reset_fallback(self, servable: Servable) -> bool:
        """Let a servable that fell back answer again as it was loaded; False if it does already."""
        return servable.reset_fallback()

    @property
    def unfinished(self) -> bool:
        """Whether some model is being loaded, or runs for requests although it was to be closed."""
        return self.loading or bool(self._drains)

    @property
    def loading(self) -> bool:
        """Whether some model is being loaded, or waits for it since the start."""
        return not self._started.is_set() or any(model.lock.locked() for model in self._models.values())

    def not_ready(self) -> str:
        """Why the server as a whole is not ready; empty when it is.

        It is ready once every model of the start has been tried: one broken model does not take the others
        out of service.
        """
        if self._draining:
            return "the server is stopping"
        if self._started.is_set():
            return ""
        loading = [name for name, model in self._models.items() if model.awaited]
        return f"loading {', '.join(loading) or 'the repository'}"

    def is_ready(self, name: str, version: str) -> bool:
        """Whether a model serves and the server is not stopping; false for one that does not exist."""
        return not self._draining and super().is_ready(name, version)

    def stop_accepting(self) -> None:
        """Report not ready from now on, and load nothing any more; requests are still answered."""
        with self._changing:
            self._draining = True

    def close(self, deadline: float) -> None:
        """Drain and close every servable; ``deadline`` for all together, in seconds of ``time.monotonic``."""
        for model in self._models.values():
            self._unload_all(model)
        for drain in list(self._drains):
            drain.join(max(0.0, deadline - time.monotonic()))
        self._shadowing.close()
        forgive()
        for drain in list(self._drains):
            log.warning("requests still run after the drain time-out", model=drain.name)

    def _model(self, name: str) -> Model:
        with self._changing:
            if name not in self._models:
                self._models = {**self._models, name: Model(name)}
            return self._models[name]

    def _refuse(self, model: Model, reason: str) -> None:
        model.failure, model.awaited = reason, False
        self._metrics.load_failures.labels(model.name, "").inc()
        if not model.ready:
            self._metrics.ready.labels(model.name, "").set(0)
        serves_on = "model is not brought up to date: the old one serves on"
        event = serves_on if model.ready else "model is not loaded"
        log.error(event, model=model.name, reason=reason, serving=list(model.ready))

    def _load(self, model: Model, source: ModelVersion, settings: ModelSettings) -> str:
        """Load one version and bring it into service; why it failed, or an empty text."""
        entry = Entry(source, settings)
        present = model.versions.get(source.version)
        replaced = present if present is not None and present.lifecycle.state is State.READY else None
        if replaced is None:
            model.versions = {**model.versions, source.version: entry}
            self._tell_ready(model, source.version)
        model_log = log.bind(model=source.name, version=source.version)
        model_log.info("loading model")
        failed = "model failed to load" if replaced is None else "loading again failed: the old one serves on"
        try:
            servable = load(
                source,
                entry.lifecycle,
                settings,
                self._settings,
                requests_are_served=self._started.is_set(),
            )
            self._put_in_service(model, entry, servable)
        except FoldserveError as error:
            reason = _reason(error)
            model_log.error(failed, reason=reason, serving=list(model.ready))
        except Exception as error:
            reason = _reason(error)
            model_log.exception(failed, serving=list(model.ready))
        else:
            model_log.info("model ready", **summary(servable))
            if replaced is not None:
                self._retire(model, replaced)
            return ""
        entry.lifecycle.fail(reason)
        entry.release()
        return_freed_memory()
        if replaced is not None:
            replaced.reload_failure = f"loading it again failed: {reason}"
        self._metrics.load_failures.labels(source.name, source.version).inc()
        return reason

    def _put_in_service(self, model: Model, entry: Entry, servable: Servable) -> None:
        with self._changing:
            if self._draining:
                servable.close()
                raise ModelNotReady("the server is stopping")
            self._shadowing.attach(servable, entry.source)
            entry.servable = servable
            entry.lifecycle.advance(State.READY)
            model.versions = {**model.versions, servable.version: entry}
            self._publish(model)
        publish(servable, self._metrics)
        self._tell_ready(model, servable.version)

    def _unload_all(self, model: Model) -> None:
        for version in model.ready:
            self._unload(model, version)

    def _unload(self, model: Model, version: int) -> None:
        """Take a ready version out of service."""
        model.tried.pop(version, None)
        self._retire(model, model.versions[version])
        withdraw(model.name, version, self._metrics)
        self._tell_ready(model, version)

    def _retire(self, model: Model, entry: Entry) -> None:
        """Let an entry drain by itself: its requests may take their time."""
        with self._changing:
            if entry.lifecycle.state is not State.READY:
                return  # the server stops, and was here first
            entry.lifecycle.advance(State.DRAINING)
            self._publish(model)
        drain = threading.Thread(target=self._drain, args=(model, entry), name=model.name, daemon=True)
        self._drains.add(drain)
        drain.start()

    def _drain(self, model: Model, entry: Entry) -> None:
        assert entry.servable is not None
        entry.servable.drain(threading.TIMEOUT_MAX)
        entry.servable.close()
        entry.release()
        if not self._draining:
            return_freed_memory()
        entry.lifecycle.advance(State.UNLOADED)
        version, ready = entry.source.version, list(model.ready)
        if version in ready:
            log.info("replaced model drained", model=model.name, version=version)
        else:
            event = "version unloaded: others serve" if ready else "model unloaded"
            log.info(event, model=model.name, version=version, serving=ready)
            forget(model.name, version, self._metrics)
        self._drains.discard(threading.current_thread())
        if not self._draining:  # then nobody waits for a load that may hold the lock
            with model.lock:
                self._forget_missing(model)

    def _forget_missing(self, model: Model) -> None:
        """Tell nothing more of versions that are out of service and whose folder is gone."""
        gone = {
            version
            for version, entry in model.versions.items()
            if entry.lifecycle.state in (State.UNLOADED, State.FAILED) and not entry.source.folder.is_dir()
        }
        model.versions = {version: entry for version, entry in model.versions.items() if version not in gone}
        for version in gone:
            model.tried.pop(version, None)
            self._metrics.ready.remove(model.name, str(version))

    def _publish(self, model: Model) -> None:
        """Let requests find exactly the versions of a model that are ready now."""
        serving = {key: servable for key, servable in self._serving.items() if key[0] != model.name}
        for version, servable in model.ready.items():
            serving[model.name, str(version)] = serving[model.name, ""] = servable
        self._serving = serving

    def _tell_ready(self, model: Model, version: int) -> None:
        self._metrics.ready.labels(model.name, str(version)).set(version in model.ready)
        self._on_ready(model.name, bool(model.ready))


def _require(wanted: Wanted) -> None:
    if not wanted():
        raise RequestCancelled("the caller went away before it was this call's turn; nothing was changed")


def _reason(error: Exception) -> str:
    """What is told of a model that does not load; what was not foreseen needs its type to be understood."""
    return str(error) if isinstance(error, FoldserveError) else f"{type(error).__name__}: {error}"
