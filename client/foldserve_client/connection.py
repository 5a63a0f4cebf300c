"""How both clients connect: where to, how secured, what is tried again, and how long they wait."""

import json
import math
import random
import socket
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self

import grpc
from google.protobuf.message import Message

from foldserve_client.diagnosis import explained
from foldserve_client.errors import ClientError, from_status

DEFAULT_RETRIES = 3
MOST_RETRIES = 4
"""gRPC makes five attempts at most."""

FIRST_BACKOFF_S, LONGEST_BACKOFF_S = 0.1, 1.0
RESEND_BYTES = 1 << 30
"""Most that is kept of requests to send them again; gRPC's own 256 KiB are less than an image."""

UNLIMITED_BYTES = -1
"""Tensors are large, and the server has a limit of its own."""

KEEPALIVE_S = 330.0
KEEPALIVE_TIMEOUT_S = 20.0
"""How long a connection with a request on it may be silent until the server is asked for a sign of life, and
how long that may take: a stream without a time limit would wait for ever for a host that vanished. Servers
close connections that ask more often than every five minutes, unless told otherwise."""

IDEMPOTENT = {
    "inference.GRPCInferenceService": (
        "ServerLive",
        "ServerReady",
        "ModelReady",
        "ServerMetadata",
        "ModelMetadata",
        "ModelInfer",
        "ModelConfig",
        "ModelStatistics",
        "RepositoryIndex",
    ),
    "foldserve.v1.FoldService": ("GetFoldReport", "GetParity", "GetDrift"),
}
"""What may be sent twice: everything that only asks, and inference, which keeps no state."""

Addresses = str | Sequence[str]
"""``"host:port"``, ``"unix:/path"``, any other target of gRPC's, or a list of ``"host:port"``."""

Compression = Literal["gzip", "deflate"]
_COMPRESSION = {"gzip": grpc.Compression.Gzip, "deflate": grpc.Compression.Deflate}


@dataclass(frozen=True)
class Tls:
    """How a connection is secured; files are PEM.

    >>> Tls(ca_file="ca.pem")
    Tls(ca_file='ca.pem', cert_file=None, key_file=None, server_name=None)
    """

    ca_file: str | Path | None = None
    """Certificates of those who may have signed the server's; None: the ones that come with gRPC."""

    cert_file: str | Path | None = None
    """The client's own certificate, for servers that ask for one; with ``key_file``."""

    key_file: str | Path | None = None

    server_name: str | None = None
    """The name in the server's certificate, where it is not the one in the address."""

    def __post_init__(self) -> None:
        if (self.cert_file is None) != (self.key_file is None):
            raise ValueError("Tls takes cert_file and key_file together, or neither")

    def credentials(self) -> grpc.ChannelCredentials:
        """What gRPC takes; raises OSError for a file that cannot be read."""
        ca, key, certificate = (
            None if file is None else Path(file).read_bytes()
            for file in (self.ca_file, self.key_file, self.cert_file)
        )
        return grpc.ssl_channel_credentials(ca, key, certificate)


@dataclass(frozen=True)
class Connection:
    """One server, or several that take turns; ``target`` and ``options`` are what gRPC's channels take."""

    address: str
    """For people."""

    target: str
    options: tuple[tuple[str, Any], ...]
    tls: Tls | None
    metadata: tuple[tuple[str, str], ...]
    """What goes with every request."""

    compression: grpc.Compression | None
    retries: int
    takes_turns: bool
    """Whether there may be several servers."""

    @classmethod
    def to(
        cls,
        addresses: Addresses,
        *,
        tls: Tls | None,
        token: str | None,
        compression: Compression | None,
        retries: int,
    ) -> Self:
        """Everything that follows from a client's arguments; raises ValueError for one that cannot work.

        The names in a list of several are looked up here, once.
        """
        listed = [addresses] if isinstance(addresses, str) else list(addresses)
        if not listed:
            raise ValueError("a client needs an address, such as 'localhost:8001'")
        if token is not None and not (token.isascii() and token.isprintable()):
            raise ValueError("the token has characters that no header may have, such as a line's end")
        if compression is not None and compression not in _COMPRESSION:
            raise ValueError(f"compression is '{compression}'; {' and '.join(_COMPRESSION)} are possible")
        if not 0 <= retries <= MOST_RETRIES:
            raise ValueError(f"retries is {retries}; 0 to {MOST_RETRIES} are possible")
        for address in listed:
            _check(address)
        several = len(listed) > 1
        target = _target_of_several(listed) if several else listed[0]
        in_turn = several or target.startswith("dns:")
        options: dict[str, Any] = {
            "grpc.max_receive_message_length": UNLIMITED_BYTES,
            "grpc.max_send_message_length": UNLIMITED_BYTES,
            "grpc.keepalive_time_ms": round(1e3 * KEEPALIVE_S),
            "grpc.keepalive_timeout_ms": round(1e3 * KEEPALIVE_TIMEOUT_S),
            "grpc.per_rpc_retry_buffer_size": RESEND_BYTES,
            "grpc.service_config": json.dumps(service_config(retries, in_turn=in_turn)),
        }
        if tls is not None and (name := tls.server_name or (_one_host(listed) if several else None)):
            options["grpc.ssl_target_name_override"] = name
        return cls(
            ", ".join(listed),
            target,
            tuple(options.items()),
            tls,
            () if token is None else (("authorization", f"Bearer {token}"),),
            None if compression is None else _COMPRESSION[compression],
            retries,
            in_turn,
        )

    def error(self, error: grpc.RpcError, request: Message | None = None) -> ClientError:
        """The typed exception for what gRPC raised at ``request``."""
        trailers: Any = error.trailing_metadata() or ()  # pairs, of a kind that differs between the clients
        hints = dict(trailers)
        return from_status(
            error.code(),
            explained(error.details() or "", self.address, tls=self.tls is not None),
            model=getattr(request, "model_name", "") or getattr(request, "name", ""),
            request_id=getattr(request, "id", ""),
            retry_after_s=_seconds(hints.get("retry-after")),
        )


