"""TLS from certificate files that may change while the server runs.

A pair is proven to be one before it serves: gRPC itself would say no more than that a port cannot be bound,
and of a key that its TLS library has no signatures for, nothing at all until every handshake fails.
"""

import os
import ssl
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import grpc

from foldserve.errors import ConfigurationError
from foldserve.observability.logging import get_logger
from foldserve.rpc.certificate import certificates
from foldserve.rpc.renewal import Renewed

log = get_logger()


@dataclass(frozen=True)
class Identity:
    """What a server shows to callers and asks of them."""

    configuration: grpc.ServerCertificateConfiguration
    expires: datetime
    """When the first certificate of the chain that ends does so."""


class Tls:
    """The TLS of a server's ports; ``tell_expiry`` is told the end of each certificate that serves.

    Raises :class:`ConfigurationError` for files that cannot serve.
    """

    def __init__(
        self, certificate: Path, key: Path, client_ca: Path | None, tell_expiry: Callable[[datetime], None]
    ) -> None:
        self.certificate, self.key, self.client_ca = certificate, key, client_ca
        self._tell_expiry = tell_expiry
        files = [certificate, key] if client_ca is None else [certificate, key, client_ca]
        self.renewed = Renewed("the TLS certificate", files, self._identity)

    def credentials(self) -> grpc.ServerCredentials:
        """Credentials for one port, which cannot share them; gRPC asks at each handshake for newer ones."""
        handed = self.renewed.value

        def newer() -> Any:
            nonlocal handed
            current = self.renewed.value
            if current is handed:
                return None
            handed = current
            return current.configuration

        return grpc.dynamic_ssl_server_credentials(
            handed.configuration, newer, require_client_authentication=self.client_ca is not None
        )

    def _identity(self, contents: Sequence[bytes]) -> Identity:
        chain, key, *client_ca = contents
        expires = self._check_pair(chain, key)
        if self.client_ca is not None:
            _check_authorities(self.client_ca, client_ca[0])
        if expires < datetime.now(UTC):
            log.error(
                "the TLS certificate has expired: callers will refuse it",
                file=str(self.certificate),
                expired=expires.isoformat(),
            )
        self._tell_expiry(expires)
        configuration = grpc.ssl_server_certificate_configuration([(key, chain)], *client_ca)
        return Identity(configuration, expires)

    def _check_pair(self, chain: bytes, key: bytes) -> datetime:
        """Whether certificate and key belong together and can serve; when the chain ends."""
        try:
            found = certificates(chain)
        except ValueError as error:
            raise ConfigurationError(f"{self.certificate}: {error}") from None
        if not found:
            raise ConfigurationError(f"{self.certificate} has no certificate in PEM form")
        if found[0].key is None:
            raise ConfigurationError(
                f"{self.certificate} has a key of a kind that gRPC callers cannot take; make one with RSA, "
                f"or ECDSA on P-256 or P-384"
            )
        with _as_file(chain) as chain_file, _as_file(key) as key_file:
            try:
                ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(chain_file, key_file, _no_password)
            except ssl.SSLError as error:
                raise ConfigurationError(self._why_no_pair(error)) from None
        return min(one.expires for one in found)

    def _why_no_pair(self, error: ssl.SSLError) -> str:
        both = f"{self.key} and {self.certificate}"
        match error.reason:
            case "KEY_VALUES_MISMATCH" | "NO_CERTIFICATE_ASSIGNED" | "KEY_TYPE_MISMATCH":
                return f"{both} do not belong together: the key is another certificate's"
            case None:
                return f"{self.key} has no private key in PEM form that opens without a password"
            case reason:
                return f"{both} cannot serve: {reason.replace('_', ' ').lower()}"


def _check_authorities(file: Path, pem: bytes) -> None:
    try:
        if not certificates(pem):
            raise ConfigurationError(f"{file} has no certificate in PEM form")
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_verify_locations(cadata=pem.decode("ascii", "replace"))
    except (ValueError, ssl.SSLError) as error:
        raise ConfigurationError(f"{file} does not hold certificates of authorities: {error}") from None


@contextmanager
def _as_file(content: bytes) -> Iterator[str]:
    """A file in memory alone: the standard library checks files only, and a key must lie nowhere else."""
    descriptor = os.memfd_create("foldserve-tls")
    try:
        with os.fdopen(descriptor, "wb", closefd=False) as stream:
            stream.write(content)
        yield f"/proc/self/fd/{descriptor}"
    finally:
        os.close(descriptor)


def _no_password() -> str:
    """Without it, OpenSSL would ask whoever sits at the terminal."""
    return ""
