"""``foldserve-client repository``: what a server has, and what it is told to load and unload."""

from typing import Annotated

import typer

from foldserve_client.options import MANAGEMENT, Connecting, connected
from foldserve_client.printing import print_json, show

LOAD_TIMEOUT_S = 3600.0
"""A load imports, folds, proves and measures."""

repository = typer.Typer(
    name="repository", help="List, load and unload models.", no_args_is_help=True, add_completion=False
)

Model = Annotated[str, typer.Argument(help="Name of the model.", show_default=False)]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@connected(repository)
def index(connecting: Connecting, *, as_json: AsJson = False) -> None:
    """List the models, their states, and why one is not ready."""
    with connecting.client() as client:
        show(client.repository_index(), "repository_index", as_json=as_json)


@connected(repository, address=MANAGEMENT, timeout_s=LOAD_TIMEOUT_S)
def load(connecting: Connecting, model: Model, *, as_json: AsJson = False) -> None:
    """Load a model, or load it again, where the server is in model control mode explicit."""
    with connecting.client() as client:
        client.load_model(model)
    _tell("loaded", model, as_json=as_json)


@connected(repository, address=MANAGEMENT)
def unload(connecting: Connecting, model: Model, *, as_json: AsJson = False) -> None:
    """Take a model out of service, where the server is in model control mode explicit."""
    with connecting.client() as client:
        client.unload_model(model)
    _tell("unloaded", model, as_json=as_json)


def _tell(done: str, model: str, *, as_json: bool) -> None:
    if as_json:
        print_json({done: model})
    else:
        print(f"{done} {model}")
