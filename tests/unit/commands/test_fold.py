import hashlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from foldserve.commands import fold as command
from foldserve.commands import model_files
from foldserve.commands.report import ModelReport
from foldserve.folding import FoldResult, fold
from foldserve.folding.report import Outcome, Reason
from foldserve.parity.report import ProbeSource, Verdict
from numpy.typing import NDArray
from unit.commands.invoking import DIGITS, DIGITS_PROGRAM, DIGITS_SAMPLES, answers, run
from unit.parity import networks

Digits = tuple[NDArray[np.float32], NDArray[np.int64]]


def _operators(file: Path) -> list[str]:
    return [node.op_type for node in onnx.load(file, load_external_data=False).graph.node]


def _names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


@pytest.mark.parametrize("source", [DIGITS, DIGITS_PROGRAM], ids=["onnx", "pt2"])
def test_the_folded_model_answers_like_the_original_and_the_report_tells_all(
    source: Path, tmp_path: Path, digits: Digits
) -> None:
    output, report = tmp_path / "out" / "folded.onnx", tmp_path / "reports" / "folded.json"
    result = run("fold", source, "-o", output, "--report", report, "--inputs", DIGITS_SAMPLES)
    assert result.exit_code == 0
    assert "4 of 4: 4 adjacent" in result.stdout
    assert "within_budget" in result.stdout
    assert "BatchNormalization" not in _operators(output)
    onnx.checker.check_model(output, full_check=True)
    (expected,), (found,) = (answers(file, {"images": digits[0]}) for file in (DIGITS, output))
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5 * float(np.abs(expected).max()))
    assert _names(output.parent) == {"folded.onnx"}
    told = ModelReport.model_validate_json(report.read_text())
    assert told.original.sha256 == hashlib.sha256(source.read_bytes()).hexdigest()
    assert told.folded is not None
    assert told.folded.sha256 == hashlib.sha256(output.read_bytes()).hexdigest()
    assert told.folded.bytes == output.stat().st_size
    assert told.parity is not None
    assert told.parity.verdict is Verdict.WITHIN_BUDGET
    assert told.parity.probes.source is ProbeSource.SAMPLES
    assert all(0 < here.relative_l2 < 1e-5 for site in told.fold.sites if (here := told.parity_of(site)))
    assert [site.original_value for site in told.parity.sites].count("logits") == 1
    assert len(told.parity.sites) == 4 + 1  # each BatchNorm's output, and the model's own


def test_without_samples_the_proof_rests_on_synthetic_inputs(tmp_path: Path) -> None:
    model, output, report = (tmp_path / name for name in ("model.onnx", "folded.onnx", "report.json"))
    model.write_bytes(networks.original(networks.layers()))
    assert run("fold", model, "-o", output, "--report", report).exit_code == 0
    told = ModelReport.model_validate_json(report.read_text())
    assert told.parity is not None
    assert told.parity.probes.source is ProbeSource.SYNTHETIC
    # Nodes without a name are called as the report calls them.
    absorbers = {name for site in told.fold.sites for name in site.absorbed_by}
    assert len(absorbers) == 3
    assert absorbers <= {node.name for node in onnx.load(output).graph.node}


def test_external_data_stays_external_and_is_part_of_the_hash(tmp_path: Path) -> None:
    model, output = tmp_path / "model.onnx", tmp_path / "folded.onnx"
    ir.save(ir.load(DIGITS), model, external_data="weights.bin")
    report = tmp_path / "report.json"
    assert run("fold", model, "-o", output, "--report", report).exit_code == 0
    assert _names(tmp_path) == {"model.onnx", "weights.bin", "folded.onnx", "folded.onnx.data", "report.json"}
    told = ModelReport.model_validate_json(report.read_text())
    assert told.folded is not None
    data = output.read_bytes() + (tmp_path / "folded.onnx.data").read_bytes()
    assert (told.folded.bytes, told.folded.sha256) == (len(data), hashlib.sha256(data).hexdigest())
    assert run("verify", model, output).exit_code == 0


def test_weights_too_large_for_one_message_are_written_beside_the_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(model_files, "LARGEST_MESSAGE_BYTES", 50_000)
    output = tmp_path / "folded.onnx"
    assert run("fold", DIGITS, "-o", output).exit_code == 0
    assert _names(tmp_path) == {"folded.onnx", "folded.onnx.data"}
    assert output.stat().st_size < 50_000
    assert run("verify", DIGITS, output).exit_code == 0


