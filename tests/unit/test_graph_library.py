"""onnx-ir without SymPy, until somebody wants that."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from running import EXAMPLE_MODELS


def said(program: str, *arguments: object, path: Path | None = None) -> str:
    """What a program that has onnx-ir imported writes, in a process of its own."""
    beginning = (
        "import sys; from foldserve.graph_library import import_graph_library; import_graph_library()\n"
    )
    run = subprocess.run(
        [sys.executable, "-W", "error", "-c", beginning + program, *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | ({} if path is None else {"PYTHONPATH": str(path)}),
    )
    assert run.returncode == 0, run.stderr
    return run.stdout.strip()


def test_preparing_a_model_does_without_sympy() -> None:
    program = """
from pathlib import Path
from foldserve.folding import fold
from foldserve.serving import artefact_files, original_files, preparation
from foldserve.serving.model_file import read_model
fold(read_model(Path(sys.argv[1])))
print("onnx_ir" in sys.modules, "sympy" in sys.modules, "onnx_ir._symbolic_shapes" in sys.modules)
"""
    assert said(program, EXAMPLE_MODELS / "digits" / "1" / "model.onnx") == "True False False"


@pytest.mark.parametrize(
    "use",
    [
        'import onnx_ir; print((onnx_ir.SymbolicDim("n") + 1) * 2)',
        'import onnx_ir, sympy; print(onnx_ir.SymbolicDim(sympy.Symbol("n")) * 2 + 2)',
        'from sympy.core import Symbol; print(2 * Symbol("n") + 2)',
    ],
)
def test_arithmetic_with_dimensions_is_as_ever(use: str) -> None:
    assert said(use) == "2*n + 2"


def test_threads_that_calculate_first_at_the_same_time_all_can() -> None:
    program = """
import threading
from concurrent.futures import ThreadPoolExecutor
import onnx_ir
together = threading.Barrier(8)
def use(_):
    together.wait()
    return str(onnx_ir.SymbolicDim("n") + 1)
with ThreadPoolExecutor(8) as pool:
    print(set(pool.map(use, range(8))))
"""
    assert said(program) == "{'n + 1'}"


def test_an_onnx_ir_that_calculates_while_it_is_imported_can(tmp_path: Path) -> None:
    (tmp_path / "onnx_ir.py").write_text("import sympy\nFOUR = sympy.Integer(2) * 2\n")
    assert said("import onnx_ir; print(onnx_ir.FOUR)", path=tmp_path) == "4"
