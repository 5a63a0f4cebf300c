"""A way to a server that counts what passes, and can fall silent as a host does that vanishes."""

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

CHUNK = 1 << 16


class Forwarder:
    """Passes on every connection to one address."""

    def __init__(self, address: str) -> None:
        host, _, port = address.rpartition(":")
        self._server = host, int(port)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._sockets = [self._listener]
        self._speaks = threading.Event()
        self._speaks.set()
        self.sent = 0
        """Bytes from clients."""

        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def address(self) -> str:
        """Where clients connect to."""
        return f"127.0.0.1:{self._listener.getsockname()[1]}"

    def fall_silent(self) -> None:
        """Pass nothing on, either way; connections stay open."""
        self._speaks.clear()

    def close(self) -> None:
        self._speaks.set()
        for one in self._sockets:
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()

    def _accept(self) -> None:
        with suppress(OSError):  # closed
            while True:
                client, _ = self._listener.accept()
                server = socket.create_connection(self._server)
                self._sockets += [client, server]
                for ends in ((client, server), (server, client)):
                    threading.Thread(target=self._pass, args=(*ends, client), daemon=True).start()

    def _pass(self, source: socket.socket, target: socket.socket, client: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(CHUNK):
                self._speaks.wait()
                self.sent += len(data) if source is client else 0
                target.sendall(data)
            target.shutdown(socket.SHUT_WR)


@contextmanager
def forwarding(address: str) -> Iterator[Forwarder]:
    forwarder = Forwarder(address)
    try:
        yield forwarder
    finally:
        forwarder.close()
