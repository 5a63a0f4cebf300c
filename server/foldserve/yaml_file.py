"""A YAML file that holds settings."""

from pathlib import Path
from typing import Any

import yaml

from foldserve.errors import ConfigurationError


def read_mapping(file: Path) -> dict[str, Any]:
    """What ``file`` sets, by name; raises :class:`ConfigurationError` for anything but names and values."""
    try:
        values = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:  # ValueError: a 31 February, say
        raise ConfigurationError(f"{file} is not readable YAML: {error}") from None
    if values is None:
        return {}
    if not isinstance(values, dict) or not all(isinstance(name, str) for name in values):
        raise ConfigurationError(f"{file} must hold settings as 'name: value', not a {type(values).__name__}")
    return values