def test_a_site_that_is_to_be_kept_stays(tmp_path: Path) -> None:
    output, report = tmp_path / "folded.onnx", tmp_path / "report.json"
    kept = "features.4/BatchNormalization"
    assert run("fold", DIGITS, "-o", output, "--keep", kept, "--report", report).exit_code == 0
    sites = {site.name: site for site in ModelReport.model_validate_json(report.read_text()).fold.sites}
    assert (sites[kept].outcome, sites[kept].reason) == (Outcome.STAYED, Reason.EXCLUDED)
    assert _operators(output).count("BatchNormalization") == 1


def _plant(monkeypatch: pytest.MonkeyPatch, weight_name: str) -> None:
    """A fold that gets channel 3 of a weight wrong by a hundredth."""

    def wrong(model: ir.Model, **options: object) -> FoldResult:
        result = fold(model, **options)  # type: ignore[arg-type]  # whatever the command passes
        weight = result.model.graph.initializers[weight_name]
        assert weight.const_value is not None
        values = weight.const_value.numpy().copy()
        values[3] *= 1.01
        weight.const_value = ir.tensor(values, name=weight.name)
        return result

    monkeypatch.setattr(command, "fold_model", wrong)


def test_a_wrong_fold_is_not_written_and_its_first_bad_site_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _plant(monkeypatch, "features.7.weight")
    output, report = tmp_path / "folded.onnx", tmp_path / "report.html"
    result = run("fold", DIGITS, "-o", output, "--report", report)
    assert result.exit_code == 1
    assert _names(tmp_path) == set()
    assert "breach" in result.stdout
    assert "first bad site is features.8/BatchNormalization" in result.stderr
    assert "--keep 'features.8/BatchNormalization'" in result.stderr


def test_a_wrong_fold_that_no_output_shows_is_not_written_either(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    layers = networks.layers()
    silent = layers[1].beta.copy()
    silent[3] = -30  # the Relu behind it lets nothing through
    layers[1] = replace(layers[1], beta=silent)
    model = tmp_path / "model.onnx"
    model.write_bytes(networks.original(layers))
    _plant(monkeypatch, "w2")
    result = run("fold", model, "-o", tmp_path / "folded.onnx")
    assert result.exit_code == 1
    assert "every output is within the budget; site by site 1 of" in " ".join(result.stdout.split())
    assert "first bad site is n2" in result.stderr
    assert _names(tmp_path) == {"model.onnx"}


def test_what_cannot_be_proved_is_not_written(tmp_path: Path) -> None:
    model = tmp_path / "model.onnx"
    text = "g (float[n, 4] x) => (float[m] y) { shape = Constant<value_ints = [7]>() y = Reshape(x, shape) }"
    model.write_bytes(networks.model(text))
    result = run("fold", model, "-o", tmp_path / "folded.onnx")
    assert result.exit_code == 1
    assert "unproven" in result.stdout
    assert _names(tmp_path) == {"model.onnx"}


def test_broken_statistics_are_refused_naming_the_node(tmp_path: Path) -> None:
    layers = networks.layers()
    layers[1] = replace(layers[1], variance=-layers[1].variance)
    model = tmp_path / "model.onnx"
    model.write_bytes(networks.original(layers))
    result = run("fold", model, "-o", tmp_path / "folded.onnx")
    assert result.exit_code == 1
    assert "n2" in result.stderr
    assert _names(tmp_path) == {"model.onnx"}


def test_samples_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    samples = tmp_path / "samples.npz"
    np.savez(samples, pictures=np.zeros((2, 1, 8, 8), np.float32))
    result = run("fold", DIGITS, "-o", tmp_path / "folded.onnx", "--inputs", samples)
    assert result.exit_code == 1
    assert "no array 'images'" in result.stderr
    assert _names(tmp_path) == {"samples.npz"}


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (("-o", "folded.pt2"), "end its name in .onnx"),
        (("-o", DIGITS), "is the model itself"),
        (("-o", "folded.onnx", "--report", "report.txt"), "end its name in .json or .html"),
        (("-o", "folded.onnx", "--keep", "nobody"), "no such site: nobody"),
        (("-o", "folded.onnx", "--tier", 9), "--tier"),
        ((), "--output"),
    ],
)
def test_usage_errors_have_exit_code_2_and_write_nothing(
    arguments: tuple[object, ...], text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result = run("fold", DIGITS, *arguments)
    assert result.exit_code == 2
    assert text in result.stderr
    assert _names(tmp_path) == set()


def test_the_model_s_own_data_is_not_overwritten(tmp_path: Path) -> None:
    model = tmp_path / "model.onnx"
    ir.save(ir.load(DIGITS), model, external_data="other.onnx.data")
    before = (tmp_path / "other.onnx.data").read_bytes()
    result = run("fold", model, "-o", tmp_path / "other.onnx")
    assert result.exit_code == 2
    assert "holds the model's own data" in result.stderr
    assert (tmp_path / "other.onnx.data").read_bytes() == before
