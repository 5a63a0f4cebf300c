import errno
import socket
import urllib.error
import urllib.request
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from foldserve.observability import http
from foldserve.observability.http import HTML, HttpServer, Page
from foldserve.observability.metrics import Metrics
from prometheus_client.parser import text_string_to_metric_families


class Service:
    def __init__(self) -> None:
        self.metrics = Metrics()
        self.reason = self.dead = ""

    def page(self, target: str, accept: str) -> Page | None:
        if target == "/broken":
            raise ZeroDivisionError
        return Page(200, HTML, f"<p>{accept}".encode()) if target == "/page?a=b" else None


@pytest.fixture
def service() -> Service:
    return Service()


@pytest.fixture
def url(service: Service) -> Iterator[str]:
    with HttpServer(
        "127.0.0.1",
        0,
        service.metrics.registry,
        not_live=lambda: service.dead,
        not_ready=lambda: service.reason,
        pages=service.page,
    ) as server:
        yield f"http://127.0.0.1:{server.port}"


def _get(url: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(url, timeout=10) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


def test_metrics_are_prometheus_text(service: Service, url: str) -> None:
    service.metrics.requests.record_request("digits", "1", "ModelInfer", "OK", 0.002)
    status, text = _get(f"{url}/metrics")
    samples = {
        (sample.name, sample.labels.get("code")): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }
    assert status == 200
    assert samples["foldserve_requests_total", "OK"] == 1
    assert samples["foldserve_request_duration_seconds_sum", None] == 0.002


def test_liveness_does_not_depend_on_readiness(service: Service, url: str) -> None:
    service.reason = "loading digits"
    assert _get(f"{url}/livez") == (200, "live\n")
    assert _get(f"{url}/readyz") == (503, "loading digits\n")
    service.reason = ""
    assert _get(f"{url}/readyz") == (200, "ready\n")


def test_a_server_that_only_a_new_start_helps_is_not_live(service: Service, url: str) -> None:
    service.dead = "gRPC has read nothing for 31 s"
    assert _get(f"{url}/livez") == (503, "gRPC has read nothing for 31 s\n")
    service.dead = ""
    assert _get(f"{url}/livez") == (200, "live\n")


def test_without_file_descriptors_connections_are_waited_for(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    accept = socket.socket.accept
    failures = [errno.EMFILE, errno.ENFILE]
    pauses: list[float] = []

    def fail(listening: socket.socket) -> Any:
        if failures:
            raise OSError(failures.pop(), "too many open files")
        return accept(listening)

    monkeypatch.setattr(http, "time", SimpleNamespace(sleep=pauses.append))
    monkeypatch.setattr(socket.socket, "accept", fail)
    assert _get(f"{url}/livez")[0] == 200
    assert pauses == [http.NO_FILES_PAUSE_S] * 2


def test_an_unknown_path_says_which_there_are(url: str) -> None:
    status, text = _get(f"{url}/v2/models")
    assert status == 404
    assert "/metrics, /livez and /readyz" in text


def test_other_paths_are_pages_which_can_do_nothing_in_a_browser(url: str) -> None:
    request = urllib.request.Request(f"{url}/page?a=b", headers={"Accept": "text/html"})
    with urllib.request.urlopen(request, timeout=10) as answer:
        assert answer.read() == b"<p>text/html"
        assert answer.headers["Content-Type"] == HTML
        assert answer.headers["Content-Security-Policy"].startswith("default-src 'none'")
        assert answer.headers["Cache-Control"] == "no-store"


def test_head_is_get_without_a_body(url: str) -> None:
    request = urllib.request.Request(f"{url}/page?a=b", headers={"Accept": "text/html"}, method="HEAD")
    with urllib.request.urlopen(request, timeout=10) as answer:
        assert (answer.status, answer.headers["Content-Length"], answer.read()) == (200, "12", b"")


def test_a_page_that_fails_is_an_error_and_the_next_one_is_answered(url: str) -> None:
    status, text = _get(f"{url}/broken")
    assert (status, "ZeroDivisionError" in text) == (500, False)
    assert _get(f"{url}/livez")[0] == 200
