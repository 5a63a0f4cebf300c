"""Whom to ask: an address, and how to be let in."""

from dataclasses import dataclass

import grpc

from foldserve_client.client import Client
from foldserve_client.connection import Compression, Connection, Tls

OWN_CONNECTION = ("grpc.use_local_subchannel_pool", 1)
"""Channels of one process would share a connection without it."""


@dataclass(frozen=True)
class Target:
    """A server; plain values, for worker processes to connect by themselves."""

    addresses: str | tuple[str, ...]
    """One, or several of the same service, which take turns."""

    tls: Tls | None = None
    token: str | None = None
    compression: Compression | None = None

    def __str__(self) -> str:
        return self.addresses if isinstance(self.addresses, str) else ", ".join(self.addresses)

    def client(self) -> Client:
        """A client of it, to ask what it is."""
        return Client(self.addresses, tls=self.tls, token=self.token, compression=self.compression)

    def channel(self) -> grpc.Channel:
        """A new connection, which nobody else uses and on which nothing is tried twice."""
        connection = self._connection()
        options = (*connection.options, OWN_CONNECTION)
        if self.tls is None:
            return grpc.insecure_channel(connection.target, options, connection.compression)
        credentials = self.tls.credentials()
        return grpc.secure_channel(connection.target, credentials, options, connection.compression)

    @property
    def metadata(self) -> tuple[tuple[str, str], ...]:
        """What every call carries."""
        return self._connection().metadata

    def _connection(self) -> Connection:
        return Connection.to(
            self.addresses, tls=self.tls, token=self.token, compression=self.compression, retries=0
        )
