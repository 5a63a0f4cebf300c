"""The commands of ``foldserve-client``. Exit codes: 0 done, 1 failed or not ready, 2 wrong usage."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any
from zipfile import BadZipFile, ZipFile

import numpy as np
import typer
from google.protobuf.message import Message
from rich.console import Console
from rich.markup import escape

from foldserve_client import as_json as plain
from foldserve_client import display
from foldserve_client.client import Client
from foldserve_client.errors import ClientError
from foldserve_client.inference import InferResult, Inputs
from foldserve_client.transport import DEFAULT_ADDRESS, DEFAULT_TIMEOUT_S

app = typer.Typer(
    name="foldserve-client",
    help="Ask a foldserve server.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

Model = Annotated[str, typer.Argument(help="Name of the model.", show_default=False)]
OptionalModel = Annotated[str | None, typer.Argument(help="Name of a model; none for the server itself.")]
Version = Annotated[
    str, typer.Option(metavar="NUMBER", help="Version of the model; none for the server's choice.")
]
Address = Annotated[str, typer.Option(metavar="HOST:PORT", help="Where the server listens.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]

BEGINNINGS = (b"\x93NUMPY", b"PK")
"""How .npy and .npz files begin."""


@app.command()
def infer(
    model: Model,
    file: Annotated[
        Path,
        typer.Argument(
            help="Inputs: .npy for a model with one input, .npz with arrays by input name.",
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
    address: Address = DEFAULT_ADDRESS,
    as_json: AsJson = False,
) -> None:
    """Run a model on the arrays in a file."""
    inputs = _read_arrays(file)
    with _client(address) as client:
        result = client.infer(model, inputs, version=version, outputs=output or ())
    if save is not None:
        _write_arrays(save, result)
    elif as_json:
        _print_json(plain.infer_result(result))
    else:
        Console().print(display.infer_result(result))


@app.command()
def metadata(
    model: OptionalModel = None,
    *,
    version: Version = "",
    address: Address = DEFAULT_ADDRESS,
    as_json: AsJson = False,
) -> None:
    """Show what a model takes and gives, or what the server is."""
    with _client(address) as client:
        if model is None:
            _show(client.server_metadata(), display.server_metadata, as_json)
        else:
            _show(client.model_metadata(model, version=version), display.model_metadata, as_json)


@app.command()
def ready(
    model: OptionalModel = None,
    *,
    version: Version = "",
    address: Address = DEFAULT_ADDRESS,
    as_json: AsJson = False,
) -> None:
    """Say whether a model, or the server, takes requests; exit with 1 if not."""
    with _client(address) as client:
        is_ready = client.ready(model, version=version)
    if as_json:
        _print_json({"ready": is_ready})
    else:
        print("ready" if is_ready else "not ready")
    raise typer.Exit(0 if is_ready else 1)


@app.command()
def report(
    model: Model, *, version: Version = "", address: Address = DEFAULT_ADDRESS, as_json: AsJson = False
) -> None:
    """Show what folding did to a model and how near the served model is to the original."""
    with _client(address) as client:
        fold = client.fold_report(model, version=version)
        parity = client.parity(model, version=version)
    if as_json:
        _print_json({"fold": plain.message(fold), "parity": plain.message(parity)})
    else:
        Console().print(display.fold_report(fold), display.parity(parity))


@app.command()
def drift(
    model: Model, *, version: Version = "", address: Address = DEFAULT_ADDRESS, as_json: AsJson = False
) -> None:
    """Show how far sampled inputs have drifted from what the model's BatchNorms saw in training."""
    with _client(address) as client:
        _show(client.drift(model, version=version), display.drift, as_json)


@app.command()
def reset(model: Model, *, version: Version = "", address: Address = DEFAULT_ADDRESS) -> None:
    """Let a model that fell back to its unfolded form answer again as it was loaded."""
    with _client(address) as client:
        response = client.reset_fallback(model, version=version)
    was = "had fallen back" if response.was_active else "had not fallen back"
    print(f"{model} version {response.model_version} {was}; the {response.variant} model answers")


@app.command()
def models(*, address: Address = DEFAULT_ADDRESS, as_json: AsJson = False) -> None:
    """List the models, their states, and why one is not ready."""
    with _client(address) as client:
        _show(client.repository_index(), display.repository_index, as_json)


@app.command()
def load(model: Model, *, address: Address = DEFAULT_ADDRESS) -> None:
    """Load a model, or load it again, where the server is in model control mode explicit."""
    with _client(address, timeout=None) as client:
        client.load_model(model)
    print(f"loaded {model}")


@app.command()
def unload(model: Model, *, address: Address = DEFAULT_ADDRESS) -> None:
    """Take a model out of service, where the server is in model control mode explicit."""
    with _client(address) as client:
        client.unload_model(model)
    print(f"unloaded {model}")


@app.command()
def stats(
    model: Annotated[str | None, typer.Argument(help="Name of a model; none for all.")] = None,
    *,
    version: Annotated[str, typer.Option(metavar="NUMBER", help="Version of the model; none for all.")] = "",
    address: Address = DEFAULT_ADDRESS,
    as_json: AsJson = False,
) -> None:
    """Show how many requests each model answered, and what the stages took."""
    with _client(address) as client:
        _show(client.statistics(model, version=version), display.statistics, as_json)


@contextmanager
def _client(address: str, timeout: float | None = DEFAULT_TIMEOUT_S) -> Iterator[Client]:
    """A client for one command; its errors end the command with 1."""
    try:
        with Client(address, timeout=timeout) as client:
            yield client
    except ClientError as error:
        Console(stderr=True).print(f"[red]{error.code.name}[/red]", escape(error.details), soft_wrap=True)
        raise typer.Exit(1) from None


def _read_arrays(file: Path) -> Inputs:
    with file.open("rb") as stream:
        beginning = stream.read(max(map(len, BEGINNINGS)))
        if not beginning.startswith(BEGINNINGS):
            raise typer.BadParameter(
                f"{file} is neither .npy nor .npz, whatever its name; write it with numpy.save or numpy.savez"
            )
        stream.seek(0)
        try:
            loaded = np.load(stream, allow_pickle=False)
            return loaded if isinstance(loaded, np.ndarray) else dict(loaded)
        except (ValueError, EOFError, BadZipFile) as error:
            raise typer.BadParameter(f"{file} cannot be read: {error}") from None


def _write_arrays(file: Path, result: InferResult) -> None:
    if file.suffix != ".npz":
        raise typer.BadParameter(f"--save {file}: end its name in .npz")
    for name, array in result.items():
        if array.dtype.kind in "OV":
            raise typer.BadParameter(
                f"output '{name}' has elements that .npz has no type for ({array.dtype.name}); use --json"
            )
    with ZipFile(file, "w") as archive:  # numpy.savez takes no array named "file"
        for name, array in result.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as stream:
                np.lib.format.write_array(stream, array, allow_pickle=False)
    print(f"wrote {', '.join(result)} to {file}")


def _show(message: Message, render: Callable[[Any], Any], as_json: bool) -> None:
    if as_json:
        _print_json(plain.message(message))
    else:
        Console().print(render(message))


def _print_json(value: object) -> None:
    print(json.dumps(value, indent=2, default=lambda element: element.decode(errors="replace")))
