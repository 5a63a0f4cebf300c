"""``foldserve probe``: ask a running server, here or elsewhere, whether it serves."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse
from grpc_health.v1.health_pb2_grpc import HealthStub

from foldserve.errors import ConfigurationError

PORT_VARIABLE = "FOLDSERVE_GRPC_PORT"
PORT = "8001"


@dataclass(frozen=True)
class Tls:
    """How the connection is secured; files are PEM."""

    ca_file: Path | None
    """Whom to trust; None: whom gRPC trusts."""

    cert_file: Path | None
    """The probe's own certificate, for servers that ask for one; with ``key_file``."""

    key_file: Path | None

    server_name: str | None
    """The name in the server's certificate, where it is not the one in the address."""


def probe(address: str | None, model: str, tls: Tls | None, timeout_s: float) -> str:
    """Why the server, or one of its models, does not serve; empty if it does.

    Without an ``address`` it is the server that this environment's variables describe, on this machine.
    Raises :class:`~foldserve.errors.ConfigurationError` for files that cannot be used.
    """
    address = address or f"localhost:{os.environ.get(PORT_VARIABLE, PORT)}"
    with _channel(address, tls) as channel:
        stub: Any = HealthStub(channel)  # its types know no methods
        try:
            answer = stub.Check(HealthCheckRequest(service=model), timeout=timeout_s)
        except grpc.RpcError as error:
            return f"{address}: {error.code().name}: {error.details()}"
    status = HealthCheckResponse.ServingStatus.Name(answer.status)
    return "" if status == "SERVING" else f"{address}: {status}"


def _channel(address: str, tls: Tls | None) -> grpc.Channel:
    options: list[tuple[str, str | int]] = [("grpc.enable_http_proxy", 0)]  # it asks this server, no other
    if tls is None:
        return grpc.insecure_channel(address, options)
    if (tls.cert_file is None) is not (tls.key_file is None):
        raise ConfigurationError("--cert-file and --key-file belong together; give both or none")
    credentials = grpc.ssl_channel_credentials(
        _content(tls.ca_file), _content(tls.key_file), _content(tls.cert_file)
    )
    if tls.server_name:
        options.append(("grpc.ssl_target_name_override", tls.server_name))
    return grpc.secure_channel(address, credentials, options)


def _content(file: Path | None) -> bytes | None:
    try:
        return None if file is None else file.read_bytes()
    except OSError as error:
        raise ConfigurationError(f"{file} cannot be read: {error.strerror}") from None
