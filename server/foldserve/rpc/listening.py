"""Where a gRPC server listens, and why it cannot."""

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import grpc

from foldserve.errors import ConfigurationError
from foldserve.settings.addresses import host_and_port, joined, socket_path

FOR_OTHERS = 0o177
"""What of a socket's file mode is taken away: it is its owner's alone."""


def listen(
    server: grpc.Server, address: str, credentials: grpc.ServerCredentials | None, way_out: str
) -> str:
    """Listen at ``host:port`` or ``unix:/path``; the address, with the port that was picked where it was 0.

    A socket's file is for its owner only, and needs no ``credentials``. Raises :class:`ConfigurationError`,
    which ends with the ``way_out``.
    """
    path = socket_path(address)
    if path is not None:
        _listen_at_socket(server, path, way_out)
        return address
    host, port = host_and_port(address)
    try:
        if credentials is None:
            return joined(host, server.add_insecure_port(joined(host, port)))
        return joined(host, server.add_secure_port(joined(host, port), credentials))
    except RuntimeError as error:
        raise ConfigurationError(
            f"gRPC cannot listen on {joined(host, port)}: {_why_not(host, port) or error}; {way_out}"
        ) from None


def _listen_at_socket(server: grpc.Server, path: Path, way_out: str) -> None:
    """gRPC takes over a socket's file from whoever uses it, without a word."""
    try:
        with socket.socket(socket.AF_UNIX) as attempt:
            if attempt.connect_ex(str(path)) == 0:
                raise ConfigurationError(f"{path} is the socket of a server that runs; {way_out}")
        with _for_the_owner_only():
            server.add_insecure_port(f"unix:{path}")
    except (RuntimeError, OSError) as error:  # OSError: the path is too long
        raise ConfigurationError(
            f"gRPC cannot listen at {path}: {_why_no_socket(path) or error}; {way_out}"
        ) from None


@contextmanager
def _for_the_owner_only() -> Iterator[None]:
    before = os.umask(FOR_OTHERS)
    try:
        yield
    finally:
        os.umask(before)


def _why_not(host: str, port: int) -> str:
    """What the system says of an address that gRPC cannot take, for it does not say; empty if nothing."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as attempt:
            attempt.bind(address)
    except OSError as error:
        return error.strerror or str(error)
    return ""


def _why_no_socket(path: Path) -> str:
    try:
        with socket.socket(socket.AF_UNIX) as attempt:
            attempt.bind(str(path))
        path.unlink()
    except OSError as error:
        return error.strerror or str(error)
    return ""
