"""Who decides what is loaded: the server's start, changes in the repositories, load and unload requests."""

import re
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from pathlib import Path

from foldserve.errors import ConfigurationError, FoldserveError, InvalidRequest, ModelNotFound
from foldserve.observability.logging import get_logger
from foldserve.serving.manager import ModelManager, Wanted
from foldserve.serving.model_table import Status
from foldserve.serving.repository import ModelFolder, Scan, find, loaded_at_start, scan, settled_changes
from foldserve.serving.uploaded import written
from foldserve.settings import ModelControl, ServerSettings

PLAIN_NAME = re.compile(r"[^./\\\x00-\x1f][^/\\\x00-\x1f]{0,254}")
"""Names of models that can come in a request."""

log = get_logger()


class ModelController:
    """Tells the manager what to load and unload, in the mode that the settings name."""

    def __init__(self, settings: ServerSettings, manager: ModelManager) -> None:
        self._settings = settings
        self._manager = manager
        self._mode = settings.model_control
        self._repositories = settings.repository
        self._handled: Scan = {}
        """What of each model the manager was told last."""

        self._pool = ThreadPoolExecutor(settings.load_threads, thread_name_prefix="load")
        self._tasks: dict[str, Future[None]] = {}
        self._stopping = threading.Event()
        self._polling = threading.Thread(target=self._poll, name="poll", daemon=True)

    def discover(self) -> None:
        """Find the models of the start.

        Raises :class:`ConfigurationError` for an unreadable repository, and for a model to load that no
        repository has.
        """
        found = scan(self._repositories)
        if not found:
            log.warning(
                "no model found",
                repositories=[str(repository) for repository in self._repositories],
                expected="<repository>/<model>/<version>/model.onnx or model.pt2; a version is a number",
            )
        if self._mode is ModelControl.EXPLICIT:
            self._manager.offer(found)
        self._handled = loaded_at_start(self._settings, found)
        self._manager.expect(self._handled)

    def start(self) -> None:
        """Load the models of the start, and follow the repositories from then on if that is the mode."""
        wait([self._pool.submit(self._follow, name, folders) for name, folders in self._handled.items()])
        self._manager.started()
        if self._mode is ModelControl.POLL and not self._stopping.is_set():
            self._polling.start()

    def stop(self) -> None:
        """Begin no more loads; those that run are not waited for."""
        self._stopping.set()

    def load(
        self,
        name: str,
        *,
        wanted: Wanted,
        repository: str = "",
        config: str | None = None,
        files: Mapping[str, bytes] | None = None,
    ) -> None:
        """Load a model, or load it again, and return when it serves.

        ``config``, a ModelConfig in JSON, stands in for ``config.pbtxt``; ``files``, by their paths in the
        model's folder, stand in for the whole folder and need ``config``. Raises :class:`ConfigurationError`
        in another mode than ``explicit``, :class:`ModelNotFound`, :class:`InvalidRequest`,
        :class:`RequestCancelled` if it is not ``wanted`` any more when other loads have let it wait, and
        :class:`LoadFailed` or :class:`ConfigurationError` where the model does not load.
        """
        self._require_explicit()
        _check_name(name)
        matching = self._matching(repository)
        if files and config is None:
            raise InvalidRequest(
                f"files of model '{name}' were sent without the parameter 'config'; send it too"
            )
        folder = written(name, files) if files else self._only(name, matching)
        self._manager.update(folder, override=config, reload=True, wanted=wanted)

    def unload(self, name: str, *, wanted: Wanted, repository: str = "") -> None:
        """Take a model out of service, if it is in ``repository`` where one is named.

        Raises :class:`ConfigurationError`, :class:`InvalidRequest`, :class:`ModelNotFound` and
        :class:`RequestCancelled` as :meth:`load`.
        """
        self._require_explicit()
        _check_name(name)
        matching = self._matching(repository)
        if repository or not any(status.name == name for status in self._manager.statuses()):
            self._only(name, matching)
        self._manager.unload(name, wanted=wanted)

    def index(self, repository: str = "") -> list[Status]:
        """Every model version that is known, in mode ``explicit`` also what could be loaded.

        Raises :class:`ModelNotFound` for a repository that this server does not have.
        """
        matching = self._matching(repository)
        if self._mode is ModelControl.EXPLICIT:
            self._manager.offer(scan(self._repositories))
        statuses = self._manager.statuses()
        if not repository:
            return statuses
        there = scan(matching)
        return [status for status in statuses if status.name in there]

    def _poll(self) -> None:
        previous, trouble = self._handled, ""
        while not self._stopping.wait(self._settings.poll_interval_s):
            try:
                current = scan(self._repositories)
            except (ConfigurationError, OSError) as error:
                if str(error) != trouble:
                    trouble = str(error)
                    log.warning("a repository cannot be read: nothing changes until it can", reason=trouble)
                continue
            if trouble:
                log.info("the repositories can be read again")
                trouble = ""
            for name in settled_changes(self._handled, previous, current):
                task = self._tasks.get(name)
                if task is None or task.done():
                    self._handled = {**self._handled, name: current.get(name, [])}
                    self._tasks[name] = self._pool.submit(self._follow, name, current.get(name, []))
            previous = current

    def _follow(self, name: str, folders: Sequence[ModelFolder]) -> None:
        """Bring one model in line with what the repositories hold of it."""
        if self._stopping.is_set():
            return
        try:
            match folders:
                case []:
                    self._manager.unload(name)
                case [folder]:
                    self._manager.update(folder)
                case _:
                    self._manager.refuse(name, _several(name, folders))
        except FoldserveError:
            pass  # logged, and kept with the model
        except Exception:
            log.exception("model control failed", model=name)

    def _require_explicit(self) -> None:
        if self._mode is not ModelControl.EXPLICIT:
            raise ConfigurationError(
                f"explicit model load / unload is not allowed in model control mode '{self._mode}'; "
                f"start the server with --model-control explicit"
            )

    def _matching(self, repository: str) -> list[Path]:
        """The repositories that a request means: one by its path or its folder's name, or all."""
        matching = [one for one in self._repositories if repository in ("", str(one), one.name)]
        if not matching:
            there = ", ".join(f"'{one.name}'" for one in self._repositories)
            raise ModelNotFound(f"no repository is named '{repository[:100]}'; this server has {there}")
        return matching

    def _only(self, name: str, repositories: Sequence[Path]) -> ModelFolder:
        """The one folder of a model; raises :class:`ModelNotFound` or :class:`ConfigurationError`."""
        found = find(name, repositories)
        if not found:
            raise ModelNotFound(f"no repository has a model '{name}'; put it there, or mend the name")
        if len(found) > 1:
            raise ConfigurationError(_several(name, found))
        return found[0]


def _several(name: str, folders: Sequence[ModelFolder]) -> str:
    where = " and ".join(str(folder.repository) for folder in folders)
    return f"model '{name}' is in {where}; rename or remove all but one"


def _check_name(name: str) -> None:
    if not PLAIN_NAME.fullmatch(name):
        raise InvalidRequest(f"{name[:100]!r} is no model name: it must be one that a folder can have")
