"""What the README says is what happens: its commands run, its tables are those of the code."""

import os
import re
import shlex
import subprocess
from pathlib import Path

import pytest
from foldserve.server import Server
from foldserve_client import Client
from readme_tables import TABLES, with_tables
from running import CACHE, EXAMPLE_MODELS, ROOT, serving

README = ROOT / "README.md"
PAGES = [README, *sorted((ROOT / "docs").glob("*.md")), *sorted(ROOT.glob("*/README.md"))]
TEXT = README.read_text()
SHELL_LINES = [
    line for block in re.findall(r"```sh\n(.*?)```", TEXT, re.DOTALL) for line in block.splitlines()
]
PYTHON_BLOCKS = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
CONTROL = [line for line in SHELL_LINES if re.search(r"foldserve-client (repository|stats)", line)]
ON_A_RUNNING_SERVER = [
    line
    for line in SHELL_LINES
    if line.startswith((".venv/bin/foldserve-client", "curl")) and line not in CONTROL
]
MAKE = [line for line in SHELL_LINES if line.startswith("make ")]
WITHOUT_A_SERVER = [
    line
    for line in SHELL_LINES
    if re.match(r"\.venv/bin/foldserve (inspect|fold|verify|freeze|recalibrate|config) ", line)
]
SERVE = [line for line in SHELL_LINES if "foldserve serve" in line]
DOCKER = [line for line in SHELL_LINES if line.startswith("docker ")]
"""Those tests/container runs, where there is an engine."""


def _run(command: str, folder: Path = ROOT) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
    environment["FOLDSERVE_CACHE_DIR"] = CACHE.name
    return subprocess.run(
        shlex.split(command),
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def test_every_shell_command_is_covered_here() -> None:
    assert set(SHELL_LINES) == {*ON_A_RUNNING_SERVER, *CONTROL, *WITHOUT_A_SERVER, *MAKE, *SERVE, *DOCKER}
    assert len(PYTHON_BLOCKS) == 2


@pytest.mark.parametrize("command", ON_A_RUNNING_SERVER)
def test_commands_for_a_running_server(server: Server, command: str) -> None:
    command = command.replace("localhost:8002", f"localhost:{server.http_port}")
    if "foldserve-client" in command:
        command += f" --address localhost:{server.grpc_port}"
    ran = _run(command)
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout


def test_commands_without_a_server(tmp_path: Path) -> None:
    """One after the other in one folder: the later ones use what the earlier ones wrote."""
    for command in WITHOUT_A_SERVER:
        absolute = command.replace(".venv/", f"{ROOT}/.venv/").replace("examples/", f"{ROOT}/examples/")
        ran = _run(absolute, tmp_path)
        assert ran.returncode == 0, f"{command}: {ran.stdout}{ran.stderr}"
    assert {file.name for file in tmp_path.iterdir()} == {
        "folded.onnx",
        "report.html",
        "frozen.pt2",
        "models",
    }


def test_python_from_a_client(
    server: Server, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    exec(PYTHON_BLOCKS[0].replace("localhost:8001", f"localhost:{server.grpc_port}"), {})
    assert "within_budget" in capsys.readouterr().out


def test_commands_and_python_that_load_and_unload(capsys: pytest.CaptureFixture[str]) -> None:
    with serving(EXAMPLE_MODELS, model_control="explicit") as server:
        for command in CONTROL:
            ran = _run(f"{command} --address {server.management_address}")
            assert ran.returncode == 0, ran.stderr
            assert "digits" in ran.stdout
        exec(PYTHON_BLOCKS[1].replace("localhost:8003", server.management_address), {})
        with Client(f"localhost:{server.grpc_port}") as client:
            assert not client.ready("digits")
    assert "digits 1 READY" in capsys.readouterr().out


@pytest.mark.parametrize("command", MAKE)
def test_make_targets_exist(command: str) -> None:
    assert _run(f"{command} --dry-run").returncode == 0


def test_the_demo_does_the_main_job() -> None:
    ran = _run(".venv/bin/python examples/demo.py")
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "server stopped with exit status 0" in ran.stdout
    assert "foldserve_batchnorms{" in ran.stdout


@pytest.mark.parametrize("command", SERVE)
def test_serve_commands_have_only_known_flags(command: str) -> None:
    known = _run(".venv/bin/foldserve serve --help").stdout
    for word in shlex.split(command):
        if word.startswith("--"):
            assert word in known


@pytest.mark.parametrize("page", TABLES, ids=lambda page: page.name)
def test_the_tables_are_those_of_the_code(page: Path) -> None:
    assert with_tables(page) == page.read_text(), "run `make format` to write them"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    for path, anchor in re.findall(r"\]\((?!https?:)([^)#]*)(?:#([^)]*))?\)", page.read_text()):
        target = page.parent / path if path else page
        assert target.exists(), path
        headings = re.findall(r"^#+ (.*)", target.read_text(), re.MULTILINE) if anchor else []
        anchors = {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}
        assert not anchor or anchor in anchors, f"{path}#{anchor}"
