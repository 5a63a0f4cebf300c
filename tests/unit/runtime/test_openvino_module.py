"""OpenVINO comes in through one door: late, without telemetry, and not at all where it is not installed."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import foldserve
import pytest
from running import EXAMPLE_MODELS

SERVER = Path(foldserve.__file__).parent
USE = """
import sys
from pathlib import Path
import numpy as np
from foldserve.runtime.openvino_session import OpenVinoSession
assert "openvino" not in sys.modules

session = OpenVinoSession(Path(sys.argv[1]))
session.run({"images": np.ones((1, 1, 8, 8), np.float32)})
session.close()
assert not [name for name in sys.modules if name.startswith("openvino_telemetry.")]
"""
HIDDEN = """
import importlib.machinery
from foldserve.runtime.openvino_session import openvino_missing
from foldserve.settings import Precision

finder = importlib.machinery.PathFinder
find = finder.find_spec
finder.find_spec = lambda name, *rest: None if name == "openvino" else find(name, *rest)
print(openvino_missing(Precision.FLOAT32))
"""


def child(code: str, home: Path) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("XDG_")}
    # There is no telemetry in CI, whatever is installed.
    environment = {name: value for name, value in environment.items() if name not in {"CI", "TF_BUILD"}}
    environment |= {"HOME": str(home), "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    model = EXAMPLE_MODELS / "digits" / "1" / "model.onnx"
    command = [sys.executable, "-c", code, str(model)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


def test_using_a_session_reports_nothing_and_leaves_nothing_in_the_home_folder(tmp_path: Path) -> None:
    done = child(USE, tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert list(tmp_path.rglob("*")) == []


def test_where_it_is_not_installed_it_is_said_how_to_install_it(tmp_path: Path) -> None:
    done = child(HIDDEN, tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "OpenVINO is not installed: pip install 'foldserve[openvino]'\n"


@pytest.mark.parametrize(
    "module", sorted(SERVER.rglob("*.py")), ids=lambda path: str(path.relative_to(SERVER))
)
def test_nothing_imports_it_as_it_is_imported_itself(module: Path) -> None:
    imports = [
        name
        for node in ast.walk(ast.parse(module.read_text()))
        if isinstance(node, ast.Import | ast.ImportFrom)
        for name in ([alias.name for alias in node.names] if isinstance(node, ast.Import) else [node.module])
        if name and name.partition(".")[0] == "openvino"
    ]
    assert not imports
