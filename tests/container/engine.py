"""A container engine as its users reach it: by the command ``docker``."""

import json
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from running import EXAMPLE_MODELS

IMAGE = "foldserve:cpu"
DIGITS = ("--volume", f"{EXAMPLE_MODELS / 'digits'}:/models/digits:ro")
HARDENED = (
    *("--read-only", "--tmpfs", "/tmp", "--cap-drop", "ALL", "--security-opt", "no-new-privileges"),
    # Whoever called a shell would find none.
    *(f"--mount=type=bind,source=/dev/null,target=/usr/bin/{shell},readonly" for shell in ("dash", "bash")),
)
LIMIT_S = 60


def docker(*arguments: str, timeout: float = LIMIT_S) -> str:
    """What the command writes; its error output is the message where it fails."""
    ran = subprocess.run(["docker", *arguments], capture_output=True, text=True, timeout=timeout, check=False)
    assert ran.returncode == 0, f"docker {' '.join(arguments)}: {ran.stderr}{ran.stdout}"
    return ran.stdout.strip()


def becomes_true(condition: Callable[[], bool], limit_s: float = LIMIT_S) -> bool:
    """Whether a condition holds, now or within the time limit."""
    deadline = time.monotonic() + limit_s
    while not (holds := condition()) and time.monotonic() < deadline:
        time.sleep(0.1)
    return holds


@dataclass(frozen=True)
class Container:
    """A container by its id or name."""

    id: str

    def facts(self) -> dict[str, Any]:
        """All that the engine says of it."""
        (facts,) = json.loads(docker("inspect", self.id))
        return dict(facts)

    @property
    def state(self) -> dict[str, Any]:
        """Whether it runs, how it ended, what its health is."""
        return dict(self.facts()["State"])

    def address(self, port: int) -> str:
        """Where this machine reaches one of its ports."""
        return docker("port", self.id, f"{port}/tcp").splitlines()[0]

    def page(self, path: str) -> tuple[int, str]:
        """Status and body of a page on its HTTP port; 0 where nobody answers."""
        try:
            with urllib.request.urlopen(f"http://{self.address(8002)}{path}", timeout=10) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()
        except OSError:
            return 0, ""

    def is_ready(self) -> bool:
        """Whether it serves."""
        return self.state["Running"] and self.page("/readyz")[0] == 200

    def python(self, code: str) -> str:
        """What a piece of Python prints that runs inside, as the server's user."""
        return docker("exec", self.id, "python3", "-c", code)

    def log(self) -> list[dict[str, Any]]:
        """The server's log since it was started first."""
        ran = subprocess.run(["docker", "logs", self.id], capture_output=True, text=True, check=True)
        return [json.loads(line) for line in (ran.stdout + ran.stderr).splitlines()]

    def wait(self) -> int:
        """The exit status, once it has ended."""
        return int(docker("wait", self.id))


@contextmanager
def started(*options: str) -> Iterator[Container]:
    """A container of the image, its ports published on free ones of this machine; gone at the end."""
    published = [f"--publish=127.0.0.1:0:{port}" for port in (8001, 8002)]
    container = Container(docker("run", "--detach", *published, *options, IMAGE))
    try:
        yield container
    finally:
        docker("rm", "--force", "--volumes", container.id)


@contextmanager
def serving(*options: str) -> Iterator[Container]:
    """The same, once it serves."""
    with started(*options) as container:
        assert becomes_true(container.is_ready), container.log()
        yield container
