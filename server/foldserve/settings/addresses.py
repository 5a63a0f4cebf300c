"""Addresses that a server listens on: ``host:port``, or ``unix:/path`` for a Unix socket."""

from ipaddress import ip_address
from pathlib import Path

PUBLIC = "public"
"""In place of an address: no own one, but the public port."""

UNIX = "unix:"
HIGHEST_PORT = 65535


def socket_path(address: str) -> Path | None:
    """The file of a Unix socket; None for any other address. Raises ValueError for one that cannot be."""
    if not address.startswith(UNIX):
        return None
    path = Path(address.removeprefix(UNIX))
    if not path.is_absolute():
        raise ValueError(f"'{address}' needs the whole path of the socket: unix:/run/foldserve.sock")
    return path


def host_and_port(address: str) -> tuple[str, int]:
    """The parts of ``host:port``, without the brackets of ``[::1]:port``; raises ValueError for others."""
    host, colon, port = address.rpartition(":")
    is_bracketed = host.startswith("[") and host.endswith("]")
    if not colon or not host.strip("[]") or (":" in host and not is_bracketed):
        raise ValueError(f"'{address}' is no address; give host:port, or unix:/path")
    if not (port.isascii() and port.isdecimal() and int(port) <= HIGHEST_PORT):
        raise ValueError(f"'{address}' needs a port from 0 to {HIGHEST_PORT} behind its last colon")
    return host.strip("[]"), int(port)


def joined(host: str, port: int) -> str:
    """``host:port``, as clients dial it."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches what listens there, as far as the name tells."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
