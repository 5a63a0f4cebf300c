"""Callers that mean harm to the HTTP side: whoever probes or scrapes beside them is answered."""

import socket
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, suppress

import pytest
from foldserve.observability.http import MOST_CONNECTIONS
from integration.attacked import QUICKLY_S, Attacked, attacked, bystander, digits_alone


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Attacked]:
    with attacked(digits_alone(tmp_path_factory.mktemp("models"))) as server:
        yield server


@pytest.fixture(autouse=True)
def _nobody_notices(server: Attacked) -> Iterator[None]:
    with bystander(server.address):
        yield
    assert _get(server, "/livez") == (200, b"live\n")


def _get(server: Attacked, path: str) -> tuple[int, bytes]:
    try:
        with urllib.request.urlopen(
            f"http://127.0.0.1:{server.http_port}{path}", timeout=QUICKLY_S
        ) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read()


def _said(server: Attacked, content: bytes) -> bytes:
    """What the server says to these bytes before it hangs up, or the first of it."""
    with socket.create_connection(("127.0.0.1", server.http_port), timeout=QUICKLY_S) as connection:
        with suppress(OSError):
            connection.sendall(content)
            connection.shutdown(socket.SHUT_WR)
        with suppress(ConnectionError):
            return connection.recv(65536)
    return b""


@pytest.mark.parametrize(
    "beginning", [b"", b"GET / HTTP/1.1\r\nHost: x\r\n", b"GET /metrics HTTP/1.1\r\n\r\n"]
)
def test_a_flood_of_connections(server: Attacked, beginning: bytes) -> None:
    """Slow ones, silent ones, and such as never read their answer."""
    threads = server.status("Threads")
    with ExitStack() as connections:
        for _ in range(4 * MOST_CONNECTIONS):
            connection = connections.enter_context(
                socket.create_connection(("127.0.0.1", server.http_port), timeout=QUICKLY_S)
            )
            with suppress(OSError):
                connection.sendall(beginning)
        for _ in range(5):
            assert _get(server, "/livez") == (200, b"live\n")
            assert _get(server, "/readyz") == (200, b"ready\n")
        assert server.status("Threads") <= threads + MOST_CONNECTIONS + 8


@pytest.mark.parametrize(
    ("content", "code"),
    [
        (b"GET /" + b"x" * 100_000 + b" HTTP/1.1\r\n\r\n", b" 414 "),
        (b"GET / HTTP/1.1\r\nX: " + b"x" * 100_000 + b"\r\n\r\n", b" 431 "),
        (b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * 10_000 + b"\r\n", b" 431 "),
        (b"GET / HTTP/9.9\r\n\r\n", b" 505 "),
        (b"GET\r\n\r\n", b"400"),
        (b"\x16\x03\x01" + bytes(500) + b"\r\n\r\n", b"400"),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b" 505 "),
        (b"POST / HTTP/1.1\r\nContent-Length: 99999999999\r\n\r\n", b" 501 "),
        (b"DELETE /models/digits HTTP/1.1\r\n\r\n", b" 501 "),
    ],
    ids=["long path", "long header", "many headers", "version", "nothing", "TLS", "HTTP/2", "POST", "DELETE"],
)
def test_requests_that_are_none(server: Attacked, content: bytes, code: bytes) -> None:
    assert code in _said(server, content).partition(b"\r\n\r\n")[0] + b" "


@pytest.mark.parametrize(
    "path",
    [
        "/../../etc/passwd",
        "/models/../../../etc/passwd",
        "/models/%2e%2e%2f%2e%2e%2fetc%2fpasswd/1",
        "/models/digits/../../../../etc/passwd",
        "/models/digits/1/../../../config.pbtxt",
        "//etc/passwd",
        "/models/digits/99999999999999999999999999",
        "/models/%00/1",
        "/models/%ff%fe/1",
        "/models/" + "a/" * 5000 + "1",
        "/%",
        "/?format=" + "j" * 10_000,
    ],
)
def test_paths_lead_to_no_file(server: Attacked, path: str) -> None:
    status, body = _get(server, path)
    assert status == (200 if path.startswith("/?") else 404)
    assert b"root:" not in body


def test_what_a_path_says_is_not_run_in_a_browser(server: Attacked) -> None:
    for path in ("/models/%3Cscript%3E/1", "/models/digits/%3Cscript%3E", "/?refresh=%3Cscript%3E"):
        assert b"<script" not in _get(server, path)[1]
