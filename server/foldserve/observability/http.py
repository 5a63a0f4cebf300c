"""The HTTP side: /metrics for Prometheus, /livez and /readyz for whoever restarts or balances."""

import socket
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder

from foldserve.errors import ConfigurationError

TEXT = "text/plain; charset=utf-8"


class _Listener(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, address: tuple[str, int], handler: type[BaseHTTPRequestHandler]) -> None:
        self.address_family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
        super().__init__(address, handler)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A caller that hangs up is no news."""


class HttpServer:
    """Serves the three paths from a thread of its own until closed.

    ``not_ready`` returns why the server is not ready, an empty text when it is. Raises
    :class:`ConfigurationError` when the port cannot be listened on.
    """

    def __init__(
        self, host: str, port: int, registry: CollectorRegistry, not_ready: Callable[[], str]
    ) -> None:
        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            timeout = 30

            def do_GET(self) -> None:
                match self.path.partition("?")[0]:
                    case "/metrics":
                        encode, content_type = choose_encoder(self.headers.get("Accept", ""))
                        self._answer(200, content_type, encode(registry))
                    case "/livez":
                        self._answer(200, TEXT, b"live\n")
                    case "/readyz":
                        reason = not_ready()
                        self._answer(503 if reason else 200, TEXT, f"{reason or 'ready'}\n".encode())
                    case _:
                        self._answer(404, TEXT, b"this server answers /metrics, /livez and /readyz\n")

            def _answer(self, status: int, content_type: str, body: bytes) -> None:
                self.send_response(status)
                self.send_header("Content-Type", content_type)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(body)

            do_HEAD = do_GET  # noqa: N815  # http.server looks methods up by this name

            def log_message(self, format: str, *args: object) -> None:
                """Probes and scrapes are no news."""

        try:
            self._server = _Listener((host, port), Handler)
        except OSError as error:
            raise ConfigurationError(
                f"HTTP cannot listen on {host}:{port}: {error}; is the port taken? "
                f"--http-port 0 picks a free one"
            ) from None
        self._thread = threading.Thread(target=self._server.serve_forever, name="http", daemon=True)

    @property
    def port(self) -> int:
        """The port that is listened on."""
        return int(self._server.server_address[1])

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
