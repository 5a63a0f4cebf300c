"""The commands; each one a thin call into the packages.

What a command needs is imported when it runs: ONNX Runtime takes its time, and must be checked beforehand.
"""

import os
import resource
import signal
import tempfile
import threading
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from foldserve import __version__
from foldserve.cli_options import with_options_of
from foldserve.configuration import Effective
from foldserve.errors import ConfigurationError, FoldserveError
from foldserve.observability.logging import configure_logging
from foldserve.runtime.distribution import require_single_onnxruntime
from foldserve.runtime.memory import keep_freed_memory
from foldserve.settings import LogFormat, LogLevel, Precision, ServerSettings


class _Commands(TyperGroup):
    """Exit code 2 for what cannot work as it was asked for, 1 for any other failure."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except FoldserveError as error:
            typer.secho(f"foldserve: {error}", fg="red", err=True)
            raise typer.Exit(2 if isinstance(error, ConfigurationError) else 1) from None


app = typer.Typer(
    cls=_Commands,
    help="Serve convolutional networks with their BatchNorms folded, and prove that nothing changed.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

File = typer.Argument(exists=True, dir_okay=False, show_default=False)
Model = Annotated[Path, File]
Tier = Annotated[
    int,
    typer.Option(
        min=0,
        max=3,
        help="The most that is tried: 0 adjacent, 1 carried through other operators, 2 compensated by other "
        "readers, 3 Relu as maximum. All are exact; what 2 and 3 gain in speed depends on the runtime.",
    ),
]
Inputs = Annotated[
    Path | None,
    typer.Option(
        exists=True,
        dir_okay=False,
        show_default="synthetic inputs",
        help="Samples to prove on: an .npz file, arrays named like the model's inputs.",
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
ImportTimeout = Annotated[
    float,
    typer.Option(
        min=1,
        envvar="FOLDSERVE_IMPORT_TIMEOUT_S",
        help="Longest that torch may take over a .pt2, in seconds.",
    ),
]
IMPORT_TIMEOUT_S = 600.0


def serve(chosen: Effective[ServerSettings]) -> None:
    """Serve the models of a repository over gRPC until SIGTERM or Ctrl-C.

    Each flag can be given as a variable, too: --grpc-port as FOLDSERVE_GRPC_PORT.
    """
    settings = chosen.settings
    configure_logging(settings.log_format, settings.log_level)
    # Else gRPC writes lines of its own between ours, one for each stranger whose handshake fails.
    os.environ.setdefault("GRPC_VERBOSITY", "ERROR")
    _take_all_files()
    keep_freed_memory()
    require_single_onnxruntime()
    from foldserve.server import Server  # noqa: PLC0415  # see above

    stop = threading.Event()

    def end_gently(*_: object) -> None:
        stop.set()

    def end_gently_once(*_: object) -> None:
        stop.set()
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # a person who asks twice does not want to wait

    # Supervisors may signal a process and its group: the drain's time-out bounds it, not a second signal.
    signal.signal(signal.SIGTERM, end_gently)
    signal.signal(signal.SIGINT, end_gently_once)
    # Loads that a signal cuts short cannot remove what they wrote: it goes with this folder.
    with tempfile.TemporaryDirectory(prefix="foldserve-", ignore_cleanup_errors=True) as scratch:
        tempfile.tempdir = scratch
        with Server(settings) as server:
            stop.wait()
    if server.unfinished:
        os._exit(0)  # Python would wait for threads that load or run what nobody will use


def _take_all_files() -> None:
    """Each connection is an open file: as many as the system lets us have, not the 1,024 that are usual."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    with suppress(ValueError, OSError):  # macOS says that there is no limit, and means another one
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def config(chosen: Effective[ServerSettings], *, json: Json = False) -> None:
    """Show the settings that serve would run with, and where each of them came from.

    Starts nothing. What serve would refuse is refused.
    """
    from foldserve.commands import config as command  # noqa: PLC0415  # see above

    command.config(chosen, as_json=json)


app.command("serve")(with_options_of(ServerSettings, serve))
app.command("config")(with_options_of(ServerSettings, config))


@app.command()
def inspect(
    model: Model,
    *,
    tier: Tier = 1,
    engines: Annotated[
        bool, typer.Option("--engines", help="Load it as a server would, and try every engine on it.")
    ] = False,
    inputs: Inputs = None,
    relative_l2: Annotated[
        float | None,
        typer.Option(min=0, help="With --engines: the parity budget.", show_default="that of serve"),
    ] = None,
    precision: Annotated[
        list[Precision] | None,
        typer.Option(help="With --engines: what to try; may be repeated.", show_default="all but int8"),
    ] = None,
    json: Json = False,
    import_timeout_s: ImportTimeout = IMPORT_TIMEOUT_S,
) -> None:
    """Show what would fold in an .onnx or .pt2 model, and why the rest would not. Writes nothing."""
    asked_for_engines = {"--inputs": inputs, "--relative-l2": relative_l2, "--precision": precision}
    for flag, value in asked_for_engines.items():
        if value and not engines:
            raise ConfigurationError(f"{flag} is for the engines; add --engines")
    if engines:
        require_single_onnxruntime()
        configure_logging(LogFormat.AUTO, LogLevel.WARNING)
    from foldserve.commands import inspect as command  # noqa: PLC0415  # see above

    command.inspect(
        model,
        tier=tier,
        contest=command.Contest(inputs, relative_l2, tuple(precision or ())) if engines else None,
        as_json=json,
        import_timeout_s=import_timeout_s,
    )


