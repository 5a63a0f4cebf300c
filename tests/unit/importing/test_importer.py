"""Whole imports: the child process, its limits, and what becomes of its files."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch
from foldserve.errors import ImportFailed
from foldserve.importing import import_program
from foldserve.importing.child import load, save
from torch import nn
from unit.importing.programs import Function, enliven, export, onnx_answers, relative_l2, torch_answers

# torch's own code uses what torch has deprecated
pytestmark = pytest.mark.filterwarnings("ignore:.*LeafSpec:FutureWarning")

LONG_S = 120.0


def _net() -> nn.Module:
    """The same net at every call."""
    torch.manual_seed(3)
    convolution = (nn.Conv2d(1, 2, 3, bias=False), nn.BatchNorm2d(2), nn.Flatten())
    return enliven(nn.Sequential(*convolution, nn.Linear(18, 3), nn.BatchNorm1d(3)))


@pytest.fixture
def program(tmp_path: Path) -> Path:
    file = tmp_path / "model.pt2"
    torch.export.save(export(_net(), torch.zeros(2, 1, 5, 5)), file)
    return file


def test_import_writes_the_model_and_reports(program: Path, tmp_path: Path) -> None:
    destination = tmp_path / "cache" / "model.onnx"
    report = import_program(program, destination, timeout_s=LONG_S)
    assert report.torch_version == torch.__version__
    assert (report.program_batch_norms, report.onnx_batch_norms) == (2, 2)
    assert (report.inputs, report.outputs) == (("input",), ("output",))
    assert report.seconds > 0
    model = ir.load(destination)
    assert model.opset_imports[""] == report.opset
    assert [path.name for path in destination.parent.iterdir()] == [destination.name]
    x = torch.randn(3, 1, 5, 5)
    assert relative_l2(onnx_answers(model, x), torch_answers(_net(), x)) <= 1e-6


def test_torch_is_imported_by_the_child_alone_and_from_where_it_is_installed(
    program: Path, tmp_path: Path
) -> None:
    (tmp_path / "torch.py").write_text("raise SystemExit('not torch')")
    code = (
        "import sys; from pathlib import Path; from foldserve.importing import import_program\n"
        f"import_program(Path(sys.argv[1]), Path(sys.argv[2]), timeout_s={LONG_S})\n"
        "print(sorted({'torch', 'onnxscript'} & {name.partition('.')[0] for name in sys.modules}))"
    )
    run = subprocess.run(
        [sys.executable, "-c", code, program, tmp_path / "model.onnx"],
        cwd=tmp_path,
        env=os.environ
        | {"PYTHONPATH": os.pathsep.join(str(Path(path).resolve()) for path in sys.path if path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (run.returncode, run.stdout.strip(), run.stderr) == (0, "[]", "")


def test_a_program_that_cannot_be_translated_leaves_nothing_behind(tmp_path: Path) -> None:
    program, cache = tmp_path / "model.pt2", tmp_path / "cache"
    torch.export.save(export(Function(torch.linalg.eigvals), torch.randn(2, 3, 3)), program)
    with pytest.raises(
        ImportFailed, match=r"model\.pt2: operator aten\.linalg_eig has no ONNX counterpart"
    ) as failure:
        import_program(program, cache / "model.onnx", timeout_s=LONG_S)
    assert "\n" not in str(failure.value)
    assert list(cache.iterdir()) == []


def test_an_operator_of_an_extension_is_named(program: Path, tmp_path: Path) -> None:
    foreign = tmp_path / "foreign.pt2"
    with zipfile.ZipFile(program) as source, zipfile.ZipFile(foreign, "w") as target:
        for info in source.infolist():
            target.writestr(info, source.read(info).replace(b"ops.aten.batch_norm", b"ops.ours.batch_norm"))
    with pytest.raises(ImportFailed, match=r"operator ours\.batch_norm\.default is unknown to torch here"):
        load(foreign, scratch=tmp_path)


def test_a_missing_package_is_named_with_its_remedy(
    program: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(ImportFailed, match=r"onnxscript.*pip install 'foldserve\[pt2\]'"):
        import_program(program, tmp_path / "model.onnx", timeout_s=LONG_S)


def _processes_that_name(path: Path) -> list[str]:
    wanted = os.fsencode(path)
    commands = Path("/proc").glob("[0-9]*/cmdline")
    return [command.parent.name for command in commands if wanted in _bytes_of(command)]


def _bytes_of(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError:  # the process ended meanwhile
        return b""


def test_an_import_that_takes_too_long_is_stopped(program: Path, tmp_path: Path) -> None:
    with pytest.raises(ImportFailed, match=r"longer than 0\.2 s.*FOLDSERVE_IMPORT_TIMEOUT_S"):
        import_program(program, tmp_path / "model.onnx", timeout_s=0.2)
    assert _processes_that_name(program) == []
    assert not (tmp_path / "model.onnx").exists()


def test_an_import_that_needs_too_much_memory_is_stopped(program: Path, tmp_path: Path) -> None:
    with pytest.raises(ImportFailed, match="out of memory"):
        import_program(program, tmp_path / "model.onnx", timeout_s=LONG_S, memory_limit_bytes=1 << 26)


def test_large_weights_go_to_a_file_of_their_own(tmp_path: Path) -> None:
    weight = ir.Value(name="weight", const_value=ir.tensor(np.array([[1, 2]], np.float32), name="weight"))
    graph = ir.Graph([], [], nodes=[], initializers=[weight], name="g", opset_imports={"": 18})
    model = ir.Model(graph, ir_version=10)
    save(model, tmp_path / "small.onnx", largest_single_file=8)
    save(model, tmp_path / "large.onnx", largest_single_file=7)
    assert {path.name for path in tmp_path.iterdir()} == {"small.onnx", "large.onnx", "large.onnx.data"}
    for name in ("small.onnx", "large.onnx"):
        (tensor,) = onnx.load(tmp_path / name).graph.initializer
        assert onnx.numpy_helper.to_array(tensor).tolist() == [[1, 2]]
