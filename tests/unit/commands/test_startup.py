"""Commands import what they need when they need it, and exit codes are what they are for."""

import subprocess
import sys

import pytest
from foldserve import __version__
from foldserve import cli as module
from foldserve.errors import ConfigurationError
from unit.commands.invoking import DIGITS, run

HEAVY = {"onnx", "onnx_ir", "onnxruntime", "torch", "jinja2", "grpc", "foldserve.commands"}


def test_the_version_needs_none_of_the_heavy_packages() -> None:
    assert run("version").stdout == f"foldserve {__version__}\n"
    code = f"import sys, foldserve.cli; print(sorted({HEAVY!r} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_inspect_needs_neither_torch_nor_a_runtime() -> None:
    code = (
        "import sys\nfrom foldserve.cli import app\n"
        f"app(['inspect', {str(DIGITS)!r}, '--json'], standalone_mode=False)\n"
        "print(sorted({'torch', 'onnxruntime', 'grpc'} & set(sys.modules)), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr.splitlines()[-1] == "[]"


@pytest.mark.parametrize("arguments", [("fold", DIGITS, "-o", "x.onnx"), ("verify", DIGITS, DIGITS)])
def test_a_mixture_of_runtimes_is_refused_before_it_is_imported(
    arguments: tuple[object, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    def two() -> str:
        raise ConfigurationError("2 distributions provide ONNX Runtime")

    monkeypatch.setattr(module, "require_single_onnxruntime", two)
    result = run(*arguments)
    assert result.exit_code == 2
    assert result.stderr == "foldserve: 2 distributions provide ONNX Runtime\n"
