"""The commands; each one a thin call into the packages."""

import signal
import sys
import threading

import typer

from foldserve import __version__
from foldserve.cli_options import with_options_of
from foldserve.errors import ConfigurationError, FoldserveError
from foldserve.observability.logging import configure_logging
from foldserve.runtime.distribution import require_single_onnxruntime
from foldserve.settings import ServerSettings

app = typer.Typer(
    help="Serve convolutional networks with their BatchNorms folded, and prove that nothing changed.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


def serve(settings: ServerSettings) -> None:
    """Serve the models of a repository over gRPC until SIGTERM or Ctrl-C."""
    configure_logging(settings.log_format, settings.log_level)
    require_single_onnxruntime()
    from foldserve.server import Server  # noqa: PLC0415  # it imports ONNX Runtime, which is checked just before

    stop = threading.Event()
    for wanted in (signal.SIGTERM, signal.SIGINT):
        signal.signal(wanted, lambda *_: stop.set())
    with Server(settings):
        stop.wait()


app.command("serve")(with_options_of(ServerSettings, serve))


@app.command()
def version() -> None:
    """Print the version."""
    typer.echo(f"foldserve {__version__}")


def main() -> None:
    """Run the command; exit code 2 for a configuration that cannot work, 1 for any other failure."""
    try:
        app()
    except FoldserveError as error:
        typer.secho(f"foldserve: {error}", fg="red", err=True)
        sys.exit(2 if isinstance(error, ConfigurationError) else 1)
