"""ONNX Runtime comes in through one door, without telemetry."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import foldserve
import pytest

SERVER = Path(foldserve.__file__).parent
DOORS = {"onnxruntime_module.py", "int8.py"}
"""The second quantises, in the way in which the first one opens the runtime."""

USE = """
import sys
from foldserve.runtime.cuda_attempt import convolution
from foldserve.runtime.onnxruntime_session import OnnxRuntimeSession
import numpy as np

session = OnnxRuntimeSession(convolution())
session.run({"image": np.ones((1, 1, 8, 8), np.float32)})
session.close()
assert "torch" not in sys.modules
"""


def test_using_a_session_leaves_nothing_in_the_home_folder(tmp_path: Path) -> None:
    environment = {
        name: value
        for name, value in os.environ.items()
        if name != "ORT_DISABLE_TELEMETRY" and not name.startswith("XDG_")
    }
    environment |= {"HOME": str(tmp_path), "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    child = subprocess.run(
        [sys.executable, "-c", USE], env=environment, capture_output=True, text=True, check=False
    )
    assert (child.returncode, child.stdout, child.stderr) == (0, "", "")
    assert list(tmp_path.rglob("*")) == []


@pytest.mark.parametrize(
    "module", sorted(SERVER.rglob("*.py")), ids=lambda path: str(path.relative_to(SERVER))
)
def test_only_one_module_imports_it(module: Path) -> None:
    imports = [
        name
        for node in ast.walk(ast.parse(module.read_text()))
        if isinstance(node, ast.Import | ast.ImportFrom)
        for name in ([alias.name for alias in node.names] if isinstance(node, ast.Import) else [node.module])
        if name and name.partition(".")[0] == "onnxruntime"
    ]
    assert bool(imports) == (module.name in DOORS)
