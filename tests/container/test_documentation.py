"""What README.md and docs/deployment.md say about docker works as they say it."""

import re
import subprocess

import pytest
from container.engine import Container, becomes_true
from running import ROOT

PAGES = ("README.md", "docs/deployment.md")
NAME = "foldserve-documentation"
IN_A_TEST_OF_ITS_OWN = ("docker compose ",)


def _commands(page: str) -> list[str]:
    blocks = re.findall(r"```sh\n(.*?)```", (ROOT / page).read_text(), re.DOTALL)
    lines = [line for block in blocks for line in block.splitlines()]
    return [
        line for line in lines if line.startswith("docker ") and not line.startswith(IN_A_TEST_OF_ITS_OWN)
    ]


def _here(command: str) -> str:
    """The same with a name and ports that nobody else has."""
    named = re.sub(r"(--name|exec|stop|stop -t \d+) foldserve\b", rf"\1 {NAME}", command)
    return re.sub(r"--publish (\d+):", "--publish 127.0.0.1:0:", named)


@pytest.mark.parametrize("page", PAGES)
def test_the_commands_work_one_after_the_other(page: str) -> None:
    commands = _commands(page)
    assert any(" run " in command for command in commands)
    container = Container(NAME)
    try:
        for command in commands:
            ran = subprocess.run(
                ["bash", "-c", _here(command)],
                cwd=ROOT,
                capture_output=True,
                text=True,
                timeout=300,
                check=False,
            )
            assert ran.returncode == 0, f"{command}: {ran.stderr}{ran.stdout}"
            if " run " in command:
                assert becomes_true(container.is_ready), container.log()
    finally:
        subprocess.run(["docker", "rm", "--force", "--volumes", NAME], capture_output=True, check=False)
