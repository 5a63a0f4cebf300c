"""Which model versions there are, what state each is in, and the one that answers a request."""

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from foldserve.errors import FoldserveError, InvalidRequest, LoadFailed, ModelNotFound, ModelNotReady
from foldserve.observability.logging import get_logger
from foldserve.observability.metrics import Metrics
from foldserve.serving.facts import publish, summary
from foldserve.serving.lifecycle import Lifecycle, State
from foldserve.serving.loader import load
from foldserve.serving.repository import VERSION, ModelVersion, latest, scan
from foldserve.serving.servable import Servable
from foldserve.settings import ServerSettings, model_settings

PARALLEL_LOADS = 2
MOST_NAMES = 10
"""An error text names this many models at most."""

log = get_logger()


@dataclass
class Entry:
    """A model version on its way through life."""

    source: ModelVersion
    lifecycle: Lifecycle = field(default_factory=Lifecycle)
    servable: Servable | None = None


class ModelManager:
    """Loads the models of the repositories and hands out servables.

    ``on_ready`` is told each time a model becomes ready (True) or stops being so (False).
    """

    def __init__(
        self, settings: ServerSettings, metrics: Metrics, on_ready: Callable[[str, bool], None]
    ) -> None:
        self._settings = settings
        self._metrics = metrics
        self._on_ready = on_ready
        self._entries: dict[str, dict[int, Entry]] = {}
        self._serving: dict[tuple[str, str], Servable] = {}
        """Who answers for a model and version, and for a model and no version; replaced at each change."""

        self._publishing = threading.Lock()
        self._loaded = threading.Event()
        self._draining = False

    def discover(self) -> None:
        """Find the models to load; raises :class:`ConfigurationError` for an unreadable repository."""
        sources = latest(scan(self._settings.repository))
        self._entries = {source.name: {source.version: Entry(source)} for source in sources}
        if not sources:
            log.warning(
                "no model found",
                repositories=[str(repository) for repository in self._settings.repository],
                expected="<repository>/<model>/<version>/model.onnx or model.pt2; a version is a number",
            )

    def load_all(self) -> None:
        """Load the discovered models; one that fails keeps its reason and stops no other."""
        for entry in self.entries():
            self._tell_ready(entry.source.name, entry.source.version, False)
        with ThreadPoolExecutor(PARALLEL_LOADS, thread_name_prefix="load") as pool:
            list(pool.map(self._load, self.entries()))
        self._loaded.set()

    @property
    def loading(self) -> bool:
        """Whether some model of the start has not been tried to its end."""
        return not self._loaded.is_set()

    def entries(self) -> list[Entry]:
        """Every known model version."""
        return [entry for versions in self._entries.values() for entry in versions.values()]

    def not_ready(self) -> str:
        """Why the server as a whole is not ready; empty when it is.

        It is ready once every model of the start has been tried: one broken model does not take the others
        out of service.
        """
        if self._draining:
            return "the server is stopping"
        if self._loaded.is_set():
            return ""
        loading = [entry.source.name for entry in self.entries() if entry.lifecycle.state is not State.READY]
        return f"loading {', '.join(loading) or 'the repository'}"

    def servable(self, name: str, version: str = "") -> Servable:
        """The servable for a model, the newest ready one when no version is given.

        Raises :class:`ModelNotFound`, and where the model is known but does not serve :class:`ModelNotReady`
        or, if it never will, :class:`LoadFailed`.
        """
        serving = self._serving.get((name, version))
        if serving is not None:
            return serving
        entry = self._entry(name, version)
        identity = f"model '{name}' version {entry.source.version}"
        if entry.lifecycle.state is State.FAILED:
            raise LoadFailed(f"{identity} failed to load: {entry.lifecycle.reason}")
        raise ModelNotReady(f"{identity} is not ready, its state is {entry.lifecycle.state}; retry later")

    def is_ready(self, name: str, version: str) -> bool:
        """Whether a model serves; false for one that does not exist."""
        return (name, version) in self._serving

    def ready_models(self) -> list[str]:
        """Names of the models that serve."""
        return [name for name in self._entries if self.versions(name)]

    def labels(self, name: str, version: str) -> tuple[str, str]:
        """Model and version as metric labels: empty for what this server does not know."""
        serving = self._serving.get((name, version))
        if serving is not None:
            return serving.metrics.labels
        versions = self._entries.get(name, {})
        return name if versions else "", version if version in map(str, versions) else ""

    def versions(self, name: str) -> list[int]:
        """The ready versions of a model, ascending."""
        versions = self._entries.get(name, {})
        return sorted(number for number, entry in versions.items() if entry.lifecycle.state is State.READY)

    def stop_accepting(self) -> None:
        """Report not ready from now on; requests are still answered."""
        self._draining = True

    def close(self, deadline: float) -> None:
        """Drain and close every servable; ``deadline`` for all together, in seconds of ``time.monotonic``."""
        for entry in self.entries():
            if entry.servable is not None and entry.lifecycle.state is State.READY:
                self._unload(entry, entry.servable, deadline)

    def _entry(self, name: str, version: str) -> Entry:
        versions = self._entries.get(name)
        if not versions:
            known = [f"'{known}'" for known in sorted(self._entries)[:MOST_NAMES]]
            more = ["..."] if len(self._entries) > MOST_NAMES else []
            raise ModelNotFound(
                f"no model is named '{name[:100]}'; this server has {', '.join([*known, *more]) or 'none'}"
            )
        if not version:
            return versions[max(self.versions(name) or versions)]
        if not VERSION.fullmatch(version):
            raise InvalidRequest(f"model version '{version[:20]}' is not a positive integer")
        if int(version) not in versions:
            there = ", ".join(str(number) for number in sorted(versions))
            raise ModelNotFound(f"model '{name}' has no version {version}; this server has version {there}")
        return versions[int(version)]

    def _load(self, entry: Entry) -> None:
        if self._draining:
            return
        source, lifecycle = entry.source, entry.lifecycle
        model_log = log.bind(model=source.name, version=source.version)
        try:
            servable = load(source, lifecycle, model_settings(self._settings), self._settings)
        except FoldserveError as error:
            lifecycle.fail(str(error))
            model_log.error("model failed to load", reason=str(error))
        except Exception as error:
            lifecycle.fail(f"{type(error).__name__}: {error}")
            model_log.exception("model failed to load")
        else:
            if self._draining:
                servable.close()
                return
            entry.servable = servable
            lifecycle.advance(State.READY)
            self._publish()
            publish(servable, self._metrics)
            self._tell_ready(source.name, source.version, True)
            model_log.info("model ready", **summary(servable))
            return
        self._metrics.load_failures.labels(source.name, source.version).inc()

    def _publish(self) -> None:
        """Let requests find exactly the versions that are ready now."""
        with self._publishing:
            serving: dict[tuple[str, str], Servable] = {}
            for name, versions in self._entries.items():
                for version, entry in sorted(versions.items()):
                    if entry.lifecycle.state is State.READY and entry.servable is not None:
                        serving[name, str(version)] = serving[name, ""] = entry.servable
            self._serving = serving

    def _tell_ready(self, model: str, version: int, ready: bool) -> None:
        self._metrics.ready.labels(model, str(version)).set(ready)
        self._on_ready(model, ready)

    def _unload(self, entry: Entry, servable: Servable, deadline: float) -> None:
        entry.lifecycle.advance(State.DRAINING)
        self._publish()
        self._tell_ready(servable.name, servable.version, False)
        if not servable.drain(max(0.0, deadline - time.monotonic())):
            log.warning(
                "requests still run after the drain time-out", model=servable.name, version=servable.version
            )
        servable.close()
        entry.lifecycle.advance(State.UNLOADED)
