"""``foldserve config``: the settings that ``serve`` would run with, and where each came from."""

import json

from rich.console import Console
from rich.table import Table

from foldserve.configuration import Effective, Source, leaves
from foldserve.observability.logging import configure_logging
from foldserve.observability.metrics import Metrics
from foldserve.rpc.security import Security
from foldserve.serving.repository import loaded_at_start, scan
from foldserve.settings import ServerSettings


def config(chosen: Effective[ServerSettings], *, as_json: bool) -> None:
    """Print every setting with its value and source.

    Raises :class:`~foldserve.errors.ConfigurationError` where ``serve`` would: for a repository or a model to
    load that is not there, and for certificates and tokens that cannot serve.
    """
    configure_logging(chosen.settings.log_format, chosen.settings.log_level)
    if as_json:
        sources = {".".join(leaf.path): chosen.sources[leaf.name] for leaf in leaves(ServerSettings)}
        print(json.dumps({"settings": chosen.settings.model_dump(mode="json"), "sources": sources}, indent=2))
    else:
        Console().print(_table(chosen))
    loaded_at_start(chosen.settings, scan(chosen.settings.repository))
    Security(chosen.settings, Metrics())


def _table(chosen: Effective[ServerSettings]) -> Table:
    table = Table("setting", "value", "from", box=None)
    for leaf in leaves(ServerSettings):
        source = chosen.sources[leaf.name]
        named = {Source.FLAG: leaf.flag, Source.ENVIRONMENT: leaf.variable, Source.FILE: str(chosen.file)}
        style = "dim" if source is Source.DEFAULT else None
        table.add_row(
            ".".join(leaf.path), leaf.shown(chosen.value(leaf)), named.get(source, source), style=style
        )
    return table
