"""Command-line flags and environment variables made from a settings model: there is one list of settings."""

import inspect
import os
from collections.abc import Callable
from enum import StrEnum
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

PANELS = {
    "Models": ("repository", "model_control", "poll_interval_s", "load_models", "load_threads"),
    "Folding and its proof": ("max_fold_tier", "parity"),
    "Engine": ("provider", "precisions", "cudnn_search", "objective", "instances", "intra_op_threads"),
    "Parity in service": ("shadow", "shadow_cpu_share", "breach_dir", "breach_max_files", "breach_max_bytes"),
    "Batching": ("max_batch_size", "max_queue_size"),
    "Network": ("host", "grpc_port", "http_host", "http_port", "management_address", "shared_memory"),
    "Security": ("tls_cert_file", "tls_key_file", "tls_client_ca_file", "token_file"),
    "Limits": (
        "grpc_workers",
        "max_streams",
        "max_stream_requests",
        "max_message_bytes",
        "max_connection_age_s",
        "import_timeout_s",
        "import_memory_bytes",
    ),
    "Shutdown": ("not_ready_delay_s", "drain_timeout_s"),
    "Cache": ("cache_dir", "cache_max_bytes"),
    "Logs and traces": ("log_format", "log_level", "trace_file", "otlp_endpoint", "otlp_sample_rate"),
}
"""Under which heading help texts list which settings; a nested one by the name of what it is nested in."""

KINDS = {int: "INTEGER", float: "NUMBER", str: "TEXT", Path: "PATH"}
"""What help texts call the type of a value."""

File = Annotated[
    Path | None,
    typer.Option(
        "--settings",
        envvar=FILE_VARIABLE,
        show_envvar=False,
        metavar=KINDS[Path],
        help="YAML file with any of these settings; the environment and flags win over it.",
        exists=True,
        dir_okay=False,
        show_default=False,
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
        *(_parameter(leaf) for leaf in sorted(leaves(settings), key=_panel)),
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


def _panel(leaf: Leaf) -> int:
    for index, names in enumerate(PANELS.values()):
        if leaf.path[0] in names:
            return index
    raise LookupError(f"no panel has the setting '{leaf.path[0]}'; add it to one of PANELS")


def _parameter(leaf: Leaf) -> inspect.Parameter:
    """The option of one setting; None unless given, so that the settings know what their owner chose."""
    kind: Any = leaf.field.annotation
    option = typer.Option(
        f"{leaf.flag}/--no-{leaf.flag[2:]}" if kind is bool else leaf.flag,
        envvar=leaf.variable,
        show_envvar=False,
        metavar=None if kind is bool else _metavar(leaf),
        help=_help(leaf),
        show_default=False,
        rich_help_panel=list(PANELS)[_panel(leaf)],
    )
    if _is_repeated(leaf):
        single = _single(kind)
        # Typer's way to say that a flag may be repeated; the settings know of a word for none of the choices.
        kind = GenericAlias(list, (str if issubclass(single, StrEnum) else single,))
    return inspect.Parameter(
        leaf.name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=Annotated[kind | None, option]
    )


def _help(leaf: Leaf) -> str:
    meaning = (leaf.field.description or "").replace("``", "'")
    return f"{meaning} {'Required' if leaf.field.is_required() else f'Default: {leaf.default}'}."


def _metavar(leaf: Leaf) -> str:
    """What may be given for a setting: its choices or its range, else its type."""
    kind = _single(leaf.field.annotation)
    if issubclass(kind, StrEnum):
        return "|".join(kind)
    bounds = {
        name: getattr(one, name)
        for one in leaf.field.metadata
        for name in ("ge", "gt", "le")
        if hasattr(one, name)
    }
    low = f"≥{bounds['ge']}" if "ge" in bounds else f">{bounds['gt']}" if "gt" in bounds else ""
    return f"{low.removeprefix('≥')}…{bounds['le']}" if "le" in bounds else low or KINDS[kind]


def _single(annotation: Any) -> type:
    """The type of one value: of each where there may be several, of any where there may be none."""
    inner = [one for one in get_args(annotation) if one not in (type(None), ...)]
    return _single(inner[0]) if inner else annotation
