"""What model repositories hold: ``<repository>/<model>/<version>/model.onnx`` or ``model.pt2``."""

import os
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from foldserve.errors import ConfigurationError, UnsupportedModel
from foldserve.importing import PICKLE_SUFFIXES, refuse_pickle
from foldserve.settings import ModelControl, ServerSettings

MODEL_FILES = ("model.onnx", "model.pt2")
MODEL_SUFFIXES = (".onnx", ".pt2")
VERSION = re.compile(r"[1-9][0-9]{0,17}")
"""How a version is written: one way for each number."""

SAMPLES_FILE = "samples.npz"
EVERY_MODEL = "*"
"""What ``load_models`` calls all of them."""

TRITON_CONFIG = "config.pbtxt"
OWN_CONFIG = "foldserve.yaml"

Identity = frozenset[tuple[str, int, int, int]]
"""Path, modification time in ns, size in bytes and inode of some files: equal while nobody touches them."""


@dataclass(frozen=True)
class ModelVersion:
    """One version folder of a model."""

    name: str
    version: int
    folder: Path
    file: str | None = None
    """Name of the model file, where the configuration gives one."""

    origins: Mapping[str, str] = field(default_factory=dict, compare=False, repr=False)
    """Where the settings stand that are the model's own, by their names: for texts."""

    owner: object = field(default=None, compare=False, repr=False)
    """Whose life the folder's life is tied to; None for a folder of a repository."""

    @property
    def samples(self) -> Path | None:
        """The model's own sample inputs (an ``.npz`` beside the version folders), if it ships any."""
        samples = self.folder.parent / SAMPLES_FILE
        return samples if samples.is_file() else None

    def identity(self) -> Identity:
        """What changes when somebody touches one of its files."""
        return _identity(self.folder)

    def model_file(self) -> Path:
        """The file to load; raises :class:`UnsupportedModel` when there is none, or only a pickle."""
        names = (self.file,) if self.file else MODEL_FILES
        for name in names:
            self._check_kind(name)
            # Triton's form for a model of several files: a folder with the model's name, and the model in it.
            for file in (self.folder / name, self.folder / name / name):
                if file.is_file():
                    return file
        others = sorted(self.folder.iterdir())
        for file in others:
            if file.suffix in PICKLE_SUFFIXES:
                refuse_pickle(file)
        models = [file.name for file in others if file.suffix in MODEL_SUFFIXES and file.is_file()]
        what_to_do = (
            f"rename {models[0]}, or set 'file: {models[0]}' in the model's {OWN_CONFIG}"
            if len(models) == 1
            else f"put the model file there under {'this name' if self.file else 'one of these'}"
        )
        raise UnsupportedModel(
            f"model '{self.name}' version {self.version}: no {' or '.join(names)} in {self.folder}; "
            f"{what_to_do}"
        )

    def _check_kind(self, name: str) -> None:
        file = self.folder / name
        if file.suffix in PICKLE_SUFFIXES:
            refuse_pickle(file)
        if file.suffix not in MODEL_SUFFIXES:
            raise UnsupportedModel(
                f"{self.origins.get('file', file)}: the model file '{name}' is neither "
                f"{' nor '.join(MODEL_SUFFIXES)}; export the model as one of them"
            )


@dataclass(frozen=True)
class ModelFolder:
    """What a repository holds of one model at one moment; equal as long as nothing in it changes."""

    name: str
    repository: Path
    folder: Path
    files: Identity
    """The model's own files, beside the version folders: configuration, labels, samples."""

    versions: Mapping[int, Identity]
    """The files of each version."""

    other_folders: frozenset[str] = frozenset()
    """Names of folders in it that are no versions."""

    owner: object = field(default=None, compare=False, repr=False)
    """As of :class:`ModelVersion`."""

    unreadable: str = ""
    """Why there is no telling what the folder holds."""

    def version(
        self, version: int, file: str | None, origins: Mapping[str, str] | None = None
    ) -> ModelVersion:
        """One of the versions; ``file`` is the name of its model file, None for the usual ones."""
        return ModelVersion(
            self.name, version, self.folder / str(version), file, origins=origins or {}, owner=self.owner
        )


Scan = dict[str, list[ModelFolder]]
"""The models of some repositories by name, with one folder from each repository that has it."""


def scan(repositories: Iterable[Path]) -> Scan:
    """All models of the repositories.

    Every folder is meant to be one, whether it has a version or not. Raises :class:`ConfigurationError` for a
    repository that is not a folder.
    """
    models: Scan = {}
    for repository in repositories:
        if not repository.is_dir():
            raise ConfigurationError(
                f"model repository {repository} is not a folder; create it or mend --repository"
            )
        for folder in sorted(_folders(repository)):
            models.setdefault(folder.name, []).append(look_at(folder, repository))
    return models


def loaded_at_start(settings: ServerSettings, there: Scan) -> Scan:
    """The models that a server with these settings loads when it starts.

    Raises :class:`ConfigurationError` for one that the settings name and no repository has.
    """
    if settings.model_control is not ModelControl.EXPLICIT or EVERY_MODEL in settings.load_models:
        return there
    for name in settings.load_models:
        if name not in there:
            raise ConfigurationError(
                f"load_models names '{name}', but the repositories have "
                f"{', '.join(sorted(there)) or 'no model'}; mend one of them"
            )
    return {name: there[name] for name in settings.load_models}


def find(name: str, repositories: Iterable[Path]) -> list[ModelFolder]:
    """The folders of one model, whose name must be checked beforehand, from each repository that has it."""
    return [
        look_at(repository / name, repository) for repository in repositories if (repository / name).is_dir()
    ]


def settled_changes(handled: Scan, previous: Scan, current: Scan) -> list[str]:
    """Models to bring in line: they differ from what was ``handled`` and rest since the ``previous`` scan.

    A folder that is still being written differs from scan to scan.
    """
    return [
        name
        for name in sorted(handled.keys() | current.keys())
        if current.get(name, []) != handled.get(name, []) and current.get(name, []) == previous.get(name, [])
    ]


def look_at(folder: Path, repository: Path, owner: object = None) -> ModelFolder:
    """What is in the folder of one model."""
    name = folder.name
    try:
        within = list(_folders(folder))
        versions = {int(child.name): _identity(child) for child in within if VERSION.fullmatch(child.name)}
    except OSError as error:
        return ModelFolder(name, repository, folder, frozenset(), {}, owner=owner, unreadable=str(error))
    others = frozenset(child.name for child in within if not VERSION.fullmatch(child.name))
    files = _identity(folder, recursive=False)
    return ModelFolder(name, repository, folder, files, versions, others, owner)


def _folders(parent: Path) -> Iterator[Path]:
    return (child for child in parent.iterdir() if child.is_dir() and not child.name.startswith("."))


def _identity(folder: Path, *, recursive: bool = True) -> Identity:
    files = []
    for path, _, names in os.walk(folder):
        for name in names:
            file = Path(path, name)
            try:
                status = file.stat()
            except OSError:
                continue  # gone in this moment: the next look finds another identity
            files.append((str(file.relative_to(folder)), status.st_mtime_ns, status.st_size, status.st_ino))
        if not recursive:
            break
    return frozenset(files)
