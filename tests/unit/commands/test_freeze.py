from pathlib import Path

import pytest
from unit.commands.invoking import DIGITS, DIGITS_PROGRAM, run


def test_a_frozen_program_has_no_batch_norm_and_the_same_function(tmp_path: Path) -> None:
    frozen = tmp_path / "frozen.pt2"
    result = run("freeze", DIGITS_PROGRAM, "-o", frozen, "--learnable")
    assert result.exit_code == 0
    assert "4 BatchNorms are learnable affines" in result.stdout
    assert "0 stay" in result.stdout
    assert [path.name for path in tmp_path.iterdir()] == ["frozen.pt2"]
    # As affines they fold as they did before.
    folded = tmp_path / "folded.onnx"
    told = run("fold", frozen, "-o", folded).stdout
    assert "0 of 0" in told
    assert "other affines folded  8" in told
    assert run("verify", DIGITS, folded).exit_code == 0


def test_what_is_no_program_is_refused(tmp_path: Path) -> None:
    result = run("freeze", DIGITS, "-o", tmp_path / "frozen.pt2")
    assert result.exit_code == 1
    assert "not a torch.export archive" in result.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("output", "text"), [("frozen.onnx", "end its name in .pt2"), (DIGITS_PROGRAM, "is the program itself")]
)
def test_destinations_that_cannot_be_are_usage_errors(
    output: object, text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result = run("freeze", DIGITS_PROGRAM, "-o", output)
    assert result.exit_code == 2
    assert text in result.stderr
    assert list(tmp_path.iterdir()) == []
