"""Exactly one distribution may provide ONNX Runtime."""

from pathlib import Path

import pytest
from foldserve.errors import ConfigurationError
from foldserve.runtime.distribution import require_single_onnxruntime, single_provider


def _install(folder: Path, name: str, module: str) -> None:
    """A distribution as importlib.metadata sees it: its name, and the module that it provides."""
    metadata = folder / f"{name.replace('-', '_')}-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    (metadata / "RECORD").write_text(f"{module}/__init__.py,,\n")


def test_the_real_environment_has_one() -> None:
    assert require_single_onnxruntime() in {"onnxruntime", "onnxruntime-gpu"}


def test_a_second_distribution_is_refused_and_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    installed = require_single_onnxruntime()
    _install(tmp_path, "onnxruntime-openvino", "onnxruntime")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ConfigurationError) as failure:
        require_single_onnxruntime()
    text = str(failure.value)
    assert installed in text
    assert f"pip uninstall --yes {installed} onnxruntime-openvino" in text


def test_a_distribution_with_a_module_of_its_own_is_no_second_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _install(tmp_path, "onnxruntime-extensions", "onnxruntime_extensions")
    monkeypatch.syspath_prepend(tmp_path)
    require_single_onnxruntime()


@pytest.mark.parametrize(
    ("names", "flavour"),
    [
        (["onnxruntime-gpu", "onnxruntime"], "gpu"),
        (["onnxruntime", "onnxruntime-openvino"], "cpu"),
    ],
)
def test_the_remedy_keeps_the_flavour(names: list[str], flavour: str) -> None:
    with pytest.raises(ConfigurationError, match=rf"pip install 'foldserve\[{flavour}\]'"):
        single_provider(names)


def test_the_same_distribution_seen_twice_is_one() -> None:
    assert single_provider(["onnxruntime", "onnxruntime"]) == "onnxruntime"


def test_none_says_what_to_install() -> None:
    with pytest.raises(ConfigurationError, match=r"pip install 'foldserve\[cpu\]'.*foldserve\[gpu\]"):
        single_provider([])
