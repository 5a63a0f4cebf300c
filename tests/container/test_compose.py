"""The stack of docker/compose.yaml: the server, and a real Prometheus and Alertmanager that watch it."""

import json
import os
import shutil
import socket
import subprocess
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from container.engine import becomes_true, docker
from foldserve_client import Client
from running import ROOT

FILE = ROOT / "docker" / "compose.yaml"
SERVICES = ("foldserve", "prometheus", "alertmanager")
"""Those that are started: Grafana's image, of which no stand-in can be made, shows what Prometheus has."""

PROJECT = "foldserve-test"


def _command() -> list[str]:
    """Compose as it is installed: a part of ``docker``, or by itself."""
    plugin = subprocess.run(["docker", "compose", "version"], capture_output=True, check=False)
    if plugin.returncode == 0:
        return ["docker", "compose"]
    if shutil.which("docker-compose"):
        return ["docker-compose"]
    pytest.skip("NOT CHECKED: docker/compose.yaml; neither `docker compose` nor docker-compose is installed")


def _compose(*arguments: str, **environment: str) -> str:
    command = [*_command(), "--file", str(FILE), "--project-name", PROJECT, *arguments]
    ran = subprocess.run(
        command, env=os.environ | environment, capture_output=True, text=True, timeout=120, check=False
    )
    assert ran.returncode == 0, f"{' '.join(command)}: {ran.stderr}{ran.stdout}"
    return ran.stdout


def _free_port() -> str:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return str(free.getsockname()[1])


@pytest.fixture(scope="module")
def ports() -> Iterator[dict[str, str]]:
    """The stack, up: the published ports by the names of their variables."""
    ports = {
        f"{service}_PORT": _free_port()
        for service in ("GRPC", "HTTP", "PROMETHEUS", "ALERTMANAGER", "GRAFANA")
    }
    try:
        _compose("up", "--detach", "--no-build", *SERVICES, **ports)
        yield ports
    finally:
        _compose("down", "--volumes", **ports)


def _get(port: str, path: str) -> Any:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=10) as answer:
        return json.load(answer)


def _values(port: str, query: str) -> list[float]:
    answer = _get(port, f"/api/v1/query?{urllib.parse.urlencode({'query': query})}")
    return [float(sample["value"][1]) for sample in answer["data"]["result"]]


def test_the_file_is_one_that_compose_takes() -> None:
    services = yaml.safe_load(_compose("config"))["services"]
    assert set(services) == {*SERVICES, "grafana"}
    for volume in (volume for one in services.values() for volume in one["volumes"]):
        source = volume["source"] if isinstance(volume, dict) else volume.split(":")[0]
        assert not source.startswith("/") or Path(source).exists(), source


def test_prometheus_waits_for_the_server_and_then_sees_it(ports: dict[str, str]) -> None:
    assert "healthy" in docker("ps", "--filter", f"label=com.docker.compose.project={PROJECT}")
    prometheus = ports["PROMETHEUS_PORT"]
    assert becomes_true(lambda: _values(prometheus, 'up{job="foldserve"}') == [1])
    assert _values(prometheus, 'foldserve_model_ready{model="digits"}') == [1]


def test_requests_are_counted(ports: dict[str, str]) -> None:
    with Client(f"127.0.0.1:{ports['GRPC_PORT']}") as client:
        assert client.ready("digits")
    query = 'foldserve_requests_total{method="ModelReady",model="digits"}'
    assert becomes_true(lambda: _values(ports["PROMETHEUS_PORT"], query) == [1])


def test_the_rules_are_loaded_and_alerts_have_somewhere_to_go(ports: dict[str, str]) -> None:
    prometheus = ports["PROMETHEUS_PORT"]
    groups = _get(prometheus, "/api/v1/rules")["data"]["groups"]
    assert {rule["name"] for group in groups for rule in group["rules"]} >= {"FoldserveDown"}
    assert becomes_true(
        lambda: len(_get(prometheus, "/api/v1/alertmanagers")["data"]["activeAlertmanagers"]) == 1
    )
    assert _get(ports["ALERTMANAGER_PORT"], "/api/v2/alerts") == []
