"""The commands of ``foldserve-client``. Exit codes: 0 done, 1 failed or not ready, 2 wrong usage.

What needs numpy or rich is imported by the commands that do.
"""

# ruff: noqa: PLC0415

from pathlib import Path
from typing import Annotated, Any

import typer

from foldserve_client.options import MANAGEMENT, Connecting, connected
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
            metavar="FILE...",
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

    try:
        if save is not None:
            check_npz(save)
        preparation = work.preparation(size=size, fit=fit, layout=layout, scale=scale, mean=mean, std=std)
        arrays = work.arrays_in(files)
        task = work.Task(model, version, tuple(files), arrays, tuple(output or ()), preparation, top, labels)
        with connecting.client() as client:
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
def ready(
    connecting: Connecting, model: OptionalModel = None, *, version: Version = "", as_json: AsJson = False
) -> None:
    """Say whether a model, or the server, takes requests; exit with 1 if not."""
    with connecting.client() as client:
        is_ready = client.ready(model, version=version)
    if as_json:
        print_json({"ready": is_ready})
    else:
        print("ready" if is_ready else "not ready")
    raise typer.Exit(0 if is_ready else 1)


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


@connected(app, address=MANAGEMENT)
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
