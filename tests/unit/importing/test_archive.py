"""Which files are taken for programs, and what is said about the others."""

import zipfile
from pathlib import Path

import pytest
import torch
from foldserve.errors import InvalidModel, UnsupportedModel
from foldserve.importing import refuse_pickle
from foldserve.importing.archive import check_archive, write_portable
from torch import nn

# torch's own code uses what torch has deprecated
pytestmark = pytest.mark.filterwarnings("ignore:.*LeafSpec:FutureWarning")


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("programs") / "model.pt2"
    module = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2)).eval()
    torch.export.save(torch.export.export(module, (torch.zeros(2, 1, 5, 5),)), file)
    return file


def _changed(program: Path, destination: Path, old: bytes, new: bytes) -> Path:
    """A copy of ``program`` in whose JSON files ``old`` is ``new``."""
    with zipfile.ZipFile(program) as source, zipfile.ZipFile(destination, "w") as target:
        for info in source.infolist():
            data = source.read(info)
            target.writestr(info, data.replace(old, new) if info.filename.endswith(".json") else data)
    assert destination.read_bytes() != program.read_bytes()
    return destination


def test_a_program_is_taken(program: Path) -> None:
    check_archive(program)


@pytest.mark.parametrize("name", ["model.pt", "model.pth", "model.pkl"])
def test_a_pickle_is_refused_with_the_code_that_exports(name: str) -> None:
    with pytest.raises(UnsupportedModel) as refusal:
        refuse_pickle(Path(name))
    text = str(refusal.value)
    assert name in text
    for line in ("torch.export.Dim", "torch.export.export(model.eval()", "torch.export.save(program"):
        assert line in text


def test_the_code_that_exports_works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UnsupportedModel) as refusal:
        refuse_pickle(Path("model.pt"))
    code = [line.strip() for line in str(refusal.value).splitlines() if line.startswith(" ")]
    monkeypatch.chdir(tmp_path)
    exec("\n".join(code), {"torch": torch, "model": nn.BatchNorm1d(3), "example_input": torch.zeros(2, 3)})
    check_archive(tmp_path / "model.pt2")


def test_a_pickle_under_another_name_is_refused(tmp_path: Path) -> None:
    torch.save(nn.Linear(2, 2).state_dict(), tmp_path / "model.pt2")
    with pytest.raises(UnsupportedModel, match="pickled models are not loaded"):
        check_archive(tmp_path / "model.pt2")


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b'"use_pickle": false', b'"use_pickle": true'),
        (b'"path_name": "weight_0"', b'"path_name": "opaque_obj_0"'),
    ],
)
def test_pickled_weights_inside_a_program_are_refused(
    program: Path, tmp_path: Path, old: bytes, new: bytes
) -> None:
    hidden = _changed(program, tmp_path / "hidden.pt2", old, new)
    with pytest.raises(UnsupportedModel, match=r"0\.weight.*pickled"):
        check_archive(hidden)


@pytest.mark.filterwarnings("ignore:Duplicate name:UserWarning")  # what the test is about
def test_a_second_list_of_weights_is_refused(program: Path, tmp_path: Path) -> None:
    double = tmp_path / "double.pt2"
    double.write_bytes(program.read_bytes())
    with zipfile.ZipFile(double, "a") as archive:
        (weights,) = (name for name in archive.namelist() if name.endswith("weights_config.json"))
        archive.writestr(weights, archive.read(weights))
    with pytest.raises(InvalidModel, match="same name"):
        check_archive(double)


def test_a_damaged_list_of_weights_is_refused(program: Path, tmp_path: Path) -> None:
    damaged = _changed(program, tmp_path / "damaged.pt2", b'{"config"', b'{"comfit"')
    with pytest.raises(InvalidModel, match="cannot be read"):
        check_archive(damaged)


def test_other_archives_are_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "some.pt2", "w") as archive:
        archive.writestr("some/notes.txt", "nothing")
    with pytest.raises(UnsupportedModel, match=r"holds no torch\.export program"):
        check_archive(tmp_path / "some.pt2")
    with zipfile.ZipFile(tmp_path / "old.pt2", "w") as archive:
        archive.writestr("serialized_exported_program.json", "{}")
    with pytest.raises(UnsupportedModel, match=r"before 2\.8"):
        check_archive(tmp_path / "old.pt2")


def test_half_a_file_is_refused(program: Path, tmp_path: Path) -> None:
    (tmp_path / "half.pt2").write_bytes(program.read_bytes()[:5000])
    with pytest.raises(UnsupportedModel, match=r"not a torch\.export archive"):
        check_archive(tmp_path / "half.pt2")


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidModel, match="No such file"):
        check_archive(tmp_path / "none.pt2")


def test_a_program_from_a_gpu_is_read_without_one(program: Path, tmp_path: Path) -> None:
    cpu, cuda = b'"type": "cpu", "index": null', b'"type": "cuda", "index": 0'
    foreign = _changed(program, tmp_path / "cuda.pt2", cpu, cuda)
    write_portable(foreign, tmp_path / "portable.pt2")
    original, portable = torch.export.load(program), torch.export.load(tmp_path / "portable.pt2")
    x = torch.randn(2, 1, 5, 5)
    assert torch.equal(portable.module()(x), original.module()(x))


def test_no_pickle_is_left_in_the_portable_copy(program: Path, tmp_path: Path) -> None:
    write_portable(program, tmp_path / "portable.pt2")
    with zipfile.ZipFile(program) as before, zipfile.ZipFile(tmp_path / "portable.pt2") as after:
        pickles = [name for name in before.namelist() if name.endswith(".pt")]
        assert pickles
        assert all(before.read(name) and not after.read(name) for name in pickles)
        assert before.namelist() == after.namelist()
