"""A YAML file that holds settings."""

from pathlib import Path
from typing import Any

import yaml

from foldserve.errors import ConfigurationError


class _EachNameOnce(yaml.SafeLoader):
    """Refuses a name that is given twice, of which YAML would take the last one without a word."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        given = set()
        for name, _ in node.value:
            if isinstance(name, yaml.ScalarNode):
                if name.value in given:
                    raise yaml.constructor.ConstructorError(
                        problem=f"'{name.value}' is given twice", problem_mark=name.start_mark
                    )
                given.add(name.value)
        return super().construct_mapping(node, deep=deep)


def read_mapping(file: Path) -> dict[str, Any]:
    """What ``file`` sets, by name; raises :class:`ConfigurationError` for anything but names and values."""
    try:
        values = yaml.load(file.read_text(encoding="utf-8"), _EachNameOnce)
    except OSError as error:
        raise ConfigurationError(f"{file} cannot be read: {error.strerror}") from None
    except (ValueError, RecursionError, yaml.YAMLError) as error:  # ValueError: a 31 February, say
        raise ConfigurationError(f"{file} is not readable YAML: {_told(error)}") from None
    if values is None:
        return {}
    if not isinstance(values, dict) or not all(isinstance(name, str) for name in values):
        raise ConfigurationError(f"{file} must hold settings as 'name: value', not a {type(values).__name__}")
    return values


def read_list(file: Path, content: bytes) -> list[Any]:
    """The entries of a YAML file with secrets; raises :class:`ConfigurationError`, which quotes nothing."""
    try:
        values = yaml.load(content, _EachNameOnce)
    except (ValueError, RecursionError, yaml.YAMLError) as error:
        mark = getattr(error, "problem_mark", None)
        place = f" in line {mark.line + 1}, column {mark.column + 1}" if mark is not None else ""
        raise ConfigurationError(f"{file} is not readable YAML{place}") from None
    if not isinstance(values, list):
        raise ConfigurationError(f"{file} must hold a list, each entry of it behind '- '")
    return values


def _told(error: Exception) -> str:
    """What is wrong, and where: on one line."""
    if not isinstance(error, yaml.MarkedYAMLError) or error.problem_mark is None:
        return " ".join(str(error).split())
    mark = error.problem_mark
    return f"{error.problem} in line {mark.line + 1}, column {mark.column + 1}"
