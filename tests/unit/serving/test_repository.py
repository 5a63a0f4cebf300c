import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from foldserve.errors import ConfigurationError, UnsupportedModel
from foldserve.serving.model_configuration import read_configuration
from foldserve.serving.repository import ModelVersion, find, scan, settled_changes
from foldserve.settings import ServerSettings


def _version(repository: Path, model: str, version: str, file: str = "model.onnx") -> Path:
    folder = repository / model / version
    folder.mkdir(parents=True)
    (folder / file).write_bytes(b"")
    return folder


def test_versions_are_found_and_told_apart_from_other_folders(tmp_path: Path) -> None:
    for version in ("1", "10", "2", "0", "-1", "v3", "old", "01"):
        _version(tmp_path, "digits", version)
    _version(tmp_path, ".hidden", "1")
    (tmp_path / "readme.txt").write_text("not a model")
    ((digits,),) = scan([tmp_path]).values()
    assert digits.name == "digits"
    assert set(digits.versions) == {1, 2, 10}
    assert digits.other_folders == {"0", "-1", "v3", "old", "01"}


def test_a_folder_without_a_version_is_a_model_all_the_same(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    _version(tmp_path, "digits", "v1")
    models = scan([tmp_path])
    assert {name: (dict(one.versions), one.other_folders) for name, (one,) in models.items()} == {
        "empty": ({}, frozenset()),
        "digits": ({}, {"v1"}),
    }


def test_a_folder_that_cannot_be_read_is_a_model_of_which_nothing_is_known(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("digits", "secret"):
        _version(tmp_path, name, "1")
    iterdir = Path.iterdir

    def forbidden(folder: Path) -> Iterator[Path]:  # whoever runs the tests may be allowed to read everything
        if folder.name == "secret":
            raise PermissionError(13, "Permission denied", str(folder))
        return iterdir(folder)

    monkeypatch.setattr(Path, "iterdir", forbidden)
    found = scan([tmp_path])
    assert set(found["digits"][0].versions) == {1}
    assert (dict(found["secret"][0].versions), "Permission denied" in found["secret"][0].unreadable) == (
        {},
        True,
    )
    with pytest.raises(ConfigurationError, match=r"cannot be read: .*Permission denied"):
        read_configuration(found["secret"][0], ServerSettings(repository=(tmp_path,)))


def test_a_missing_repository_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="nowhere is not a folder"):
        scan([tmp_path / "nowhere"])


def test_a_model_is_found_in_each_repository_that_has_it(tmp_path: Path) -> None:
    for repository in ("one", "two"):
        _version(tmp_path / repository, "digits", "1")
    repositories = [tmp_path / "one", tmp_path / "two"]
    assert [folder.repository for folder in scan(repositories)["digits"]] == repositories
    assert [folder.repository for folder in find("digits", repositories)] == repositories
    assert find("letters", repositories) == []


def _replace(folder: Path) -> None:
    """Other bytes of the same size and time under the same name: only the inode tells."""
    status = (folder / "model.onnx").stat()
    (folder / "new").write_bytes(b"")
    os.utime(folder / "new", ns=(status.st_atime_ns, status.st_mtime_ns))
    (folder / "new").rename(folder / "model.onnx")


@pytest.mark.parametrize(
    "change",
    [
        lambda folder: (folder / "model.onnx").write_bytes(b"longer"),
        lambda folder: os.utime(folder / "model.onnx", ns=(1, 1)),
        lambda folder: (folder / "model.onnx").unlink(),
        lambda folder: (folder / "weights.bin").write_bytes(b""),
        lambda folder: (folder.parent / "foldserve.yaml").write_text(""),
        lambda folder: (folder.parent / "2").mkdir(),
        _replace,
    ],
    ids=["size", "time", "removed", "added", "configuration", "version", "replaced"],
)
def test_every_change_of_a_model_is_seen(tmp_path: Path, change: Callable[[Path], object]) -> None:
    folder = _version(tmp_path, "digits", "1")
    before = scan([tmp_path])
    assert scan([tmp_path]) == before
    change(folder)
    assert scan([tmp_path]) != before


def test_files_in_folders_within_a_version_count(tmp_path: Path) -> None:
    data = _version(tmp_path, "digits", "1") / "data"
    data.mkdir()
    before = scan([tmp_path])
    (data / "weights.bin").write_bytes(b"")
    assert scan([tmp_path]) != before


def test_a_change_counts_once_two_scans_agree_on_it(tmp_path: Path) -> None:
    folder = _version(tmp_path, "digits", "1")
    _version(tmp_path, "letters", "1")
    start = scan([tmp_path])
    (folder / "model.onnx").write_bytes(b"half")
    half = scan([tmp_path])
    (folder / "model.onnx").write_bytes(b"half and half")
    whole = scan([tmp_path])
    assert settled_changes(start, start, half) == []
    assert settled_changes(start, half, whole) == []
    assert settled_changes(start, whole, scan([tmp_path])) == ["digits"]
    assert settled_changes(whole, whole, whole) == []


def test_added_and_removed_models_settle_too(tmp_path: Path) -> None:
    _version(tmp_path, "digits", "1")
    there = scan([tmp_path])
    assert settled_changes({}, {}, there) == []
    assert settled_changes({}, there, there) == ["digits"]
    assert settled_changes(there, there, {}) == []
    assert settled_changes(there, {}, {}) == ["digits"]


@pytest.mark.parametrize("file", ["model.onnx", "model.pt2"])
def test_the_model_file_is_found(tmp_path: Path, file: str) -> None:
    folder = _version(tmp_path, "digits", "1", file)
    assert ModelVersion("digits", 1, folder).model_file() == folder / file


def test_the_model_file_may_have_another_name(tmp_path: Path) -> None:
    folder = _version(tmp_path, "digits", "1", "resnet.onnx")
    assert ModelVersion("digits", 1, folder, "resnet.onnx").model_file() == folder / "resnet.onnx"
    with pytest.raises(UnsupportedModel, match=r"no densenet\.onnx in .*rename resnet\.onnx"):
        ModelVersion("digits", 1, folder, "densenet.onnx").model_file()


@pytest.mark.parametrize("there", ["model.plan", "model.onnx"])
def test_a_model_file_of_another_kind_is_refused_with_the_file_that_names_it(
    tmp_path: Path, there: str
) -> None:
    folder = _version(tmp_path, "digits", "1", there)
    source = ModelVersion("digits", 1, folder, "model.plan", {"file": "digits/config.pbtxt"})
    with pytest.raises(
        UnsupportedModel, match=r"^digits/config\.pbtxt: .*'model\.plan' is neither \.onnx nor \.pt2"
    ):
        source.model_file()


def test_the_only_model_under_another_name_is_named_with_what_to_do(tmp_path: Path) -> None:
    source = ModelVersion("digits", 1, _version(tmp_path, "digits", "1", "Model.onnx"))
    with pytest.raises(UnsupportedModel, match=r"rename Model\.onnx, or set 'file: Model\.onnx' in .*yaml"):
        source.model_file()
    _version(tmp_path / "digits", "1", "data", "weights.onnx")  # further down nothing is looked for
    (source.folder / "other.onnx").write_bytes(b"")
    with pytest.raises(UnsupportedModel, match=r"put the model file there under one of these"):
        source.model_file()


@pytest.mark.parametrize("named", [False, True])
@pytest.mark.parametrize("file", ["model.pt", "weights.pth", "net.pkl"])
def test_a_pickle_is_refused_with_the_way_to_export(tmp_path: Path, file: str, named: bool) -> None:
    folder = _version(tmp_path, "digits", "1", file)
    with pytest.raises(UnsupportedModel, match=r"torch\.export\.save"):
        ModelVersion("digits", 1, folder, file if named else None).model_file()


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
