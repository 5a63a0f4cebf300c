"""What a model repository holds: ``<repository>/<model>/<version>/model.onnx`` or ``model.pt2``."""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from foldserve.errors import ConfigurationError, UnsupportedModel
from foldserve.importing import PICKLE_SUFFIXES, refuse_pickle

MODEL_FILES = ("model.onnx", "model.pt2")
VERSION = re.compile(r"[1-9][0-9]{0,17}")
"""How a version is written: one way for each number."""

SAMPLES_FILE = "samples.npz"


@dataclass(frozen=True)
class ModelVersion:
    """One version folder of a model."""

    name: str
    version: int
    folder: Path

    @property
    def samples(self) -> Path | None:
        """The model's own sample inputs (an ``.npz`` beside the version folders), if it ships any."""
        samples = self.folder.parent / SAMPLES_FILE
        return samples if samples.is_file() else None

    def model_file(self) -> Path:
        """The file to load; raises :class:`UnsupportedModel` when there is none, or only a pickle."""
        for candidate in MODEL_FILES:
            if (self.folder / candidate).is_file():
                return self.folder / candidate
        for file in sorted(self.folder.iterdir()):
            if file.suffix in PICKLE_SUFFIXES:
                refuse_pickle(file)
        raise UnsupportedModel(
            f"model '{self.name}' version {self.version}: no {' or '.join(MODEL_FILES)} in {self.folder}; "
            f"put the model file there under one of these names"
        )


def scan(repositories: Iterable[Path]) -> list[ModelVersion]:
    """All versions of all models in the repositories, by name and version.

    Folders whose name is not a positive integer are no versions. Raises :class:`ConfigurationError` for a
    repository that is not a folder and for a model name that two repositories share.
    """
    owner: dict[str, Path] = {}
    versions: list[ModelVersion] = []
    for repository in repositories:
        if not repository.is_dir():
            raise ConfigurationError(
                f"model repository {repository} is not a folder; create it or mend --repository"
            )
        for folder in _folders(repository):
            found = [
                ModelVersion(folder.name, int(child.name), child)
                for child in _folders(folder)
                if VERSION.fullmatch(child.name)
            ]
            if found and owner.setdefault(folder.name, repository) != repository:
                raise ConfigurationError(
                    f"model '{folder.name}' is in both {owner[folder.name]} and {repository}; "
                    f"rename or remove one"
                )
            versions.extend(found)
    return sorted(versions, key=lambda version: (version.name, version.version))


def latest(versions: Iterable[ModelVersion]) -> list[ModelVersion]:
    """The highest version of each model, as Triton serves by default."""
    newest: dict[str, ModelVersion] = {}
    for candidate in versions:
        if candidate.name not in newest or candidate.version > newest[candidate.name].version:
            newest[candidate.name] = candidate
    return list(newest.values())


def _folders(parent: Path) -> Iterator[Path]:
    return (child for child in sorted(parent.iterdir()) if child.is_dir() and not child.name.startswith("."))