@app.command()
def fold(
    model: Model,
    *,
    output: Annotated[Path, typer.Option("--output", "-o", dir_okay=False, help="The .onnx file to write.")],
    report: Annotated[
        Path | None, typer.Option(dir_okay=False, help="Also write what was done: .json or .html.")
    ] = None,
    tier: Tier = 1,
    keep: Annotated[
        list[str] | None,
        typer.Option(metavar="SITE", help="Name of a site to leave as it is; may be repeated."),
    ] = None,
    inputs: Inputs = None,
    import_timeout_s: ImportTimeout = IMPORT_TIMEOUT_S,
) -> None:
    """Fold a model, prove that it is the same function, and write it. Without proof, nothing is written."""
    require_single_onnxruntime()
    from foldserve.commands import fold as command  # noqa: PLC0415  # see above

    done = command.fold(
        model,
        output,
        report=report,
        tier=tier,
        keep=keep or (),
        inputs=inputs,
        import_timeout_s=import_timeout_s,
    )
    raise typer.Exit(0 if done else 1)


@app.command()
def verify(
    original: Model,
    candidate: Model,
    *,
    inputs: Inputs = None,
    json: Json = False,
    import_timeout_s: ImportTimeout = IMPORT_TIMEOUT_S,
) -> None:
    """Compare the answers of two models; exit code 1 if they differ by more than the budget."""
    require_single_onnxruntime()
    from foldserve.commands import verify as command  # noqa: PLC0415  # see above

    same = command.verify(original, candidate, inputs=inputs, as_json=json, import_timeout_s=import_timeout_s)
    raise typer.Exit(0 if same else 1)


@app.command()
def freeze(
    model: Model,
    *,
    output: Annotated[Path, typer.Option("--output", "-o", dir_okay=False, help="The .pt2 file to write.")],
    learnable: Annotated[
        bool, typer.Option("--learnable", help="Make the affines parameters, to be trained on.")
    ] = False,
    import_timeout_s: ImportTimeout = IMPORT_TIMEOUT_S,
) -> None:
    """Write a .pt2 program for fine-tuning: its BatchNorms become the affines that they are in eval mode."""
    from foldserve.commands import freeze as command  # noqa: PLC0415  # see above

    command.freeze(model, output, learnable=learnable, timeout_s=import_timeout_s)


@app.command()
def recalibrate(
    model: Annotated[
        Path, typer.Argument(exists=True, show_default=False, help="A model file or a version folder.")
    ],
    *,
    inputs: Annotated[
        Path,
        typer.Option(
            exists=True,
            metavar="PATH",
            help="Samples to take the statistics from: an .npz file, arrays named like the model's inputs, "
            "or a folder of such files and .npy ones.",
        ),
    ],
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="FOLDER", help="The version folder to write.")
    ],
    import_timeout_s: ImportTimeout = IMPORT_TIMEOUT_S,
) -> None:
    """Write a new version of a model, its BatchNorm statistics taken anew from data. The old one stays."""
    require_single_onnxruntime()
    from foldserve.commands import recalibrate as command  # noqa: PLC0415  # see above

    done = command.recalibrate(model, inputs, output, import_timeout_s=import_timeout_s)
    raise typer.Exit(0 if done else 1)


@app.command()
def probe(
    *,
    address: Annotated[
        str | None,
        typer.Option(
            metavar="HOST:PORT",
            help="Where the server listens, or unix:/path.",
            show_default="localhost, at FOLDSERVE_GRPC_PORT or 8001",
        ),
    ] = None,
    model: Annotated[str, typer.Option(help="Ask about this model.", show_default="the whole server")] = "",
    tls: Annotated[bool, typer.Option("--tls", help="Speak TLS; implied by the options below.")] = False,
    ca_file: Annotated[
        Path | None, typer.Option(help="Whom to trust (PEM).", show_default="whom gRPC trusts")
    ] = None,
    cert_file: Annotated[Path | None, typer.Option(help="Certificate to show to the server (PEM).")] = None,
    key_file: Annotated[Path | None, typer.Option(help="Its private key (PEM).")] = None,
    server_name: Annotated[
        str | None, typer.Option(help="The name in the server's certificate.", show_default="the address's")
    ] = None,
    timeout_s: Annotated[float, typer.Option(min=0.1, help="Longest to wait, in seconds.")] = 3.0,
) -> None:
    """Ask a running server for its health (grpc.health.v1): exit code 0 if it serves, else 1.

    Needs no token.
    """
    from foldserve.commands import probe as command  # noqa: PLC0415  # see above

    secured = tls or any((ca_file, cert_file, key_file, server_name))
    security = command.Tls(ca_file, cert_file, key_file, server_name) if secured else None
    problem = command.probe(address, model, security, timeout_s)
    if problem:
        typer.echo(problem, err=True)
    raise typer.Exit(1 if problem else 0)


@app.command()
def version() -> None:
    """Print the version."""
    typer.echo(f"foldserve {__version__}")


def main() -> None:
    """Run the command that the command line names."""
    app()
