"""A model's own configuration: what its files, or a load request, say over the server's settings."""

from pathlib import Path, PurePath
from typing import Any

from foldserve_proto import model_config_pb2 as pb
from pydantic import ValidationError

from foldserve.errors import ConfigurationError
from foldserve.observability.logging import get_logger
from foldserve.serving.repository import OWN_CONFIG, TRITON_CONFIG, ModelFolder
from foldserve.serving.triton_config import parse_json, parse_text, values_of
from foldserve.serving.triton_fields import check_fields
from foldserve.settings import ModelSettings, ServerSettings, model_settings
from foldserve.settings_problems import problems
from foldserve.yaml_file import read_mapping

log = get_logger()


def read_settings(folder: ModelFolder, server: ServerSettings, override: str | None = None) -> ModelSettings:
    """The settings of a model: the server's, ``config.pbtxt`` over them, ``foldserve.yaml`` over both.

    ``override``, a ModelConfig in JSON, stands in for ``config.pbtxt`` and wins over everything. Each given
    field that does nothing here is logged by name. Raises :class:`ConfigurationError` naming file and key,
    :class:`UnsupportedModel` for a model of another backend, :class:`InvalidRequest` for an unreadable
    ``override``.
    """
    if folder.unreadable:
        raise ConfigurationError(f"the model's folder cannot be read: {folder.unreadable}")
    own = _own_values(folder.folder / OWN_CONFIG)
    triton = folder.folder / TRITON_CONFIG
    if override is not None:
        layers = [own, _triton_values(parse_json(override), folder.name, "the request's configuration")]
        where = "the request's configuration"
    elif triton.is_file():
        layers = [_triton_values(parse_text(triton), folder.name, str(triton)), own]
        where = f"{triton} and {OWN_CONFIG}"
    else:
        layers, where = [own], str(folder.folder / OWN_CONFIG)
    try:
        settings = model_settings(server, *layers)
    except ValidationError as error:
        raise ConfigurationError(f"{where}: {problems(error, ModelSettings)}") from None
    _check_names(settings, folder)
    return settings


def _own_values(file: Path) -> dict[str, Any]:
    """What ``foldserve.yaml`` sets; nothing where there is none."""
    if not file.exists():
        return {}
    values = read_mapping(file)
    try:
        # By itself, so that what is wrong in here is not looked for in config.pbtxt.
        ModelSettings.model_validate(values)
    except ValidationError as error:
        raise ConfigurationError(f"{file}: {problems(error, ModelSettings)}") from None
    return values


def _triton_values(config: pb.ModelConfig, model: str, where: str) -> dict[str, Any]:
    try:
        without_effect = check_fields(config)
        values = values_of(config, model)
    except ConfigurationError as error:
        raise ConfigurationError(f"{where}: {error}") from None
    for field, decision in without_effect.items():
        log.warning(
            "configuration has no effect here", model=model, field=field, reason=decision.note, file=where
        )
    return values


def _check_names(settings: ModelSettings, folder: ModelFolder) -> None:
    """A file that a configuration names lies in the model's folder: no other file can be read this way."""
    for key, name in (
        ("file", settings.file),
        *((f"labels.{output}", file) for output, file in settings.labels.items()),
    ):
        if name is not None and (PurePath(name).is_absolute() or ".." in PurePath(name).parts or not name):
            raise ConfigurationError(
                f"model '{folder.name}': {key} is '{name}'; it must name a file in the model's own folder"
            )
