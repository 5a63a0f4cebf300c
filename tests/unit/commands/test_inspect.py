import hashlib
import json
from pathlib import Path

import pytest
from foldserve.commands.report import ModelReport
from foldserve.folding.report import Outcome, Reason
from unit.commands.invoking import DIGITS, DIGITS_PROGRAM, run
from unit.parity import networks

STAYS = """g (float[n, 3, 8, 8] x) => (float[n, 4, 8, 8] y) {
    a = BatchNormalization(x, one, one, one, one)
    c = Conv<pads = [1, 1, 1, 1]>(a, w)
    y = Relu(c)
}"""


def _report(*arguments: object) -> ModelReport:
    result = run("inspect", *arguments, "--json")
    assert result.exit_code == 0
    return ModelReport.model_validate_json(result.stdout)


def test_the_table_tells_what_would_fold_with_totals_operators_bytes_and_hash() -> None:
    result = run("inspect", DIGITS)
    assert result.exit_code == 0
    for text in (
        "features.1/BatchNormalization",
        "folded up, tier 0",
        "features.0/Conv",
        "4 of 4: 4 adjacent",
        "2 (80 parameters, 320 bytes)",
        "93,864 → 91,816 bytes",
        hashlib.sha256(DIGITS.read_bytes()).hexdigest(),
    ):
        assert text in result.stdout
    rows = [line.split() for line in result.stdout.splitlines()]
    assert ["BatchNormalization", "4", "0"] in rows
    assert ["Conv", "3", "3"] in rows


def test_progress_goes_to_stderr_so_that_json_is_nothing_but_json() -> None:
    result = run("inspect", DIGITS, "--json")
    assert json.loads(result.stdout)["totals"]["batch_norms_folded"] == 4
    assert "folding …" in result.stderr


def test_a_program_is_imported_and_tells_the_same() -> None:
    program, model = _report(DIGITS_PROGRAM), _report(DIGITS)
    assert program.imported is not None
    assert program.imported.program_batch_norms == 4
    assert program.original.sha256 == hashlib.sha256(DIGITS_PROGRAM.read_bytes()).hexdigest()
    assert program.totals == model.totals
    assert (program.folded, program.parity) == (None, None)


def test_what_stays_has_a_reason(tmp_path: Path) -> None:
    import numpy as np

    weights = {"one": np.ones(3, np.float32), "w": np.ones((4, 3, 3, 3), np.float32)}
    file = tmp_path / "model.onnx"
    file.write_bytes(networks.model(STAYS, weights=weights))
    report = _report(file)
    (site,) = report.fold.sites
    assert (site.outcome, site.reason) == (Outcome.STAYED, Reason.PADDING)
    assert report.totals.stayed_by_reason == {Reason.PADDING: 1}
    text = run("inspect", file).stdout
    assert "0 of 1" in text
    assert "stays (padding): " in text
    assert "BatchNorms that stay  1 padding" in text


def test_a_model_that_arrives_folded_is_a_calm_result_with_a_hint(tmp_path: Path) -> None:
    file = tmp_path / "model.onnx"
    file.write_bytes(networks.folded(networks.layers()))
    result = run("inspect", file)
    assert result.exit_code == 0
    assert "0 of 0" in result.stdout
    assert "torch.export.save" in result.stdout
    assert _report(file).hint is not None


@pytest.mark.parametrize(
    ("name", "content", "text"),
    [
        ("model.onnx", b"\xffnot a model", "is not a readable ONNX model"),
        ("model.pt2", b"not an archive", "not a torch.export archive"),
        ("model.pth", b"", "pickled models are not loaded"),
        ("model.h5", b"", "neither an .onnx file nor a .pt2 program"),
    ],
)
def test_what_is_no_model_is_refused_with_exit_code_1(
    tmp_path: Path, name: str, content: bytes, text: str
) -> None:
    file = tmp_path / name
    file.write_bytes(content)
    result = run("inspect", file)
    assert (result.exit_code, result.stdout) == (1, "")
    assert text in result.stderr


@pytest.mark.parametrize(
    "arguments", [(), ("nowhere.onnx",), (DIGITS, "--tier", 4), (DIGITS, "--no-such-flag")]
)
def test_usage_errors_have_exit_code_2(arguments: tuple[object, ...]) -> None:
    assert run("inspect", *arguments).exit_code == 2
