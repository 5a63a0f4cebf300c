"""Command-line flags and environment variables made from a settings model: there is one list of settings."""

import inspect
from collections.abc import Callable, Iterator
from types import GenericAlias
from typing import Annotated, Any, TypeVar, get_args, get_origin

import typer
from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from foldserve.errors import ConfigurationError

Settings = TypeVar("Settings", bound=BaseModel)


def with_options_of(settings: type[Settings], command: Callable[[Settings], None]) -> Callable[..., None]:
    """A function for typer with one option per field of ``settings``, which then calls ``command`` with them.

    A field ``grpc_port`` becomes ``--grpc-port`` and ``FOLDSERVE_GRPC_PORT``; a field of a nested model
    carries the outer name in front (``--parity-relative-l2``). The help texts are the fields' docstrings.
    """
    parameters = [_parameter(name, field) for name, field in leaves(settings)]

    def run(**values: Any) -> None:
        command(_build(settings, values))

    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]  # typer reads it, mypy has no such attribute
    run.__annotations__ = {}
    run.__doc__ = command.__doc__
    return run


def leaves(settings: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, FieldInfo]]:
    """Every setting with its full name, those of nested models with the outer name in front."""
    for name, field in settings.model_fields.items():
        if _is_nested(field):
            yield from leaves(field.annotation, f"{prefix}{name}_")  # type: ignore[arg-type]  # narrowed by _is_nested
        else:
            yield prefix + name, field


def _is_nested(field: FieldInfo) -> bool:
    return inspect.isclass(field.annotation) and issubclass(field.annotation, BaseModel)


def _parameter(name: str, field: FieldInfo) -> inspect.Parameter:
    """The option of one setting; None unless given, so that the settings know what their owner chose."""
    option = typer.Option(
        f"--{name.replace('_', '-')}",
        envvar=f"FOLDSERVE_{name.upper()}",
        help=field.description,
        show_default="required" if field.is_required() else str(field.default),
    )
    kind: Any = field.annotation
    if get_origin(kind) is tuple:
        kind = GenericAlias(list, get_args(kind)[:1])  # typer's way to say that a flag may be repeated
    return inspect.Parameter(
        name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=Annotated[kind | None, option]
    )


def _build(settings: type[Settings], values: dict[str, Any]) -> Settings:
    try:
        return settings.model_validate(_given(settings, values))
    except ValidationError as error:
        problems = "; ".join(f"{_flag(problem['loc'])}: {problem['msg']}" for problem in error.errors())
        raise ConfigurationError(problems) from None


def _given(settings: type[BaseModel], values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """What was chosen, nested as the settings are."""
    given: dict[str, Any] = {}
    for name, field in settings.model_fields.items():
        if _is_nested(field):
            given[name] = _given(field.annotation, values, f"{prefix}{name}_")  # type: ignore[arg-type]  # as above
        elif values[prefix + name] is not None:
            given[name] = values[prefix + name]
    return given


def _flag(location: tuple[int | str, ...]) -> str:
    return "--" + "-".join(part.replace("_", "-") for part in location if isinstance(part, str))
