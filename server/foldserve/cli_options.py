"""Command-line flags and environment variables made from a settings model: there is one list of settings."""

import inspect
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any, TypeVar

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
    leaves = list(_leaves(settings))

    def run(**values: Any) -> None:
        command(_build(settings, values))

    parameters = [_parameter(name, field) for name, field in leaves]
    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]  # typer reads it, mypy has no such attribute
    run.__annotations__ = {}
    run.__doc__ = command.__doc__
    return run


def _leaves(settings: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, FieldInfo]]:
    for name, field in settings.model_fields.items():
        if _is_nested(field):
            yield from _leaves(field.annotation, f"{prefix}{name}_")  # type: ignore[arg-type]  # narrowed by _is_nested
        else:
            yield prefix + name, field


def _is_nested(field: FieldInfo) -> bool:
    return inspect.isclass(field.annotation) and issubclass(field.annotation, BaseModel)


def _parameter(name: str, field: FieldInfo) -> inspect.Parameter:
    option = typer.Option(
        f"--{name.replace('_', '-')}",
        envvar=f"FOLDSERVE_{name.upper()}",
        help=field.description,
        show_default=True,
    )
    annotation = list[Path] if field.annotation == tuple[Path, ...] else field.annotation
    default = inspect.Parameter.empty if field.is_required() else field.default
    return inspect.Parameter(
        name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=Annotated[annotation, option]
    )


def _build(settings: type[Settings], values: dict[str, Any]) -> Settings:
    nested: dict[str, Any] = {}
    for name, field in settings.model_fields.items():
        if _is_nested(field):
            prefix = f"{name}_"
            nested[name] = {key.removeprefix(prefix): values[key] for key in values if key.startswith(prefix)}
        else:
            nested[name] = values[name]
    try:
        return settings.model_validate(nested)
    except ValidationError as error:
        problems = "; ".join(
            f"--{'-'.join(map(str, problem['loc'])).replace('_', '-')}: {problem['msg']}"
            for problem in error.errors()
        )
        raise ConfigurationError(problems) from None
