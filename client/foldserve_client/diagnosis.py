"""Why a connection failed, in words that say what to do: gRPC tells what happened to a socket.

The texts are those of gRPC's core, which promises nothing about them: one that is not known here is passed on
as it is. A test provokes each of them.
"""

from typing import NamedTuple

CONNECTING = ("failed to connect to all addresses", "connections to all backends failing", "errors resolving")
"""How gRPC's texts begin where no connection came about; others are the server's own."""


LATE = ("Deadline Exceeded", "Stream removed (Deadline Exceeded)")
"""gRPC's texts where the caller's time is up; a server that gives up by itself has one of its own."""


class Cause(NamedTuple):
    """What gRPC says, with TLS or without, and what it means for ``{address}``."""

    sign: str
    tls: bool | None
    meaning: str


CAUSES = (
    Cause(
        "Connection refused",
        None,
        "no server listens at {address}: start one with 'foldserve serve', or give its address",
    ),
    Cause("No such file or directory", None, "no server listens at {address}: there is no such socket"),
    Cause("lookup", None, "the name in {address} is not known: is it spelt right?"),
    Cause(
        "Failed parsing HTTP/2",
        False,
        "{address} does not speak gRPC: is it the port for HTTP? The one for gRPC is 8001, unless the "
        "server was given another as --grpc-port",
    ),
    Cause(
        "WRONG_VERSION_NUMBER",
        True,
        "{address} does not speak TLS: connect without it, if it is the port for gRPC",
    ),
    Cause(
        "CERTIFICATE_VERIFY_FAILED",
        True,
        "the certificate of {address} is not signed by anyone this client trusts, or has expired: give the "
        "certificate of who signed it, Tls(ca_file=...) or --ca-file",
    ),
    Cause(
        "Hostname Verification Check failed",
        True,
        "the certificate of {address} is for another name: connect under that name, or give it, "
        "Tls(server_name=...) or --server-name",
    ),
    Cause(
        "Socket closed",
        False,
        "{address} closed the connection: it may speak TLS only, Tls(ca_file=...) or --tls",
    ),
    Cause(
        "Socket closed",
        True,
        "{address} closed the connection: it may want a certificate of the client, "
        "Tls(cert_file=..., key_file=...) or --cert-file and --key-file",
    ),
)


def explained(details: str, address: str, *, tls: bool) -> str:
    """gRPC's text about a failed connection with its likely cause in front; a server's texts as they are."""
    if details in LATE:
        return f"{address} did not answer within the timeout"
    if not details.startswith(CONNECTING):
        return details
    for cause in CAUSES:
        if cause.sign in details and cause.tls in (None, tls):
            return f"{cause.meaning.format(address=address)} ({details})"
    return details
