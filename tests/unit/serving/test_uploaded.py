import itertools
import stat
from pathlib import Path

import pytest
from foldserve.errors import InvalidRequest
from foldserve.serving.uploaded import written


def test_files_are_written_where_only_this_process_reads_them() -> None:
    model = written("digits", {"1/model.onnx": b"one", "3/data/weights": b"three", "labels.txt": b"a\nb"})
    assert (model.name, set(model.versions)) == ("digits", {1, 3})
    assert (model.folder / "1" / "model.onnx").read_bytes() == b"one"
    assert (model.folder / "3" / "data" / "weights").read_bytes() == b"three"
    assert stat.S_IMODE(model.repository.stat().st_mode) == stat.S_IRWXU


def test_they_live_as_long_as_the_versions_made_of_them() -> None:
    model = written("digits", {"1/model.onnx": b"one"})
    folder, version = model.folder, model.version(1, None)
    del model
    assert version.model_file().is_file()
    del version
    assert not folder.exists()
    assert not folder.parent.exists()


@pytest.mark.parametrize(
    "path",
    [
        "../1/model.onnx",
        "1/../../model.onnx",
        "/etc/model.onnx",
        "",
        "1//model.onnx",
        "1/./m",
        "1\\m",
        "1/\0",
    ],
)
def test_a_path_out_of_the_folder_is_refused(path: str) -> None:
    with pytest.raises(InvalidRequest, match="does not lie in the model's folder"):
        written("digits", {"1/model.onnx": b"", path: b""})


@pytest.mark.parametrize("paths", [*itertools.permutations(["1/model.onnx/weights", "1/model.onnx"])])
def test_a_file_that_is_a_folder_too_is_refused(paths: tuple[str, str]) -> None:
    with pytest.raises(InvalidRequest, match="cannot be written"):
        written("digits", dict.fromkeys(paths, b""))


def test_files_without_a_version_are_refused() -> None:
    with pytest.raises(InvalidRequest, match="version folder"):
        written("digits", {"model.onnx": b"", "v1/model.onnx": b""})


def test_nothing_is_left_of_a_refused_upload(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with pytest.raises(InvalidRequest):
        written("digits", {"1/model.onnx": b"", "../out": b""})
    assert list(tmp_path.iterdir()) == []
