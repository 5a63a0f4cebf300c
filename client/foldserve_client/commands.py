"""The commands of ``foldserve-client``. Exit codes: 0 done, 1 failed or not ready, 2 wrong usage.

What needs numpy or rich is imported by the commands that do.
"""

# ruff: noqa: PLC0415

from pathlib import Path
from typing import Annotated, Any

import typer

from foldserve_client.defaults import MANAGEMENT_ADDRESS
from foldserve_client.options import PANEL, Connecting, connected
from foldserve_client.preparation import TO_ONE, Fit, Layout
from foldserve_client.printing import message, print_json, show, show_classes, show_result
from foldserve_client.repository_commands import repository

app = typer.Typer(
    name="foldserve-client",
    help="Ask a foldserve server.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.add_typer(repository)

Model = Annotated[str, typer.Argument(help="Name of the model.", show_default=False)]
OptionalModel = Annotated[str | None, typer.Argument(help="Name of a model; none for the server itself.")]
Version = Annotated[
    str, typer.Option(metavar="NUMBER", help="Version of the model; none for the server's choice.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
IMAGES = "Images"


def _of_images(metavar: str | None, help_text: str, **more: Any) -> Any:
    return typer.Option(metavar=metavar, help=help_text, rich_help_panel=IMAGES, **more)


@connected(app)
def infer(
    connecting: Connecting,
    model: Model,
    files: Annotated[
        list[Path],
        typer.Argument(
            metavar="FILE",
            help="Inputs: .npy for a model with one input, .npz with arrays by input name, or images.",
            exists=True,
            dir_okay=False,
            show_default=False,
        ),
    ],
    *,
    output: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="An output to return; repeat it for more.")
    ] = None,
    save: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Write the outputs to this .npz file instead.", dir_okay=False),
    ] = None,
    request_id: Annotated[str, typer.Option(metavar="ID", help="What the server's log calls it.")] = "",
    parameter: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=VALUE", help="Of the request: priority=1, say; repeat it for more."),
    ] = None,
    shared_memory: Annotated[
        bool,
        typer.Option(
            "--shared-memory",
            help="Pass larger tensors so; the server is here and lets it.",
            rich_help_panel=PANEL,
        ),
    ] = False,
    version: Version = "",
    as_json: AsJson = False,
    top: Annotated[int, _of_images("NUMBER", "Classes to show of each; 0: the outputs.", min=0)] = 5,
    labels: Annotated[
        Path | None, _of_images("FILE", "Names of the classes, one per line.", exists=True)
    ] = None,
    size: Annotated[str, _of_images("HEIGHTxWIDTH", "Else the model's own, or else each image's.")] = "",
    fit: Annotated[Fit, _of_images(None, "How an image of another shape gets it.")] = Fit.stretch,
    layout: Annotated[Layout, _of_images(None, "Where the model has its channels.")] = Layout.auto,
    scale: Annotated[
        float, _of_images("NUMBER", "What pixels, 0 to 255, are multiplied by.", show_default="1/255")
    ] = TO_ONE,
    mean: Annotated[str, _of_images("NUMBERS", "What is then subtracted: 0.485,0.456,0.406, say.")] = "0",
    std: Annotated[str, _of_images("NUMBERS", "What is then divided by: 0.229,0.224,0.225, say.")] = "1",
) -> None:
    """Run a model on arrays, or on images, in files."""
    from foldserve_client import infer_command as work
    from foldserve_client.files import UnreadableFile, check_npz, write_arrays
    from foldserve_client.inference import Asked

    try:
        if save is not None:
            check_npz(save)
        preparation = work.preparation(size=size, fit=fit, layout=layout, scale=scale, mean=mean, std=std)
        arrays = work.arrays_in(files)
        asked = Asked(version, tuple(output or ()), request_id, work.parameters(parameter or ()))
        task = work.Task(model, tuple(files), arrays, asked, preparation, top, labels)
        with connecting.client(shared_memory=shared_memory) as client:
            answer = work.ask(client, task, whole=save is not None)
        if isinstance(answer, list):
            show_classes(answer, as_json=as_json)
        elif save is None:
            show_result(answer, as_json=as_json)
        else:
            try:
                write_arrays(save, answer)
            except OSError as error:
                typer.echo(f"{save} cannot be written: {error.strerror}", err=True)
                raise typer.Exit(1) from None
            print(f"wrote {', '.join(answer)} to {save}")
    except UnreadableFile as error:
        raise typer.BadParameter(str(error)) from None


