from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from foldserve.parity.report import ParityReport, ProbeSource, Verdict
from unit.commands.invoking import DIGITS, DIGITS_SAMPLES, run
from unit.parity import networks
from unit.parity.networks import Layer


def _written(folder: Path, name: str, model: bytes) -> Path:
    file = folder / f"{name}.onnx"
    file.write_bytes(model)
    return file


def test_a_right_fold_is_within_the_budget(tmp_path: Path) -> None:
    layers = networks.layers()
    original = _written(tmp_path, "original", networks.original(layers))
    result = run("verify", original, _written(tmp_path, "folded", networks.folded(layers)))
    assert result.exit_code == 0
    assert "within_budget" in result.stdout
    assert "proving …" in result.stderr


@pytest.mark.parametrize("plant", networks.PLANTS)
def test_a_wrong_fold_is_a_breach_that_names_the_first_bad_value(
    plant: Callable[[Layer], Layer], tmp_path: Path
) -> None:
    layers = networks.layers()
    original = _written(tmp_path, "original", networks.original(layers))
    wrong = _written(tmp_path, "wrong", networks.folded(layers, plant, site=2))
    result = run("verify", original, wrong, "--json")
    assert result.exit_code == 1
    report = ParityReport.model_validate_json(result.stdout)
    assert report.verdict is Verdict.BREACH
    assert report.first_bad_site is not None
    assert report.first_bad_site.original_value == "n2"
    text = run("verify", original, wrong)
    assert text.exit_code == 1
    assert "first bad value  n2" in text.stdout


def test_where_the_original_is_inaccurate_float64_says_so(tmp_path: Path) -> None:
    layers = networks.cancelling(networks.layers())
    original = _written(tmp_path, "original", networks.original(layers))
    result = run("verify", original, _written(tmp_path, "folded", networks.folded(layers)), "--json")
    assert result.exit_code == 0
    assert ParityReport.model_validate_json(result.stdout).verdict is Verdict.ORIGINAL_INACCURATE


def test_the_proof_rests_on_samples_that_are_given() -> None:
    result = run("verify", DIGITS, DIGITS, "--inputs", DIGITS_SAMPLES, "--json")
    assert result.exit_code == 0
    report = ParityReport.model_validate_json(result.stdout)
    assert report.probes.source is ProbeSource.SAMPLES
    assert [output.output for output in report.outputs] == ["logits"]


def test_models_with_other_inputs_are_no_match(tmp_path: Path) -> None:
    other = _written(tmp_path, "other", networks.original(networks.layers()))
    result = run("verify", DIGITS, other)
    assert result.exit_code == 1
    assert "the candidate's inputs are (x: float32)" in result.stdout


def test_usage_and_refusals(tmp_path: Path) -> None:
    assert run("verify", DIGITS).exit_code == 2
    assert run("verify", DIGITS, tmp_path / "nowhere.onnx").exit_code == 2
    np.savez(tmp_path / "samples.npz", images=np.zeros((2, 3, 8, 8), np.float32))
    result = run("verify", DIGITS, DIGITS, "--inputs", tmp_path / "samples.npz")
    assert result.exit_code == 1
    assert "has shape [2, 3, 8, 8]" in result.stderr
