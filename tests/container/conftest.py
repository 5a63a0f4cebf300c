"""Everything here needs a container engine and the image that ``make test-container`` builds."""

import shutil
import subprocess

import pytest
from container.engine import IMAGE


@pytest.fixture(autouse=True, scope="session")
def _image() -> None:
    if shutil.which("docker") is None:
        pytest.skip("NOT CHECKED: containers, for docker is not installed")
    if subprocess.run(["docker", "image", "inspect", IMAGE], capture_output=True, check=False).returncode:
        pytest.skip(f"NOT CHECKED: containers; no engine runs, or it has no {IMAGE}: make test-container")
