"""A server under load: whether it is there, and where its metrics are."""

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
from foldserve_client.load import scrape
from foldserve_client.load.errors import LoadTestError
from foldserve_client.load.levels import Level, Loop, Step
from foldserve_client.load.mix import Share
from foldserve_client.load.sides import Effort, Inputs, Side
from foldserve_client.load.target import Target
from unit.client.load.test_runs import Said

STEP = Step(Loop.CLOSED, Level(1, 1), 0.0, 60.0, requests=3)


@pytest.fixture
def nothing() -> Iterator[HTTPServer]:
    """An HTTP server without metrics, which counts who looks for them."""

    class Nothing(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.server.asked += 1  # type: ignore[attr-defined]  # ours
            self.send_error(404)

        def log_message(self, *_: object) -> None:
            """Nobody reads it."""

    server = HTTPServer(("127.0.0.1", 0), Nothing)
    server.asked = 0  # type: ignore[attr-defined]  # ours
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def test_metrics_that_are_not_where_they_usually_are_are_looked_for_once(
    address: str, nothing: HTTPServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = f"http://127.0.0.1:{nothing.server_port}/metrics"
    monkeypatch.setattr(scrape, "default_url", lambda _: url)
    with Side(Target(address), [Share("echo")], Inputs(), Effort()) as side:
        for _ in range(2):
            assert side.measure(STEP, Said()).server is None
    assert nothing.asked == 1  # type: ignore[attr-defined]  # ours
    with (
        Side(Target(address), [Share("echo")], Inputs(), Effort(), url) as side,
        pytest.raises(LoadTestError, match="no metrics at"),
    ):
        side.measure(STEP, Said())


def test_a_server_that_is_not_there_is_named() -> None:
    with pytest.raises(LoadTestError, match=r"127\.0\.0\.1:1: UNAVAILABLE: no server listens"):
        Side(Target("127.0.0.1:1"), [Share("echo")], Inputs(), Effort())
