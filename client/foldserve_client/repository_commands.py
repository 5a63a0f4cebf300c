"""``foldserve-client repository``: what a server has, and what it is told to load and unload."""

from typing import Annotated

import typer

from foldserve_client.defaults import MANAGEMENT_ADDRESS
from foldserve_client.options import Connecting, connected
from foldserve_client.printing import print_json, show

LOAD_TIMEOUT_S = 3600.0
"""A load imports, folds, proves and measures."""

repository = typer.Typer(
    name="repository", help="List, load and unload models.", no_args_is_help=True, add_completion=False
)

Model = Annotated[str, typer.Argument(help="Name of the model.", show_default=False)]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@connected(repository)
def index(
    connecting: Connecting,
    *,
    repository: Annotated[str, typer.Option(metavar="NAME", help="One of several; none for all.")] = "",
    as_json: AsJson = False,
) -> None:
    """List the models, their states, and why one is not ready."""
    with connecting.client() as client:
        show(client.repository_index(repository), "repository_index", as_json=as_json)


@connected(repository, address=MANAGEMENT_ADDRESS, timeout_s=LOAD_TIMEOUT_S)
def load(
    connecting: Connecting,
    model: Model,
    *,
    config: Annotated[
        str | None,
        typer.Option(
            metavar="FILE|JSON", help="ModelConfig instead of the model's own: JSON, .json or .pbtxt."
        ),
    ] = None,
    file: Annotated[
        list[str] | None,
        typer.Option(
            metavar="[NAME=]PATH",
            help="The model itself, and its other files: 1/model.onnx=net.onnx; net.onnx alone is version 1.",
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Load a model, or load it again, where the server is in model control mode explicit."""
    from foldserve_client.files import UnreadableFile  # noqa: PLC0415 - the help waits for no library
    from foldserve_client.uploads import config_in, contents_of  # noqa: PLC0415

    try:
        wanted = None if config is None else config_in(config)
        files = contents_of(file or ())
    except UnreadableFile as error:
        raise typer.BadParameter(str(error)) from None
    with connecting.client() as client:
        client.load_model(model, config=wanted, files=files)
    _tell("loaded", model, as_json=as_json)


@connected(repository, address=MANAGEMENT_ADDRESS)
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
