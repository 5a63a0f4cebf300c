"""Command-line flags and environment variables made from a settings model: there is one list of settings."""

import inspect
import os
from collections.abc import Callable
from pathlib import Path
from types import GenericAlias
from typing import Annotated, Any, Concatenate, TypeVar, get_args, get_origin

import typer
from pydantic import BaseModel

from foldserve.configuration import Effective, Leaf, Source, effective, leaves, unknown_variables

Settings = TypeVar("Settings", bound=BaseModel)

SOURCES = {"COMMANDLINE": Source.FLAG, "ENVIRONMENT": Source.ENVIRONMENT}
"""Where the parser found a value, by its own name for it."""

FILE_VARIABLE = "FOLDSERVE_SETTINGS"

File = Annotated[
    Path | None,
    typer.Option(
        "--settings",
        envvar=FILE_VARIABLE,
        help="YAML file with any of these settings; the environment and flags win over it.",
        exists=True,
        dir_okay=False,
        show_default="none",
    ),
]


def with_options_of(
    settings: type[Settings], command: Callable[Concatenate[Effective[Settings], ...], None]
) -> Callable[..., None]:
    """A function for typer with one option per field of ``settings``, which then calls ``command`` with them.

    A field ``grpc_port`` becomes ``--grpc-port`` and ``FOLDSERVE_GRPC_PORT``; a field of a nested model
    carries the outer name in front (``--parity-relative-l2``). The help texts are the fields' docstrings.
    The options of ``command`` itself, all its parameters but the first, come after these.
    """
    own = list(inspect.signature(command).parameters.values())[1:]
    parameters = [
        inspect.Parameter("context", inspect.Parameter.KEYWORD_ONLY, annotation=typer.Context),
        inspect.Parameter("file", inspect.Parameter.KEYWORD_ONLY, default=None, annotation=File),
        *(_parameter(leaf) for leaf in leaves(settings)),
        *own,
    ]

    def run(context: typer.Context, file: Path | None, **values: Any) -> None:
        options = {parameter.name: values.pop(parameter.name) for parameter in own}
        given = {
            leaf.name: (_given(leaf, values[leaf.name], SOURCES[source.name]), SOURCES[source.name])
            for leaf in leaves(settings)
            if (source := context.get_parameter_source(leaf.name)) and source.name in SOURCES
        }
        chosen = effective(settings, given, file)
        for text in unknown_variables(settings, os.environ.keys() - {FILE_VARIABLE}):
            typer.secho(f"foldserve: {text}", fg="yellow", err=True)
        command(chosen, **options)

    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]  # typer reads it, mypy has no such attribute
    run.__annotations__ = {}
    run.__doc__ = command.__doc__
    return run


def _given(leaf: Leaf, value: Any, source: Source) -> Any:
    """What was given for a setting: the parser has its own ways, a different one for each type, to take a
    variable with several values apart."""
    if _is_repeated(leaf) and source is Source.ENVIRONMENT:
        return [item for text in os.environ[leaf.variable].split(",") if (item := text.strip())]
    return value


def _is_repeated(leaf: Leaf) -> bool:
    return get_origin(leaf.field.annotation) is tuple


def _parameter(leaf: Leaf) -> inspect.Parameter:
    """The option of one setting; None unless given, so that the settings know what their owner chose."""
    kind: Any = leaf.field.annotation
    names = f"{leaf.flag}/--no-{leaf.flag[2:]}" if kind is bool else leaf.flag
    option = typer.Option(names, envvar=leaf.variable, help=leaf.field.description, show_default=leaf.default)
    if _is_repeated(leaf):
        kind = GenericAlias(list, get_args(kind)[:1])  # typer's way to say that a flag may be repeated
    return inspect.Parameter(
        leaf.name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=Annotated[kind | None, option]
    )