@connected(app)
def metadata(
    connecting: Connecting, model: OptionalModel = None, *, version: Version = "", as_json: AsJson = False
) -> None:
    """Show what a model takes and gives, or what the server is."""
    with connecting.client() as client:
        if model is None:
            show(client.server_metadata(), "server_metadata", as_json=as_json)
        else:
            show(client.model_metadata(model, version=version), "model_metadata", as_json=as_json)


@connected(app)
def config(connecting: Connecting, model: Model, *, version: Version = "", as_json: AsJson = False) -> None:
    """Show what a model runs with, as Triton's ModelConfig."""
    with connecting.client() as client:
        show(client.model_config(model, version=version), "model_config", as_json=as_json)


@connected(app)
def live(connecting: Connecting, *, as_json: AsJson = False) -> None:
    """Say whether the server is up; exit with 1 if not."""
    with connecting.client() as client:
        _tell("live", client.live(), as_json=as_json)


@connected(app)
def ready(
    connecting: Connecting, model: OptionalModel = None, *, version: Version = "", as_json: AsJson = False
) -> None:
    """Say whether a model, or the server, takes requests; exit with 1 if not."""
    with connecting.client() as client:
        _tell("ready", client.ready(model, version=version), as_json=as_json)


@connected(app)
def report(connecting: Connecting, model: Model, *, version: Version = "", as_json: AsJson = False) -> None:
    """Show what folding did to a model and how near the served model is to the original."""
    with connecting.client() as client:
        fold = client.fold_report(model, version=version)
        parity = client.parity(model, version=version)
    if as_json:
        print_json({"fold": message(fold), "parity": message(parity)})
    else:
        show(fold, "fold_report")
        show(parity, "parity")


@connected(app)
def parity(connecting: Connecting, model: Model, *, version: Version = "", as_json: AsJson = False) -> None:
    """Show how near the served model is to the original, as measured at load and in service."""
    with connecting.client() as client:
        show(client.parity(model, version=version), "parity", as_json=as_json)


@connected(app)
def drift(connecting: Connecting, model: Model, *, version: Version = "", as_json: AsJson = False) -> None:
    """Show how far sampled inputs have drifted from what the model's BatchNorms saw in training."""
    with connecting.client() as client:
        show(client.drift(model, version=version), "drift", as_json=as_json)


@connected(app, address=MANAGEMENT_ADDRESS)
def reset(connecting: Connecting, model: Model, *, version: Version = "", as_json: AsJson = False) -> None:
    """Let a model that fell back to its unfolded form answer again as it was loaded."""
    with connecting.client() as client:
        response = client.reset_fallback(model, version=version)
    if as_json:
        print_json(message(response))
        return
    was = "had fallen back" if response.was_active else "had not fallen back"
    print(f"{model} version {response.model_version} {was}; the {response.variant} model answers")


@connected(app)
def stats(
    connecting: Connecting,
    model: Annotated[str | None, typer.Argument(help="Name of a model; none for all.")] = None,
    *,
    version: Annotated[str, typer.Option(metavar="NUMBER", help="Version of the model; none for all.")] = "",
    as_json: AsJson = False,
) -> None:
    """Show how many requests each model answered, and what the stages took."""
    with connecting.client() as client:
        show(client.statistics(model, version=version), "statistics", as_json=as_json)


def _tell(what: str, is_so: bool, *, as_json: bool) -> None:
    """Print it, and exit as it is."""
    if as_json:
        print_json({what: is_so})
    else:
        print(what if is_so else f"not {what}")
    raise typer.Exit(0 if is_so else 1)
