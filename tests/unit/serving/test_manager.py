import gc
import shutil
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from foldserve.errors import ConfigurationError, LoadFailed, ModelNotFound, ModelNotReady
from foldserve.observability.metrics import Metrics
from foldserve.serving import manager
from foldserve.serving.lifecycle import State
from foldserve.serving.loader import load
from foldserve.serving.manager import ModelManager
from foldserve.serving.repository import ModelFolder, ModelVersion, look_at
from foldserve.serving.servable import Servable
from foldserve.serving.uploaded import written
from foldserve.settings import ServerSettings
from running import CACHE
from small_models import plus, put

LONG_S = 30.0


class Managed:
    """A manager over a repository, and what it told about readiness."""

    def __init__(self, repository: Path, **settings: object) -> None:
        self.repository = repository
        self.told: list[tuple[str, bool]] = []
        self.metrics = Metrics()
        values = {
            "provider": "cpu",
            "instances": 1,
            "intra_op_threads": 1,
            "cache_dir": CACHE.name,
            **settings,
        }
        self.manager = ModelManager(
            ServerSettings.model_validate({"repository": [repository], **values}),
            self.metrics,
            lambda name, ready: self.told.append((name, ready)),
        )

    def folder(self, name: str = "plus") -> ModelFolder:
        return look_at(self.repository / name, self.repository)

    def update(self, name: str = "plus", *, reload: bool = False) -> None:
        self.manager.update(self.folder(name), reload=reload)

    def states(self) -> dict[tuple[str, int | None], State]:
        return {(one.name, one.version): one.state for one in self.manager.statuses()}

    def gauge(self, name: str) -> list[dict[str, str]]:
        """The labels of the series of a gauge that are 1."""
        return [
            sample.labels
            for metric in self.metrics.registry.collect()
            for sample in metric.samples
            if sample.name == name and sample.value == 1
        ]


@contextmanager
def managing(repository: Path, **settings: object) -> Iterator[Managed]:
    managed = Managed(repository, **settings)
    try:
        yield managed
    finally:
        managed.manager.stop_accepting()
        managed.manager.close(deadline=time.monotonic() + LONG_S)


@pytest.fixture
def managed(tmp_path: Path) -> Iterator[Managed]:
    with managing(tmp_path) as managed:
        yield managed


def _drained() -> None:
    """Wait for the threads that drain."""
    for thread in threading.enumerate():
        if thread.name in ("plus", "minus"):
            thread.join(LONG_S)


