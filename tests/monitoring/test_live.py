"""A real Prometheus and Alertmanager watch a real server: every query of the dashboard has an answer."""

import json
import math
import socket
import subprocess
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from foldserve.server import Server
from foldserve_client import Client, InvalidArgument
from monitoring.docker_files import PROMETHEUS, RECORDED, RULE_FILES, dashboard_queries, needs_prometheus
from planted import plant_a_wrong_fold
from running import EXAMPLE_DATA, EXAMPLE_MODELS, serving

pytestmark = needs_prometheus

SHADOW = {"sample_rate": 1.0, "window": 20, "breaches": 3, "drift_window": 64}
FIRING = {"FoldserveModelLoadFailed", "FoldserveParityBreach", "FoldserveFallbackActive"}
LIMIT_S = 60
QUERIES = dict(dashboard_queries())


@dataclass(frozen=True)
class Watch:
    """The addresses of a Prometheus and of the Alertmanager that it tells."""

    prometheus: str
    alertmanager: str

    def values(self, query: str) -> list[float]:
        """What an expression is now; what is not finite is left out."""
        answer = _get(f"{self.prometheus}/api/v1/query?{urllib.parse.urlencode({'query': query})}")
        values = [float(sample["value"][1]) for sample in answer["data"]["result"]]
        return [value for value in values if math.isfinite(value)]

    def alerts(self) -> set[str]:
        """The alerts that the Alertmanager was told of."""
        return {alert["labels"]["alertname"] for alert in _get(f"{self.alertmanager}/api/v2/alerts")}

    def scrape_errors(self) -> list[str]:
        """Why the server's metrics could not be read, if so."""
        targets = _get(f"{self.prometheus}/api/v1/targets")["data"]["activeTargets"]
        return [target["lastError"] for target in targets if target["lastError"]]

    def has_data(self, query: str) -> bool:
        """Whether an expression has values, now or within the time limit."""
        return _becomes_true(lambda: bool(self.values(query)))


def _becomes_true(condition: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + LIMIT_S
    while not (holds := condition()) and time.monotonic() < deadline:
        time.sleep(0.25)
    return holds


@pytest.fixture(scope="module")
def watch(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watch]:
    """Over a server under requests: one model's fold has turned out wrong, another one did not load."""
    folder = tmp_path_factory.mktemp("watched")
    (folder / "models" / "broken" / "1").mkdir(parents=True)
    (folder / "models" / "broken" / "1" / "model.onnx").write_bytes(b"no model")
    (folder / "models" / "digits").symlink_to(EXAMPLE_MODELS / "digits")
    with (
        serving(folder / "models", shadow=SHADOW, shadow_cpu_share=1.0) as server,
        _requests(server),
        _alertmanager(folder) as alertmanager,
        _prometheus(folder, server, alertmanager) as prometheus,
    ):
        watch = Watch(prometheus, alertmanager)
        assert watch.has_data("foldserve_drift_baseline"), watch.scrape_errors()
        plant_a_wrong_fold(server)
        assert watch.has_data("foldserve_fallback_active == 1"), "the unfolded model takes over"
        yield watch


@pytest.mark.parametrize("name", QUERIES)
def test_every_query_of_the_dashboard_has_an_answer(watch: Watch, name: str) -> None:
    assert watch.has_data(QUERIES[name]), QUERIES[name]


@pytest.mark.parametrize("name", RECORDED)
def test_every_recording_rule_records(watch: Watch, name: str) -> None:
    assert watch.has_data(name)


def test_no_rule_fails(watch: Watch) -> None:
    """Such as one that joins series of which there are several."""
    groups = _get(f"{watch.prometheus}/api/v1/rules")["data"]["groups"]
    rules = [rule for group in groups for rule in group["rules"]]
    assert rules
    assert [rule for rule in rules if rule["health"] != "ok"] == []


def test_what_fires_is_what_happened_and_reaches_the_alertmanager(watch: Watch) -> None:
    assert _becomes_true(lambda: watch.alerts() == FIRING), watch.alerts()


@pytest.mark.parametrize(
    ("name", "value"),
    [("Alerts A", len(FIRING)), ("Versions not ready A", 1), ("Fallbacks A", 1), ("Fallbacks so far A", 1)],
)
def test_the_first_line_of_the_dashboard_tells_what_happened(watch: Watch, name: str, value: int) -> None:
    assert _becomes_true(lambda: watch.values(QUERIES[name]) == [value]), watch.values(QUERIES[name])


@contextmanager
def _requests(server: Server) -> Iterator[None]:
    """Requests of eight rows until the end, one in four of them wrong."""
    with np.load(EXAMPLE_DATA / "digits_test.npz") as data:
        images = data["images"]
    stop = threading.Event()

    def send() -> None:
        with Client(f"127.0.0.1:{server.grpc_port}") as client:
            while not stop.wait(0.05):
                start = int(np.random.default_rng().integers(len(images) - 8))
                for _ in range(3):
                    client.infer("digits", images[start : start + 8])
                with pytest.raises(InvalidArgument):
                    client.infer("digits", images[:1], outputs=["logits", "logits"])

    sender = threading.Thread(target=send)
    sender.start()
    try:
        yield
    finally:
        stop.set()
        sender.join()


@contextmanager
def _prometheus(folder: Path, server: Server, alertmanager: str) -> Iterator[str]:
    """The configuration of docker/, in a hurry and with the addresses of this test."""
    settings = yaml.safe_load((PROMETHEUS / "prometheus.yml").read_text())
    settings["global"] = {"scrape_interval": "500ms", "evaluation_interval": "500ms"}
    settings["rule_files"] = [str(file) for file in RULE_FILES]
    settings["scrape_configs"][0]["static_configs"][0]["targets"] = [f"127.0.0.1:{server.http_port}"]
    alertmanagers = settings["alerting"]["alertmanagers"][0]["static_configs"][0]
    alertmanagers["targets"] = [alertmanager.removeprefix("http://")]
    file = folder / "prometheus.yml"
    file.write_text(yaml.safe_dump(settings))
    command = ["prometheus", f"--config.file={file}", f"--storage.tsdb.path={folder / 'series'}"]
    with _running(command, folder / "prometheus.log") as address:
        yield address


@contextmanager
def _alertmanager(folder: Path) -> Iterator[str]:
    command = [
        "prometheus-alertmanager",
        f"--config.file={PROMETHEUS / 'alertmanager.yml'}",
        f"--storage.path={folder / 'alerts'}",
        "--cluster.listen-address=",
    ]
    with _running(command, folder / "alertmanager.log") as address:
        yield address


@contextmanager
def _running(command: list[str], log: Path) -> Iterator[str]:
    """One of Prometheus' servers, once it is ready: its address."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    with log.open("wb") as output:
        process = subprocess.Popen([*command, f"--web.listen-address={address}"], stderr=output)
    try:
        deadline = time.monotonic() + LIMIT_S
        while not _is_ready(f"http://{address}"):
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.1)
        yield f"http://{address}"
    finally:
        process.terminate()
        process.wait()


def _is_ready(address: str) -> bool:
    try:
        with urllib.request.urlopen(f"{address}/-/ready", timeout=5):
            return True
    except urllib.error.URLError:
        return False


def _get(url: str) -> Any:
    with urllib.request.urlopen(url, timeout=10) as answer:
        return json.load(answer)
