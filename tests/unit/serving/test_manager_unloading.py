"""Model versions go out of service, and leave nothing behind."""

import gc
import shutil
import time
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from foldserve.errors import ConfigurationError, LoadFailed, ModelNotReady
from foldserve.serving.lifecycle import State
from foldserve.serving.uploaded import written
from small_models import plus, put
from unit.serving.managed import LONG_S, Managed, drained


def test_a_version_drains_while_a_request_holds_it(managed: Managed) -> None:
    put(managed.repository, 1, plus(1))
    managed.update()
    held = managed.manager.acquire("plus")
    managed.manager.unload("plus")
    assert managed.states() == {("plus", 1): State.DRAINING}
    with pytest.raises(ModelNotReady, match="is not loaded any more"):
        managed.manager.acquire("plus")
    managed.update()  # meanwhile it may come back
    assert managed.states() == {("plus", 1): State.READY}
    assert managed.manager.servable("plus") is not held
    held.release()
    drained()
    assert managed.manager.is_ready("plus", "1")


@pytest.fixture
def without_collector(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Whatever goes away does so by itself: the collector may never look again at what it found in use."""
    gc.collect()
    gc.disable()
    monkeypatch.setattr(gc, "collect", lambda: 0)
    yield
    gc.enable()


def _unload(managed: Managed, _: Path) -> None:
    managed.manager.unload("plus")


def _reload(managed: Managed, _: Path) -> None:
    managed.update(reload=True)


def _replace(managed: Managed, file: Path) -> None:
    put(managed.repository, 2, plus(2))
    managed.update()


@pytest.mark.usefixtures("without_collector")
@pytest.mark.parametrize("take_away", [_unload, _reload, _replace])
def test_nothing_holds_a_servable_that_went_out_of_service(
    managed: Managed, take_away: Callable[[Managed, Path], None]
) -> None:
    file = put(managed.repository, 1, plus(1))
    managed.update()
    servable = weakref.ref(managed.manager.servable("plus"))
    session = weakref.ref(managed.manager.servable("plus")._session)
    take_away(managed, file)
    drained()
    assert servable() is None
    deadline = time.monotonic() + LONG_S
    while session() is not None:  # the engine's threads end by themselves
        assert time.monotonic() < deadline
        time.sleep(0.001)


def test_a_model_whose_versions_are_all_gone_serves_no_longer(managed: Managed) -> None:
    put(managed.repository, 1, plus(1))
    (managed.repository / "plus" / "foldserve.yaml").write_text("max_batch_size: 4")
    managed.update()
    shutil.rmtree(managed.repository / "plus" / "1")
    with pytest.raises(ConfigurationError, match="no version folder"):
        managed.update()
    drained()
    assert not managed.manager.is_ready("plus", "")
    with pytest.raises(LoadFailed, match="no version folder"):
        managed.manager.servable("plus")


def _ready_series(managed: Managed) -> set[str]:
    (metric,) = managed.metrics.ready.collect()
    return {sample.labels["version"] for sample in metric.samples}


def test_versions_that_are_gone_are_forgotten(managed: Managed) -> None:
    put(managed.repository, 1, plus(1))
    put(managed.repository, 2, plus(2)).write_bytes(b"garbage")
    with pytest.raises(LoadFailed):
        managed.update()
    shutil.rmtree(managed.repository / "plus" / "2")
    assert _ready_series(managed) == {"2"}
    managed.update()
    assert managed.states() == {("plus", 1): State.READY}
    assert _ready_series(managed) == {"1"}
    shutil.rmtree(managed.repository / "plus")
    managed.manager.unload("plus")
    drained()
    assert managed.states() == {}
    assert _ready_series(managed) == set()
    assert managed.manager.labels("plus", "1") == ("plus", "")


def test_a_version_that_is_gone_leaves_no_series(managed: Managed) -> None:
    for version in (1, 2):
        put(managed.repository, version, plus(version))
    managed.update()
    managed.metrics.requests.record_request("plus", "2", "ModelInfer", "OK", 0.1)
    managed.manager.unload("plus")
    drained()
    left = [sample for family in managed.metrics.registry.collect() for sample in family.samples]
    assert [sample for sample in left if sample.labels.get("model") == "plus"] == []


def test_the_files_of_an_upload_go_with_the_model(managed: Managed) -> None:
    content = put(managed.repository / "elsewhere", 1, plus(3)).read_bytes()
    upload = written("plus", {"1/model.onnx": content})
    folder = upload.folder
    managed.manager.update(upload, override="{}")
    del upload
    assert folder.is_dir()
    managed.manager.unload("plus")
    drained()
    assert not folder.exists()
    assert managed.states() == {}


def test_nothing_is_left_of_an_upload_that_fails_but_the_reason(managed: Managed) -> None:
    upload = written("plus", {"1/model.onnx": b"garbage"})
    folder = upload.folder
    with pytest.raises(LoadFailed, match="not a readable ONNX model"):
        managed.manager.update(upload, override="{}")
    del upload
    assert not folder.exists()
    assert managed.states() == {("plus", 1): State.FAILED}


def test_a_stopping_server_loads_nothing_and_drains_everything(managed: Managed) -> None:
    put(managed.repository, 1, plus(1))
    put(managed.repository, 1, plus(-1), "minus")
    managed.update()
    managed.manager.stop_accepting()
    assert managed.manager.not_ready() == "the server is stopping"
    assert not managed.manager.is_ready("plus", "")
    assert managed.manager.ready_models() == ["plus"]
    with pytest.raises(ModelNotReady, match="stopping"):
        managed.update("minus")
    managed.manager.close(deadline=time.monotonic() + LONG_S)
    assert managed.states() == {("plus", 1): State.UNLOADED}