class Blocked:
    """Loads of some versions, which begin, and go on when they may."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *versions: int) -> None:
        self.begun = {version: threading.Event() for version in versions}
        self.may_go_on = threading.Event()

        def slow_load(source: ModelVersion, *rest: Any) -> Servable:
            if source.version in self.begun:
                self.begun[source.version].set()
                assert self.may_go_on.wait(LONG_S)
            return load(source, *rest)

        monkeypatch.setattr(manager, "load", slow_load)


def test_a_version_comes_into_service_and_is_told_everywhere(managed: Managed) -> None:
    put(managed.repository, 1, plus(1))
    managed.update()
    assert managed.states() == {("plus", 1): State.READY}
    assert managed.manager.servable("plus") is managed.manager.servable("plus", "1")
    assert managed.told == [("plus", False), ("plus", True)]
    assert managed.gauge("foldserve_model_ready") == [{"model": "plus", "version": "1"}]
    assert len(managed.gauge("foldserve_variant_info")) == 1
    managed.manager.unload("plus")
    _drained()
    assert managed.states() == {("plus", 1): State.UNLOADED}
    assert managed.told[-1] == ("plus", False)
    assert managed.gauge("foldserve_model_ready") == managed.gauge("foldserve_variant_info") == []
    with pytest.raises(ModelNotReady, match="is not loaded any more; load it"):
        managed.manager.servable("plus")


def test_what_did_not_change_is_not_loaded_again(managed: Managed) -> None:
    put(managed.repository, 1, plus(1))
    managed.update()
    first = managed.manager.servable("plus")
    managed.update()
    assert managed.manager.servable("plus") is first
    managed.update(reload=True)
    assert managed.manager.servable("plus") is not first


def test_the_old_version_answers_until_the_new_one_is_ready(
    managed: Managed, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(managed.repository, 1, plus(1))
    managed.update()
    blocked = Blocked(monkeypatch, 2)
    put(managed.repository, 2, plus(2))
    with ThreadPoolExecutor(1) as pool:
        loading = pool.submit(managed.update)
        assert blocked.begun[2].wait(LONG_S)
        assert managed.manager.servable("plus").version == 1
        assert managed.manager.loading
        blocked.may_go_on.set()
        loading.result()
    assert managed.manager.servable("plus").version == 2
    assert managed.manager.versions("plus") == [2]
    with pytest.raises(ModelNotReady, match="'plus' version 1 is out of service; version 2 serves"):
        managed.manager.servable("plus", "1")
    assert managed.told.count(("plus", False)) == 1  # before the first one was ready


def test_a_reload_that_fails_changes_nothing_but_the_reason(managed: Managed) -> None:
    file = put(managed.repository, 1, plus(1))
    managed.update()
    serving = managed.manager.servable("plus")
    file.write_bytes(b"garbage")
    with pytest.raises(LoadFailed, match=r"version 1: .*not a readable ONNX model"):
        managed.update()
    managed.update()  # not tried again as long as nothing changes
    assert managed.manager.servable("plus") is serving
    (status,) = managed.manager.statuses()
    assert status.state is State.READY
    assert "loading it again failed: " in status.reason
    put(managed.repository, 1, plus(2))
    managed.update()
    (status,) = managed.manager.statuses()
    assert (status.state, status.reason) == (State.READY, "")
    assert managed.manager.servable("plus") is not serving


def test_a_configuration_that_fails_changes_nothing_but_the_reason(managed: Managed) -> None:
    put(managed.repository, 1, plus(1))
    managed.update()
    (managed.repository / "plus" / "foldserve.yaml").write_text("max_batch_size: many")
    with pytest.raises(ConfigurationError, match="max_batch_size"):
        managed.update()
    (status,) = managed.manager.statuses()
    assert (status.state, "max_batch_size" in status.reason) == (State.READY, True)
    assert managed.manager.is_ready("plus", "")


def test_a_configuration_that_fails_in_no_foreseen_way_leaves_its_reason_too(
    managed: Managed, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise ZeroDivisionError("by surprise")

    put(managed.repository, 1, plus(1))
    managed.manager.expect(["plus"])
    monkeypatch.setattr(manager, "aspired_versions", fail)
    with pytest.raises(ZeroDivisionError):
        managed.update()
    with pytest.raises(LoadFailed, match="'plus' failed to load: ZeroDivisionError: by surprise"):
        managed.manager.servable("plus")
    managed.manager.started()
    assert managed.manager.not_ready() == ""


def test_a_model_that_never_loaded_tells_why(managed: Managed) -> None:
    put(managed.repository, 1, plus(1)).write_bytes(b"garbage")
    with pytest.raises(LoadFailed, match="not a readable ONNX model"):
        managed.update()
    for version in ("", "1"):
        with pytest.raises(LoadFailed, match=r"'plus' version 1 failed to load: .*not a readable ONNX model"):
            managed.manager.servable("plus", version)
    managed.manager.refuse("twice", "it is in two repositories")
    with pytest.raises(LoadFailed, match="'twice' failed to load: it is in two repositories"):
        managed.manager.servable("twice")
    with pytest.raises(ModelNotFound, match="this server has 'plus', 'twice'"):
        managed.manager.servable("nobody")


def test_a_model_of_the_start_is_not_ready_until_it_was_tried(managed: Managed) -> None:
    put(managed.repository, 1, plus(1))
    managed.manager.expect(["plus"])
    assert managed.manager.not_ready() == "loading plus"
    with pytest.raises(ModelNotReady, match="its state is NEW"):
        managed.manager.servable("plus")
    managed.update()
    managed.manager.started()
    assert managed.manager.not_ready() == ""


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
    _drained()
    assert managed.manager.is_ready("plus", "1")


def test_a_servable_that_is_replaced_before_it_is_taken_does_not_count(
    managed: Managed, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(managed.repository, 1, plus(1))
    managed.update()
    find, found = managed.manager.servable, []

    def find_and_reload(name: str, version: str = "") -> object:
        found.append(find(name, version))
        if len(found) == 1:
            managed.update(reload=True)
            _drained()
        return found[-1]

    monkeypatch.setattr(managed.manager, "servable", find_and_reload)
    taken = managed.manager.acquire("plus")
    assert len(found) == 2
    assert taken is found[1]
    assert taken is not found[0]
    taken.release()


def test_one_model_does_not_wait_for_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(tmp_path, 1, plus(1))
    put(tmp_path, 2, plus(-1), "minus")
    blocked = Blocked(monkeypatch, 1)
    with managing(tmp_path, load_threads=2) as managed, ThreadPoolExecutor(1) as pool:
        loading = pool.submit(managed.update)
        assert blocked.begun[1].wait(LONG_S)
        managed.update("minus")
        assert managed.states() == {("minus", 2): State.READY, ("plus", 1): State.NEW}
        blocked.may_go_on.set()
        loading.result()
    assert ("plus", True) in managed.told


def test_loads_of_one_model_wait_for_each_other(managed: Managed, monkeypatch: pytest.MonkeyPatch) -> None:
    put(managed.repository, 1, plus(1))
    blocked = Blocked(monkeypatch, 1)
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(managed.update)
        assert blocked.begun[1].wait(LONG_S)
        second = pool.submit(managed.manager.unload, "plus")
        assert not second.done()
        blocked.may_go_on.set()
        first.result()
        second.result()
    _drained()
    assert managed.states() == {("plus", 1): State.UNLOADED}


@pytest.mark.parametrize("slots", [1, 2])
def test_as_many_models_load_at_once_as_may(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, slots: int
) -> None:
    put(tmp_path, 1, plus(1))
    put(tmp_path, 2, plus(-1), "minus")
    blocked = Blocked(monkeypatch, 1, 2)
    with managing(tmp_path, load_threads=slots) as managed, ThreadPoolExecutor(2) as pool:
        first = pool.submit(managed.update)
        assert blocked.begun[1].wait(LONG_S)
        second = pool.submit(managed.update, "minus")
        assert blocked.begun[2].wait(0.3 if slots == 1 else LONG_S) is (slots == 2)
        blocked.may_go_on.set()
        first.result()
        second.result()
        assert managed.states() == {("minus", 2): State.READY, ("plus", 1): State.READY}


@pytest.fixture
def without_collector() -> Iterator[None]:
    """Whatever goes away does so by itself."""
    gc.collect()
    gc.disable()
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
    _drained()
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
    _drained()
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
    _drained()
    assert managed.states() == {}
    assert _ready_series(managed) == set()
    assert managed.manager.labels("plus", "1") == ("plus", "")


def test_the_files_of_an_upload_go_with_the_model(managed: Managed) -> None:
    content = put(managed.repository / "elsewhere", 1, plus(3)).read_bytes()
    upload = written("plus", {"1/model.onnx": content})
    folder = upload.folder
    managed.manager.update(upload, override="{}")
    del upload
    assert folder.is_dir()
    managed.manager.unload("plus")
    _drained()
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
    assert managed.manager.is_ready("plus", "")
    with pytest.raises(ModelNotReady, match="stopping"):
        managed.update("minus")
    managed.manager.close(deadline=time.monotonic() + LONG_S)
    assert managed.states() == {("plus", 1): State.UNLOADED}


def test_a_load_that_ends_after_the_stop_is_thrown_away(
    managed: Managed, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(managed.repository, 1, plus(1))
    blocked = Blocked(monkeypatch, 1)
    with ThreadPoolExecutor(1) as pool:
        loading = pool.submit(managed.update)
        assert blocked.begun[1].wait(LONG_S)
        managed.manager.stop_accepting()
        managed.manager.close(deadline=0)
        blocked.may_go_on.set()
        assert "stopping" in str(loading.exception())
    assert managed.states() == {("plus", 1): State.FAILED}
    assert not managed.manager.is_ready("plus", "")


def test_a_version_that_is_gone_leaves_no_series(managed: Managed) -> None:
    for version in (1, 2):
        put(managed.repository, version, plus(version))
    managed.update()
    managed.metrics.requests.record_request("plus", "2", "ModelInfer", "OK", 0.1)
    managed.manager.unload("plus")
    _drained()
    left = [sample for family in managed.metrics.registry.collect() for sample in family.samples]
    assert [sample for sample in left if sample.labels.get("model") == "plus"] == []
