"""What protects a server's ports: certificates, tokens and where it is managed, as the settings say."""

from datetime import datetime

import grpc

from foldserve.observability.logging import get_logger
from foldserve.observability.metrics import Metrics
from foldserve.rpc.access import Access
from foldserve.rpc.renewal import Renewals
from foldserve.rpc.tls import Tls
from foldserve.rpc.tokens import tokens_of
from foldserve.settings import ServerSettings
from foldserve.settings.addresses import PUBLIC, host_and_port, is_loopback, socket_path

log = get_logger()


class Security:
    """The certificates and tokens of one server, renewed from ``start`` to ``close``.

    Raises :class:`ConfigurationError` where a file cannot serve.
    """

    def __init__(self, settings: ServerSettings, metrics: Metrics) -> None:
        self._settings = settings
        self._rejected = metrics.rejected_calls
        self._tls = _tls(settings, metrics)
        self._tokens = tokens_of(settings.token_file)
        self._renewals = Renewals(
            [*([self._tls.renewed] if self._tls else []), *([self._tokens] if self._tokens else [])]
        )

    def credentials(self) -> grpc.ServerCredentials | None:
        """Credentials for one TCP port; None for clear text."""
        return None if self._tls is None else self._tls.credentials()

    def access(self, elsewhere: str | None) -> Access:
        """What callers may do by one port; ``elsewhere`` is where the server is managed, if not there."""
        return Access(self._tokens, elsewhere, self._rejected)

    def start(self) -> None:
        """Tell of what is open to strangers, and begin to look for changed files."""
        settings = self._settings
        managed_here = is_loopback(_managed_on(settings))
        stays_here = managed_here and is_loopback(settings.host)
        if self._tokens is not None and self._tls is None and not stays_here:
            log.warning(
                "tokens travel in clear text, and whoever listens has them: set tls_cert_file and "
                "tls_key_file, or let a proxy on this machine speak TLS, set host to 127.0.0.1 and "
                "management_address to one of this machine",
                host=settings.host,
                management_address=settings.management_address,
            )
        knows_callers = self._tokens is not None or settings.tls_client_ca_file is not None
        if not knows_callers and not managed_here:
            log.warning(
                "whoever reaches the management address may load and unload models: set token_file or "
                "tls_client_ca_file, or a management_address of this machine only",
                management_address=settings.management_address,
            )
        self._renewals.start()

    def close(self) -> None:
        """Look for changed files no more."""
        self._renewals.close()


def _managed_on(settings: ServerSettings) -> str:
    """The host that the server is managed on; a Unix socket is this one."""
    address = settings.management_address
    if address == PUBLIC:
        return settings.host
    return "localhost" if socket_path(address) is not None else host_and_port(address)[0]


def _tls(settings: ServerSettings, metrics: Metrics) -> Tls | None:
    certificate, key = settings.tls_cert_file, settings.tls_key_file
    if certificate is None or key is None:
        return None

    def tell_expiry(expires: datetime) -> None:
        metrics.certificate_expiry.labels(str(certificate)).set(expires.timestamp())

    return Tls(certificate, key, settings.tls_client_ca_file, tell_expiry)
