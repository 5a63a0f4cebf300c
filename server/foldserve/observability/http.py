"""The HTTP side: /metrics for Prometheus, /livez and /readyz for whoever restarts or balances, pages."""

import errno
import socket
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder

from foldserve.errors import ConfigurationError
from foldserve.observability.logging import get_logger

TEXT = "text/plain; charset=utf-8"
HTML = "text/html; charset=utf-8"
JSON = "application/json"

HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
"""Of every answer: it is as of now, and what it quotes from elsewhere can do nothing in a browser."""


@dataclass(frozen=True)
class Page:
    """What a path is answered with."""

    status: int
    content_type: str
    body: bytes


NOT_FOUND = b"this server answers /, /models/<name>/<version>, /metrics, /livez and /readyz\n"

Pages = Callable[[str, str], Page | None]
"""Given a request's target and its ``Accept`` header, the page; None where there is none."""

MOST_CONNECTIONS = 64
"""Each takes a thread, whether it asks for anything or not."""

NO_FILES_PAUSE_S = 0.1
"""Time between two looks whether a connection can be taken, where there are no file descriptors left."""

log = get_logger()


class _Listener(ThreadingHTTPServer):
    """Where there are too many connections the oldest makes room: who asks in earnest is soon answered."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, address: tuple[str, int], handler: type[BaseHTTPRequestHandler]) -> None:
        self.address_family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
        self._connections: OrderedDict[socket.socket, None] = OrderedDict()
        self._connections_lock = threading.Lock()
        super().__init__(address, handler)

    def get_request(self) -> Any:
        """The next connection; where the process may open no more files, it waits, and so does this."""
        try:
            return super().get_request()
        except OSError as error:
            if error.errno in (errno.EMFILE, errno.ENFILE):
                time.sleep(NO_FILES_PAUSE_S)
            raise

    def process_request(self, request: Any, client_address: Any) -> None:
        """Answer a new connection, in a thread of its own."""
        with self._connections_lock:
            self._connections[request] = None
            if len(self._connections) > MOST_CONNECTIONS:
                oldest, _ = self._connections.popitem(last=False)
                with suppress(OSError):  # it may have gone by itself
                    oldest.shutdown(socket.SHUT_RDWR)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        """Forget a connection that ends."""
        with self._connections_lock:
            self._connections.pop(request, None)
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A caller that hangs up is no news."""


class HttpServer:
    """Serves from a thread of its own until closed.

    ``not_live`` and ``not_ready`` return why the server is not, an empty text when it is; ``pages`` answers
    all paths but the three of machines. Raises :class:`ConfigurationError` when the port cannot be listened
    on.
    """

    def __init__(
        self,
        host: str,
        port: int,
        registry: CollectorRegistry,
        *,
        not_live: Callable[[], str],
        not_ready: Callable[[], str],
        pages: Pages,
    ) -> None:
        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            timeout = 30

            def do_GET(self) -> None:
                try:
                    page = self._page()
                except Exception:
                    log.exception("a page failed", path=self.path[:200])
                    page = Page(500, TEXT, b"this page failed inside the server; its log has the details\n")
                self.send_response(page.status)
                self.send_header("Content-Type", page.content_type)
                self.send_header("Content-Length", str(len(page.body)))
                for name, value in HEADERS.items():
                    self.send_header(name, value)
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(page.body)

            def _page(self) -> Page:
                accept = self.headers.get("Accept", "")
                match self.path.partition("?")[0]:
                    case "/metrics":
                        encode, content_type = choose_encoder(accept)
                        return Page(200, content_type, encode(registry))
                    case "/livez":
                        return _state("live", not_live())
                    case "/readyz":
                        return _state("ready", not_ready())
                    case _:
                        return pages(self.path, accept) or Page(404, TEXT, NOT_FOUND)

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


def _state(good: str, reason: str) -> Page:
    """A probe's answer; the reason why the state is not good, if there is one."""
    return Page(503 if reason else 200, TEXT, f"{reason or good}\n".encode())
