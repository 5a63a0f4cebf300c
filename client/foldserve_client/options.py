"""The options that every command has: whom to ask, and how to be let in."""

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Concatenate

import typer

from foldserve_client.defaults import DEFAULT_ADDRESS, DEFAULT_TIMEOUT_S

if TYPE_CHECKING:
    from foldserve_client.client import Client
    from foldserve_client.connection import Compression, Tls

PANEL = "Connection"


class Compressing(StrEnum):
    """What makes messages smaller on the way."""

    gzip = "gzip"
    deflate = "deflate"


def _file(help_text: str) -> Any:
    return typer.Option(metavar="FILE", help=help_text, exists=True, dir_okay=False, rich_help_panel=PANEL)


@dataclass(frozen=True)
class Connecting:
    """What the options of a command say; each field is one of them."""

    address: Annotated[
        str,
        typer.Option(
            metavar="HOST:PORT", help="Where the server listens; several with commas.", rich_help_panel=PANEL
        ),
    ] = DEFAULT_ADDRESS
    tls: Annotated[
        bool, typer.Option("--tls", help="Connect with TLS, as the next options do.", rich_help_panel=PANEL)
    ] = False
    ca_file: Annotated[
        Path | None, _file("PEM: who may have signed the server's certificate; else gRPC's own list.")
    ] = None
    cert_file: Annotated[Path | None, _file("PEM: the client's own certificate.")] = None
    key_file: Annotated[Path | None, _file("PEM: the key to it.")] = None
    server_name: Annotated[
        str | None,
        typer.Option(
            metavar="NAME", help="The name in the server's certificate, if another.", rich_help_panel=PANEL
        ),
    ] = None
    token_file: Annotated[
        Path | None, _file("Holds the token to show the server; else FOLDSERVE_TOKEN is the token.")
    ] = None
    token: Annotated[str | None, typer.Option(envvar="FOLDSERVE_TOKEN", hidden=True)] = None
    compression: Annotated[
        Compressing | None,
        typer.Option(help="Of what is sent; pays on slow networks only.", rich_help_panel=PANEL),
    ] = None
    timeout: Annotated[
        float,
        typer.Option(metavar="SECONDS", help="Longest to wait for the answer.", min=0, rich_help_panel=PANEL),
    ] = DEFAULT_TIMEOUT_S

    def addresses(self) -> str | tuple[str, ...]:
        """One address, or several."""
        addresses = tuple(self.address.split(","))
        return addresses if len(addresses) > 1 else self.address

    def credentials(self) -> tuple["Tls | None", str | None]:
        """How to connect, and the token to show; raises OSError or ValueError for what cannot work."""
        from foldserve_client.connection import Tls  # noqa: PLC0415 - the help does not wait for gRPC

        files = self.ca_file, self.cert_file, self.key_file
        wanted = self.tls or self.server_name is not None or any(file is not None for file in files)
        token = self.token if self.token_file is None else self.token_file.read_text().strip()
        return Tls(*files, self.server_name) if wanted else None, token

    def compressing(self) -> "Compression | None":
        """As clients take it."""
        return None if self.compression is None else self.compression.value

    @contextmanager
    def client(self, *, shared_memory: bool = False) -> Iterator["Client"]:
        """A client for one command; its errors end the command with 1, options that cannot work with 2."""
        from foldserve_client.client import Client  # noqa: PLC0415 - the help does not wait for gRPC
        from foldserve_client.errors import ClientError  # noqa: PLC0415

        try:
            tls, token = self.credentials()
            client = Client(
                self.addresses(),
                tls=tls,
                token=token,
                compression=self.compressing(),
                timeout_s=self.timeout,
                shared_memory=shared_memory,
            )
        except (OSError, ValueError) as error:
            raise typer.BadParameter(str(error)) from None
        with client:
            try:
                yield client
            except ClientError as error:
                typer.secho(error.code.name, fg=typer.colors.RED, err=True, nl=False)
                typer.echo(f" {error.details}", err=True)
                raise typer.Exit(1) from None


def connected(
    app: typer.Typer, *, address: str = DEFAULT_ADDRESS, timeout_s: float = DEFAULT_TIMEOUT_S
) -> Callable[[Callable[Concatenate[Connecting, ...], None]], None]:
    """Make a function one of an app's commands, with the options of :class:`Connecting` after its own."""
    defaults = {"address": address, "timeout": timeout_s}

    def add(command: Callable[Concatenate[Connecting, ...], None]) -> None:
        shared = [
            inspect.Parameter(
                field.name,
                inspect.Parameter.KEYWORD_ONLY,
                default=defaults.get(field.name, field.default),
                annotation=field.type,
            )
            for field in fields(Connecting)
        ]
        own = list(inspect.signature(command).parameters.values())[1:]

        def run(**values: Any) -> None:
            connecting = Connecting(**{parameter.name: values.pop(parameter.name) for parameter in shared})
            command(connecting, **values)

        run.__signature__ = inspect.Signature([*own, *shared])  # type: ignore[attr-defined]  # typer reads it
        run.__annotations__ = {}
        run.__doc__ = command.__doc__
        app.command(command.__name__)(run)

    return add
