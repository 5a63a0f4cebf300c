from pathlib import Path

import pytest
from foldserve.errors import ConfigurationError, UnsupportedModel
from foldserve.serving.repository import ModelVersion, latest, scan


def _version(repository: Path, model: str, version: str, file: str = "model.onnx") -> Path:
    folder = repository / model / version
    folder.mkdir(parents=True)
    (folder / file).write_bytes(b"")
    return folder


def test_versions_are_found_and_other_folders_passed_over(tmp_path: Path) -> None:
    for version in ("1", "10", "2", "0", "-1", "v3", "old"):
        _version(tmp_path, "digits", version)
    _version(tmp_path, ".hidden", "1")
    (tmp_path / "readme.txt").write_text("not a model")
    assert [(found.name, found.version) for found in scan([tmp_path])] == [
        ("digits", 1),
        ("digits", 2),
        ("digits", 10),
    ]


def test_the_latest_version_is_the_highest_number(tmp_path: Path) -> None:
    for version in ("9", "10"):
        _version(tmp_path, "a", version)
    _version(tmp_path, "b", "3")
    assert {(found.name, found.version) for found in latest(scan([tmp_path]))} == {("a", 10), ("b", 3)}


def test_a_missing_repository_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="nowhere is not a folder"):
        scan([tmp_path / "nowhere"])


def test_two_repositories_may_not_have_the_same_model(tmp_path: Path) -> None:
    for repository in ("one", "two"):
        _version(tmp_path / repository, "digits", "1")
    with pytest.raises(ConfigurationError, match="model 'digits' is in both"):
        scan([tmp_path / "one", tmp_path / "two"])


@pytest.mark.parametrize("file", ["model.onnx", "model.pt2"])
def test_the_model_file_is_found(tmp_path: Path, file: str) -> None:
    folder = _version(tmp_path, "digits", "1", file)
    assert ModelVersion("digits", 1, folder).model_file() == folder / file


@pytest.mark.parametrize("file", ["model.pt", "weights.pth", "net.pkl"])
def test_a_pickle_is_refused_with_the_way_to_export(tmp_path: Path, file: str) -> None:
    folder = _version(tmp_path, "digits", "1", file)
    with pytest.raises(UnsupportedModel, match=r"torch\.export\.save"):
        ModelVersion("digits", 1, folder).model_file()


def test_an_empty_version_folder_says_what_belongs_there(tmp_path: Path) -> None:
    folder = tmp_path / "digits" / "1"
    folder.mkdir(parents=True)
    with pytest.raises(UnsupportedModel, match=r"no model\.onnx or model\.pt2"):
        ModelVersion("digits", 1, folder).model_file()


def test_samples_are_optional(tmp_path: Path) -> None:
    source = ModelVersion("digits", 1, _version(tmp_path, "digits", "1"))
    assert source.samples is None
    (tmp_path / "digits" / "samples.npz").write_bytes(b"")
    assert source.samples == tmp_path / "digits" / "samples.npz"
