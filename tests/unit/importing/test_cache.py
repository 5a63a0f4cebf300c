from pathlib import Path

import pytest
from foldserve.errors import ImportFailed
from foldserve.importing import import_cached
from running import EXAMPLE_MODELS

PROGRAM = EXAMPLE_MODELS / "digits_pt2" / "1" / "model.pt2"
NO_TIME_S = 0.01
"""Too short for any import: what returns all the same was not imported."""


def test_a_program_is_imported_once_and_a_damaged_entry_is_made_anew(tmp_path: Path) -> None:
    model, report = import_cached(PROGRAM, tmp_path, timeout_s=120)
    written = model.read_bytes()
    assert report.onnx_batch_norms == 4
    assert import_cached(PROGRAM, tmp_path, timeout_s=NO_TIME_S) == (model, report)

    model.write_bytes(written[:-1] + b"\0")
    with pytest.raises(ImportFailed, match="took longer"):
        import_cached(PROGRAM, tmp_path, timeout_s=NO_TIME_S)
    again, _ = import_cached(PROGRAM, tmp_path, timeout_s=120)
    assert (again, again.read_bytes()) == (model, written)

    (model.parent / "entry.json").write_text("{")
    with pytest.raises(ImportFailed, match="took longer"):
        import_cached(PROGRAM, tmp_path, timeout_s=NO_TIME_S)
    assert [path.name for path in (tmp_path / "imports").iterdir()] == [model.parent.name]


def test_another_program_is_another_entry(tmp_path: Path) -> None:
    other = tmp_path / "other.pt2"
    other.write_bytes(PROGRAM.read_bytes() + b"\0")
    import_cached(PROGRAM, tmp_path, timeout_s=120)
    with pytest.raises(ImportFailed, match="took longer"):
        import_cached(other, tmp_path, timeout_s=NO_TIME_S)