@dataclass(frozen=True)
class Deadline:
    """The moment, in seconds of ``time.monotonic``, at which a method gives up; None for never."""

    at: float | None

    @classmethod
    def after(cls, timeout_s: float | None) -> Self:
        """The deadline ``timeout_s`` seconds from now; never for None and infinity."""
        return cls(None if timeout_s in (None, math.inf) else time.monotonic() + timeout_s)

    def remaining(self) -> float | None:
        """Seconds left, negative once it has passed; None for no end."""
        return None if self.at is None else self.at - time.monotonic()

    def allows(self, seconds: float) -> bool:
        """Whether so much time is left."""
        remaining = self.remaining()
        return remaining is None or seconds < remaining


def service_config(retries: int, *, in_turn: bool) -> dict[str, Any]:
    """gRPC's own settings: what it sends again where no server is reached, and how it takes turns.

    Servers that take turns are left out while their health service says that they do not serve.
    """
    config: dict[str, Any] = {}
    if retries:
        names = [
            {"service": service, "method": method}
            for service, methods in IDEMPOTENT.items()
            for method in methods
        ]
        policy = {
            "maxAttempts": retries + 1,
            "initialBackoff": f"{FIRST_BACKOFF_S}s",
            "maxBackoff": f"{LONGEST_BACKOFF_S}s",
            "backoffMultiplier": 2,
            "retryableStatusCodes": ["UNAVAILABLE"],
        }
        config["methodConfig"] = [{"name": names, "retryPolicy": policy}]
    if in_turn:
        config["loadBalancingConfig"] = [{"round_robin": {}}]
        config["healthCheckConfig"] = {"serviceName": ""}
    return config


def spread(seconds: float) -> float:
    """Up to a fifth longer, so that callers who were refused together do not come back together."""
    return seconds * random.uniform(1.0, 1.2)


def _check(address: str) -> None:
    if "://" in address and not address.startswith(("dns://", "unix://")):
        raise ValueError(f"the address is '{address}'; write it without '{address.partition('://')[0]}://'")
    if address.startswith(("unix:", "dns:", "ipv4:", "ipv6:")):
        return
    if not address.rpartition(":")[2].isdecimal() or not address.rpartition(":")[0]:
        raise ValueError(f"the address is '{address}'; write host:port, such as 'localhost:8001'")


def _target_of_several(addresses: Sequence[str]) -> str:
    """gRPC takes a list of IP addresses, all of one family."""
    found = [_looked_up(address) for address in addresses]
    for family, scheme in ((socket.AF_INET, "ipv4"), (socket.AF_INET6, "ipv6")):
        if all(family in one for one in found):
            return f"{scheme}:{','.join(one[family] for one in found)}"
    raise ValueError(f"{', '.join(addresses)}: some have IPv4 addresses only, others IPv6 only")


def _looked_up(address: str) -> dict[socket.AddressFamily, str]:
    """ "ip:port" by family."""
    host, _, port = address.rpartition(":")
    try:
        infos = socket.getaddrinfo(host.strip("[]"), int(port), type=socket.SOCK_STREAM)
    except (OSError, ValueError) as error:
        raise ValueError(f"'{address}', one of several, must be host:port: {error}") from None
    return {
        info[0]: f"[{info[4][0]}]:{port}" if info[0] == socket.AF_INET6 else f"{info[4][0]}:{port}"
        for info in reversed(infos)
    }


def _one_host(addresses: Sequence[str]) -> str:
    hosts = {address.rpartition(":")[0].strip("[]") for address in addresses}
    if len(hosts) > 1:
        raise ValueError(
            "several hosts with TLS need certificates with one name in common: Tls(server_name=...)"
        )
    return hosts.pop()


def _seconds(text: str | bytes | None) -> float | None:
    """The hint ``retry-after``; None where it is absent or no number."""
    try:
        return None if text is None else max(0.0, float(text))
    except ValueError:
        return None
