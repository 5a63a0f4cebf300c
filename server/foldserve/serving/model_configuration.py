"""A model's own configuration: what its files, or a load request, say over the server's settings."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

from foldserve_proto import model_config_pb2 as pb
from pydantic import ValidationError

from foldserve.errors import ConfigurationError, UnsupportedModel
from foldserve.observability.logging import get_logger
from foldserve.runtime.cpus import available_cpus
from foldserve.serving.repository import MODEL_FILES, OWN_CONFIG, TRITON_CONFIG, ModelFolder
from foldserve.serving.triton_config import NAMES, parse_json, parse_text, values_of
from foldserve.serving.triton_fields import check_fields
from foldserve.settings import ModelSettings, ServerSettings, model_settings
from foldserve.settings_problems import problem
from foldserve.yaml_file import read_mapping

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

NEARLY_A_VERSION = re.compile(r"[vV]?[0-9]+")
"""Names of folders that somebody may have meant to be versions."""

log = get_logger()


@dataclass(frozen=True)
class Configuration:
    """The settings of a model, and where those stand that are its own."""

    settings: ModelSettings
    origins: Mapping[str, str]
    """The file, or the request, that gave a setting, by the setting's name."""


@dataclass(frozen=True)
class _Layer:
    """What one file, or a request, sets."""

    where: str
    values: Mapping[str, Any]
    names: Mapping[str, str]
    """What it calls the settings, by our names, where it has others."""

    def depth(self, location: tuple[int | str, ...]) -> int:
        """How far the way to a value leads in here."""
        value: Any = self.values
        for depth, part in enumerate(location):
            try:
                value = value[part]
            except (LookupError, TypeError):
                return depth
        return len(location)


def read_configuration(
    folder: ModelFolder, server: ServerSettings, override: str | None = None
) -> Configuration:
    """The settings of a model: the server's, ``config.pbtxt`` over them, ``foldserve.yaml`` over both.

    ``override``, a ModelConfig in JSON, stands in for ``config.pbtxt`` and wins over everything. Each given
    field that does nothing here is logged by name. Raises :class:`ConfigurationError` naming file and key,
    :class:`UnsupportedModel` for a model of another backend, :class:`InvalidRequest` for an unreadable
    ``override``.
    """
    if folder.unreadable:
        raise ConfigurationError(f"the model's folder cannot be read: {folder.unreadable}")
    layers = _layers(folder, override)
    try:
        settings = model_settings(server, *(layer.values for layer in layers))
    except ValidationError as error:
        raise ConfigurationError("; ".join(_told(one, layers) for one in error.errors())) from None
    origins = {name: layer.where for layer in layers for name in layer.values}
    _check_names(settings, origins)
    _warn_of_what_is_passed_over(folder, settings)
    _warn_of_too_many_threads(folder.name, settings.intra_op_threads)
    return Configuration(settings, origins)


def _layers(folder: ModelFolder, override: str | None) -> list[_Layer]:
    """The later over the earlier."""
    layers = []
    triton, own = folder.folder / TRITON_CONFIG, folder.folder / OWN_CONFIG
    if override is None and triton.is_file():
        layers.append(_triton_layer(parse_text(triton), folder.name, str(triton)))
    if own.exists():
        layers.append(_Layer(str(own), read_mapping(own), {}))
    if override is not None:
        layers.append(_triton_layer(parse_json(override), folder.name, "the request's configuration"))
    return layers


def _triton_layer(config: pb.ModelConfig, model: str, where: str) -> _Layer:
    try:
        without_effect = check_fields(config)
        values = values_of(config, model)
    except (ConfigurationError, UnsupportedModel) as error:
        raise type(error)(f"{where}: {error}") from None
    for field, decision in without_effect.items():
        log.warning(
            "configuration has no effect here", model=model, field=field, reason=decision.note, file=where
        )
    return _Layer(where, values, NAMES)


def _told(one: "ErrorDetails", layers: Sequence[_Layer]) -> str:
    """What is wrong, under the file and the name that it was given by; a contradiction may be in several."""
    location = one["loc"]
    furthest = max(layer.depth(location) for layer in layers)
    holders = [layer for layer in layers if layer.values and layer.depth(location) == furthest]
    if one["type"] != "value_error":
        holders = holders[-1:]
    where = " and ".join(layer.where for layer in holders)
    return f"{where}: {problem(one, ModelSettings, holders[-1].names)}"


def _check_names(settings: ModelSettings, origins: Mapping[str, str]) -> None:
    """A file that a configuration names lies in the model's folder: no other file can be read this way."""
    for key, name in (
        ("file", settings.file),
        *((f"labels.{output}", file) for output, file in settings.labels.items()),
    ):
        if name is not None and (PurePath(name).is_absolute() or ".." in PurePath(name).parts or not name):
            raise ConfigurationError(
                f"{origins[key.partition('.')[0]]}: {key} is '{name}'; "
                f"it must name a file in the model's own folder"
            )


def _warn_of_what_is_passed_over(folder: ModelFolder, settings: ModelSettings) -> None:
    """Log what somebody may have put there to be used, and which is not."""
    known = (TRITON_CONFIG, OWN_CONFIG)
    passed_over = {
        name: f"only {nearest[0]} is read"
        for name, *_ in folder.files
        if name not in known and (nearest := get_close_matches(name, known, n=1, cutoff=0.8))
    }
    if folder.versions:
        passed_over |= {
            name: "a version is a positive integer without leading zeros"
            for name in folder.other_folders
            if NEARLY_A_VERSION.fullmatch(name)
        }
    first, second = MODEL_FILES
    for version, files in folder.versions.items():
        if not settings.file and {first, second} <= {name for name, *_ in files}:
            passed_over[f"{version}/{second}"] = f"{first} is taken; choose with 'file'"
    for name, reason in sorted(passed_over.items()):
        log.warning("passed over", model=folder.name, file=str(folder.folder / name), reason=reason)


def _warn_of_too_many_threads(model: str, threads: int | None) -> None:
    """Log threads that would only wait for each other."""
    cpus = available_cpus()
    if threads is not None and threads > cpus:
        log.warning(
            "more threads than processors: runs take longer, not shorter",
            model=model,
            intra_op_threads=threads,
            processors=cpus,
        )
