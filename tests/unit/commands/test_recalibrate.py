import hashlib
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from foldserve.commands import recalibrate as command
from foldserve.commands.report import Provenance, Recalibration
from foldserve.folding import FoldResult, fold
from foldserve.parity.report import Verdict
from foldserve_client import Client
from numpy.typing import NDArray
from running import serving
from small_models import add_model, batch_norm, chain, convolution
from unit.commands.invoking import DIGITS, DIGITS_PROGRAM, answers, run

Digits = tuple[NDArray[np.float32], NDArray[np.int64]]
SEEN, KEPT = slice(0, 200), slice(200, None)
"""Images that the model is recalibrated on, and others that it is asked about."""


@pytest.fixture
def dim(digits: Digits) -> NDArray[np.float32]:
    """The digits as a camera in the dusk sees them."""
    return (digits[0] * np.float32(0.3) + np.float32(0.2)).astype(np.float32)


@pytest.fixture
def samples(tmp_path: Path, dim: NDArray[np.float32]) -> Path:
    np.savez(tmp_path / "dim.npz", images=dim[SEEN])
    return tmp_path / "dim.npz"


def _accuracy(model: Path, images: NDArray[Any], labels: NDArray[Any]) -> float:
    (logits,) = answers(model, {"images": images})
    return float((logits.argmax(axis=1) == labels).mean())


def test_a_new_version_reads_what_the_old_one_could_not(
    tmp_path: Path, samples: Path, dim: NDArray[np.float32], digits: Digits
) -> None:
    new = tmp_path / "models" / "digits" / "2"
    before = hashlib.sha256(DIGITS.read_bytes()).hexdigest()
    result = run("recalibrate", DIGITS.parent, "--inputs", samples, "-o", new)
    assert result.exit_code == 0, result.stderr
    assert _accuracy(DIGITS, dim[KEPT], digits[1][KEPT]) < 0.6
    assert _accuracy(new / "model.onnx", dim[KEPT], digits[1][KEPT]) > 0.95
    assert hashlib.sha256(DIGITS.read_bytes()).hexdigest() == before
    assert {path.name for path in new.iterdir()} == {"model.onnx", "recalibration.json"}
    assert [path.name for path in new.parent.iterdir()] == ["2"]


def test_it_tells_where_it_is_from(tmp_path: Path, samples: Path) -> None:
    new = tmp_path / "2"
    assert run("recalibrate", DIGITS, "--inputs", samples, "-o", new).exit_code == 0
    told = Recalibration.model_validate_json((new / "recalibration.json").read_text())
    assert told.provenance.original.sha256 == hashlib.sha256(DIGITS.read_bytes()).hexdigest()
    assert told.provenance.data.sha256 == hashlib.sha256(samples.read_bytes()).hexdigest()
    assert told.provenance.samples == 200
    assert told.written.sha256 == hashlib.sha256((new / "model.onnx").read_bytes()).hexdigest()
    assert told.parity.verdict is Verdict.WITHIN_BUDGET
    assert min(layer.variance for layer in told.before) > 0.2
    assert max(layer.variance for layer in told.after) < 1e-5
    kept = {prop.key: prop.value for prop in onnx.load(new / "model.onnx").metadata_props}
    assert Provenance.model_validate_json(kept["foldserve.recalibration"]) == told.provenance


def test_the_batchnorms_stay_and_nothing_but_their_statistics_changes(tmp_path: Path, samples: Path) -> None:
    new = tmp_path / "2"
    assert run("recalibrate", DIGITS, "--inputs", samples, "-o", new).exit_code == 0
    old, made = (onnx.load(file).graph for file in (DIGITS, new / "model.onnx"))
    assert list(made.node) == list(old.node)
    before, after = (
        {weight.name: onnx.numpy_helper.to_array(weight).tobytes() for weight in graph.initializer}
        for graph in (old, made)
    )
    assert after.keys() == before.keys()
    differing = {name.rpartition(".")[2] for name in before if after[name] != before[name]}
    assert differing == {"running_mean", "running_var"}


def test_a_program_is_recalibrated_too(tmp_path: Path, samples: Path) -> None:
    new = tmp_path / "2"
    assert run("recalibrate", DIGITS_PROGRAM.parent, "--inputs", samples, "-o", new).exit_code == 0
    assert (new / "model.onnx").is_file()


def test_a_folder_of_samples(tmp_path: Path, dim: NDArray[np.float32]) -> None:
    folder = tmp_path / "samples"
    folder.mkdir()
    np.save(folder / "a.npy", dim[:50])
    np.savez(folder / "b.npz", images=dim[50:100])
    (folder / "notes.txt").write_text("not samples")
    whole = tmp_path / "whole.npz"
    np.savez(whole, images=dim[:100])
    for inputs, number in ((folder, 2), (whole, 3)):
        assert run("recalibrate", DIGITS, "--inputs", inputs, "-o", tmp_path / str(number)).exit_code == 0
    (apart,), (together,) = (
        answers(tmp_path / str(number) / "model.onnx", {"images": dim}) for number in (2, 3)
    )
    np.testing.assert_allclose(apart, together, rtol=1e-4, atol=1e-4)


