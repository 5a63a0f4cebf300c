"""The effective settings, put together from flags, environment, file and defaults, in this order.

A setting has one name: ``parity: {relative_l2: ...}`` in the file is ``FOLDSERVE_PARITY_RELATIVE_L2`` in the
environment and ``--parity-relative-l2`` among the flags.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from enum import StrEnum
from inspect import isclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from foldserve.errors import ConfigurationError
from foldserve.settings_problems import fault, problem
from foldserve.yaml_file import read_mapping

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

VARIABLE_PREFIX = "FOLDSERVE_"

Settings = TypeVar("Settings", bound=BaseModel)


class Source(StrEnum):
    """Where the value of a setting came from."""

    FLAG = "flag"
    ENVIRONMENT = "environment"
    FILE = "file"
    DEFAULT = "default"


@dataclass(frozen=True)
class Leaf:
    """One setting: where it lies within nested settings, and what is known of it."""

    path: tuple[str, ...]
    field: FieldInfo

    @property
    def name(self) -> str:
        """As a name of Python's: ``parity_relative_l2``."""
        return "_".join(self.path)

    @property
    def flag(self) -> str:
        """As a flag: ``--parity-relative-l2``."""
        return f"--{self.name.replace('_', '-')}"

    @property
    def variable(self) -> str:
        """As an environment variable: ``FOLDSERVE_PARITY_RELATIVE_L2``."""
        return f"{VARIABLE_PREFIX}{self.name.upper()}"

    @property
    def default(self) -> str:
        """The default in help texts and tables."""
        return "required" if self.field.is_required() else self.shown(self.field.default)

    def shown(self, value: Any) -> str:
        """A value in help texts and tables: a setting may say what it means to be unset."""
        if isinstance(value, tuple | list):
            return ", ".join(map(str, value)) or "none"
        if value is None or value is PydanticUndefined:
            extra = self.field.json_schema_extra
            return str(extra.get("unset", "none")) if isinstance(extra, dict) else "none"
        return str(value).lower() if isinstance(value, bool) else str(value)


@dataclass(frozen=True)
class Effective(Generic[Settings]):
    """The settings that hold, and where each value came from, by :attr:`Leaf.name`."""

    settings: Settings
    sources: Mapping[str, Source]
    file: Path | None
    """The file that was read."""

    def value(self, leaf: Leaf) -> Any:
        """The value of one setting."""
        value: Any = self.settings
        for part in leaf.path:
            value = getattr(value, part)
        return value


def leaves(settings: type[BaseModel], above: tuple[str, ...] = ()) -> Iterator[Leaf]:
    """Every setting, those of nested models with the path to them."""
    for name, field in settings.model_fields.items():
        if isclass(field.annotation) and issubclass(field.annotation, BaseModel):
            yield from leaves(field.annotation, (*above, name))
        else:
            yield Leaf((*above, name), field)


def unknown_variables(settings: type[BaseModel], environment: Iterable[str]) -> list[str]:
    """What to tell of the variables in ``environment`` that have our prefix and are no setting.

    They are no error: Kubernetes sets some for a service that is named like us.
    """
    known = [leaf.variable for leaf in leaves(settings)]
    texts = []
    for name in sorted(environment):
        if name.startswith(VARIABLE_PREFIX) and name not in known:
            nearest = get_close_matches(name, known, n=1, cutoff=0.8)
            hint = f"; did you mean {nearest[0]}?" if nearest else ""
            texts.append(f"the variable {name} is not a setting and has no effect{hint}")
    return texts


def effective(
    settings: type[Settings], given: Mapping[str, tuple[Any, Source]], file: Path | None
) -> Effective[Settings]:
    """Put together what ``file`` sets and, over it, what is ``given``: values by :attr:`Leaf.name`.

    Raises :class:`ConfigurationError`, which names each wrong value as its owner wrote it.
    """
    values = read_mapping(file) if file else {}
    sources: dict[str, Source] = {}
    for leaf in leaves(settings):
        if leaf.name in given:
            value, sources[leaf.name] = given[leaf.name]
            _put(values, leaf.path, value)
        else:
            sources[leaf.name] = Source.FILE if _has(values, leaf.path) else Source.DEFAULT
    try:
        return Effective(settings.model_validate(values), sources, file)
    except ValidationError as error:
        texts = [_told(one, settings, sources, file) for one in error.errors()]
        raise ConfigurationError("; ".join(texts)) from None


def _put(values: dict[str, Any], path: tuple[str, ...], value: Any) -> None:
    *above, name = path
    for part in above:
        nested = values.get(part)
        values[part] = values = dict(nested) if isinstance(nested, Mapping) else {}
    values[name] = value


def _has(values: Any, path: tuple[str, ...]) -> bool:
    for part in path:
        if not isinstance(values, Mapping) or part not in values:
            return False
        values = values[part]
    return True


def _told(
    one: "ErrorDetails", settings: type[BaseModel], sources: Mapping[str, Source], file: Path | None
) -> str:
    """What is wrong, under the name that its owner gave it."""
    named = [leaf for leaf in leaves(settings) if leaf.path == one["loc"][: len(leaf.path)]]
    if not one["loc"]:
        return problem(one, settings)
    match sources[named[0].name] if named else Source.FILE:
        case Source.FILE:
            return f"{file}: {problem(one, settings)}"
        case Source.ENVIRONMENT:
            return f"{named[0].variable} {fault(one)}"
        case _:
            return f"{named[0].flag} {fault(one)}"
