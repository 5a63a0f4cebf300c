"""What there is to tell of every model version, and which of them answers a request.

Whoever looks finds tables that nobody changes: each change makes a new one.
"""

import threading
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from itertools import islice

from foldserve.errors import InvalidRequest, LoadFailed, ModelNotFound, ModelNotReady
from foldserve.serving.lifecycle import Lifecycle, State
from foldserve.serving.repository import VERSION, Identity, ModelVersion
from foldserve.serving.servable import Servable
from foldserve.settings import ModelSettings

MOST_NAMES = 10
"""An error text names this many models at most."""


@dataclass
class Entry:
    """One attempt to serve a model version, on its way through life."""

    source: ModelVersion
    settings: ModelSettings
    lifecycle: Lifecycle = field(default_factory=Lifecycle)
    servable: Servable | None = None
    reload_failure: str = ""
    """Why a later attempt failed, while this one serves on."""

    def release(self) -> None:
        """Let go of what a version holds that no longer serves."""
        self.servable = None
        self.source = replace(self.source, owner=None)


@dataclass(frozen=True)
class Status:
    """What is told of a model version; ``version`` is None for a model none of whose versions was tried."""

    name: str
    version: int | None
    state: State
    reason: str = ""


@dataclass
class Model:
    """All versions of one model."""

    name: str
    lock: threading.Lock = field(default_factory=threading.Lock)
    """Held by whoever loads or unloads."""

    awaited: bool = False
    """Whether the start of the server has yet to try it."""

    failure: str = ""
    """Why no version was tried: its configuration, mostly."""

    versions: dict[int, Entry] = field(default_factory=dict)
    """The last attempt at each version, or the one that serves; replaced at each change."""

    tried: dict[int, tuple[Identity, Identity]] = field(default_factory=dict)
    """The files of the last attempt at each version: the model's own, the version's."""

    @property
    def ready(self) -> dict[int, Servable]:
        """The versions that serve, ascending."""
        return {
            version: entry.servable
            for version, entry in sorted(self.versions.items())
            if entry.lifecycle.state is State.READY and entry.servable is not None
        }

    def statuses(self) -> Iterator[Status]:
        """What there is to tell of each version."""
        for version, entry in sorted(self.versions.items()):
            state = entry.lifecycle.state
            reason = entry.lifecycle.reason or entry.reload_failure or self.failure
            yield Status(self.name, version, state, "unloaded" if state is State.UNLOADED else reason)
        if not self.versions and self.failure:
            yield Status(self.name, None, State.FAILED, self.failure)
        elif not self.versions and self.awaited:
            yield Status(self.name, None, State.NEW)


class ModelTable:
    """Every model, for those who look."""

    def __init__(self) -> None:
        self._models: dict[str, Model] = {}
        """Every model there ever was: they are few and small, and their locks must stay the same."""

        self._serving: dict[tuple[str, str], Servable] = {}
        """Who answers for a model and version, and for a model and no version; replaced at each change."""

        self._offered: frozenset[str] = frozenset()
        """Models that the repositories had when somebody last looked: whoever asks for one may load it."""

    def offer(self, names: Iterable[str]) -> None:
        """Say which models lie in the repositories, loaded or not."""
        self._offered = frozenset(names)

    def servable(self, name: str, version: str = "") -> Servable:
        """The servable for a model, the newest ready one when no version is given.

        Raises :class:`ModelNotFound`, and where the model is known but does not serve :class:`ModelNotReady`
        or, if it never will, :class:`LoadFailed`.
        """
        serving = self._serving.get((name, version))
        if serving is not None:
            return serving
        status = self._status(name, version)
        identity = f"model '{name}'" + (f" version {status.version}" if status.version else "")
        if status.state is State.FAILED:
            raise LoadFailed(f"{identity} failed to load: {status.reason}")
        if status.state not in (State.DRAINING, State.UNLOADED):
            raise ModelNotReady(f"{identity} is not ready, its state is {status.state}; retry later")
        if ready := self.versions(name):
            raise ModelNotReady(f"{identity} is out of service; version {', '.join(map(str, ready))} serves")
        where = "in the repository but not loaded" if name in self._offered else "not loaded any more"
        raise ModelNotReady(f"model '{name}' is {where}; load it with RepositoryModelLoad")

    def acquire(self, name: str, version: str = "") -> Servable:
        """The servable for a model with a handle taken, to be released; raises as :meth:`servable` does.

        One that is replaced in the moment between finding and taking it does not count: its successor serves.
        """
        while True:
            servable = self.servable(name, version)
            try:
                servable.acquire()
            except ModelNotReady:
                if self._serving.get((name, version)) is servable:
                    raise
            else:
                return servable

    def serving(self) -> Iterable[Servable]:
        """Every servable that answers requests, some of them more than once."""
        return self._serving.values()

    def is_ready(self, name: str, version: str) -> bool:
        """Whether a model serves; false for one that does not exist."""
        return (name, version) in self._serving

    def ready_models(self) -> list[str]:
        """Names of the models that serve."""
        return [name for name, version in self._serving if not version]

    def versions(self, name: str) -> list[int]:
        """The ready versions of a model, ascending."""
        return list(self._models[name].ready) if name in self._models else []

    def labels(self, name: str, version: str) -> tuple[str, str]:
        """Model and version as metric labels: empty for what this server does not know."""
        serving = self._serving.get((name, version))
        if serving is not None:
            return serving.metrics.labels
        if name not in self._models:
            return name if name in self._offered else "", ""
        return name, version if version in map(str, self._models[name].versions) else ""

    def statuses(self) -> list[Status]:
        """Every known model version, by name and version, and every model that waits to be loaded."""
        return [status for name in self._names() for status in self._statuses(name)]

    def _names(self) -> list[str]:
        return sorted({*self._models, *self._offered})

    def _statuses(self, name: str) -> list[Status]:
        model = self._models.get(name)
        told = list(model.statuses()) if model is not None else []
        if not told and name in self._offered:
            return [Status(name, None, State.UNLOADED, "not loaded")]
        return told

    def _status(self, name: str, version: str) -> Status:
        """What there is to tell of a version that does not serve; of the highest when none is given."""
        own = {status.version: status for status in self._statuses(name)}
        if not own:
            known = (f"'{one}'" for one in self._names() if self._statuses(one))
            names = list(islice(known, MOST_NAMES + 1))
            names[MOST_NAMES:] = ["..."] * (len(names) > MOST_NAMES)
            raise ModelNotFound(
                f"no model is named '{name[:100]}'; this server has {', '.join(names) or 'none'}"
            )
        if None in own:
            return own[None]
        if not version:
            return own[max(number for number in own if number is not None)]
        if not VERSION.fullmatch(version):
            raise InvalidRequest(f"model version '{version[:20]}' is not a positive integer")
        if int(version) not in own:
            there = ", ".join(map(str, own))
            raise ModelNotFound(f"model '{name}' has no version {version}; this server has version {there}")
        return own[int(version)]
