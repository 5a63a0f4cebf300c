"""Loads side by side, and what answers meanwhile."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from foldserve.errors import ModelNotReady
from foldserve.serving.lifecycle import State
from small_models import plus, put
from unit.serving.managed import LONG_S, Blocked, Managed, drained, managing


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
            drained()
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
    drained()
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