def test_the_server_takes_it_for_the_next_version(
    tmp_path: Path, samples: Path, dim: NDArray[np.float32], digits: Digits
) -> None:
    model = tmp_path / "models" / "digits"
    shutil.copytree(DIGITS.parents[1], model)
    assert run("recalibrate", model / "1", "--inputs", samples, "-o", model / "2").exit_code == 0
    with serving(tmp_path / "models") as server, Client(f"localhost:{server.grpc_port}") as client:
        result = client.infer("digits", dim[KEPT])
        assert result.model_version == "2"
        assert (result.output.argmax(axis=1) == digits[1][KEPT]).mean() > 0.95
        assert client.parity("digits").report.verdict == "within_budget"


def test_external_data_stays_external(tmp_path: Path, samples: Path) -> None:
    ir.save(ir.load(DIGITS), tmp_path / "model.onnx", external_data="weights.bin")
    new = tmp_path / "2"
    assert run("recalibrate", tmp_path / "model.onnx", "--inputs", samples, "-o", new).exit_code == 0
    assert {path.name for path in new.iterdir()} == {"model.onnx", "model.onnx.data", "recalibration.json"}


def _refused(code: int, *arguments: object) -> str:
    result = run("recalibrate", *arguments)
    assert result.exit_code == code
    return " ".join(result.stderr.split())


def test_a_version_is_never_overwritten(tmp_path: Path, samples: Path) -> None:
    new = tmp_path / "2"
    new.mkdir()
    assert "is there already" in _refused(2, DIGITS, "--inputs", samples, "-o", new)
    assert not list(new.iterdir())


def test_a_version_is_named_by_its_number(tmp_path: Path, samples: Path) -> None:
    assert "named by its number" in _refused(2, DIGITS, "--inputs", samples, "-o", tmp_path / "new")
    assert "no version folder" in _refused(2, DIGITS.parents[1], "--inputs", samples, "-o", tmp_path / "2")


def test_too_few_samples_are_refused(tmp_path: Path, dim: NDArray[np.float32]) -> None:
    np.savez(tmp_path / "few.npz", images=dim[:63])
    told = _refused(2, DIGITS, "--inputs", tmp_path / "few.npz", "-o", tmp_path / "2")
    assert "63 samples" in told
    assert "at least 64" in told
    (tmp_path / "empty").mkdir()
    assert "no .npz or .npy files" in _refused(
        2, DIGITS, "--inputs", tmp_path / "empty", "-o", tmp_path / "2"
    )


@pytest.mark.parametrize(
    ("arrays", "told"),
    [
        ({"digits": np.zeros((100, 1, 8, 8), np.float32)}, "no array 'images'"),
        ({"images": np.zeros((100, 1, 9, 8), np.float32)}, "shape [100, 1, 9, 8]"),
        ({"images": np.zeros((100, 1, 8, 8))}, "is float64"),
        ({"images": np.full((100, 1, 8, 8), np.nan, np.float32)}, "reads NaN"),
    ],
    ids=["name", "shape", "dtype", "nan"],
)
def test_samples_that_the_model_does_not_take_are_refused(
    tmp_path: Path, arrays: dict[str, NDArray[Any]], told: str
) -> None:
    file = tmp_path / "samples.npz"
    np.savez(file, allow_pickle=False, **arrays)
    assert told in _refused(1, DIGITS, "--inputs", file, "-o", tmp_path / "models" / "2")
    assert not list((tmp_path / "models").iterdir())


def test_a_model_without_batchnorm_is_refused(tmp_path: Path) -> None:
    folder = add_model(tmp_path, "plain", chain(["batch", 3, 8, 8], convolution(3)))
    np.save(tmp_path / "x.npy", np.zeros((100, 3, 8, 8), np.float32))
    told = _refused(1, folder, "--inputs", tmp_path / "x.npy", "-o", tmp_path / "plain" / "2")
    assert "no BatchNormalization with statistics of its own" in told


def test_a_model_with_a_fixed_batch_takes_whole_batches(tmp_path: Path) -> None:
    folder = add_model(tmp_path, "fixed", chain([30, 3, 8, 8], convolution(3), batch_norm()))
    x = np.random.default_rng(0).standard_normal((100, 3, 8, 8)).astype(np.float32)
    np.save(tmp_path / "x.npy", x)
    new = tmp_path / "fixed" / "2"
    assert run("recalibrate", folder, "--inputs", tmp_path / "x.npy", "-o", new).exit_code == 0
    told = Recalibration.model_validate_json((new / "recalibration.json").read_text())
    assert told.provenance.samples == 90


def test_a_wrong_fold_is_not_written(tmp_path: Path, samples: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(model: ir.Model) -> FoldResult:
        result = fold(model)
        weight = result.model.graph.initializers["classifier.1.weight"]
        assert weight.const_value is not None
        weight.const_value = ir.tensor(weight.const_value.numpy() * np.float32(1.01), name=weight.name)
        return result

    monkeypatch.setattr(command, "fold", wrong)
    told = _refused(1, DIGITS, "--inputs", samples, "-o", tmp_path / "models" / "2")
    assert "not written" in told
    assert not list((tmp_path / "models").iterdir())
