"""Model versions come into service, or tell why not."""

import pytest
from foldserve.errors import ConfigurationError, LoadFailed, ModelNotFound, ModelNotReady
from foldserve.serving import manager
from foldserve.serving.lifecycle import State
from small_models import plus, put
from unit.serving.managed import Managed, drained


def test_a_version_comes_into_service_and_is_told_everywhere(managed: Managed) -> None:
    put(managed.repository, 1, plus(1))
    managed.update()
    assert managed.states() == {("plus", 1): State.READY}
    assert managed.manager.servable("plus") is managed.manager.servable("plus", "1")
    assert managed.told == [("plus", False), ("plus", True)]
    assert managed.gauge("foldserve_model_ready") == [{"model": "plus", "version": "1"}]
    assert len(managed.gauge("foldserve_variant_info")) == 1
    managed.manager.unload("plus")
    drained()
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
