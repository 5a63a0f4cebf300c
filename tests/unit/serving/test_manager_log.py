"""What the log says of a model: whoever reads it must not think that one is gone which serves."""

import json
from typing import Any

import pytest
from foldserve.errors import ConfigurationError, LoadFailed
from foldserve.observability.logging import configure_logging
from foldserve.settings import LogFormat, LogLevel
from small_models import plus, put
from unit.serving.managed import Managed, drained


@pytest.fixture(autouse=True)
def _as_json() -> None:
    configure_logging(LogFormat.JSON, LogLevel.INFO)


def _logged(capfd: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    drained()
    return [json.loads(line) for line in capfd.readouterr().err.splitlines()]


def test_a_reload_and_an_unload_are_told_apart(managed: Managed, capfd: pytest.CaptureFixture[str]) -> None:
    put(managed.repository, 1, plus(1))
    managed.update()
    capfd.readouterr()
    managed.update(reload=True)
    events = [line["event"] for line in _logged(capfd)]
    assert events == ["loading model", "model ready", "replaced model drained"]
    managed.manager.unload("plus")
    assert [(line["event"], line["serving"]) for line in _logged(capfd)] == [("model unloaded", [])]


def test_a_version_that_others_replace_is_not_the_model(
    managed: Managed, capfd: pytest.CaptureFixture[str]
) -> None:
    put(managed.repository, 1, plus(1))
    managed.update()
    put(managed.repository, 2, plus(2))
    capfd.readouterr()
    managed.update()
    last = _logged(capfd)[-1]
    assert (last["event"], last["version"], last["serving"]) == ("version unloaded: others serve", 1, [2])


def test_what_fails_says_what_serves_on(managed: Managed, capfd: pytest.CaptureFixture[str]) -> None:
    file = put(managed.repository, 1, plus(1))
    managed.update()
    file.write_bytes(b"garbage")
    capfd.readouterr()
    with pytest.raises(LoadFailed):
        managed.update()
    last = _logged(capfd)[-1]
    assert (last["event"], last["serving"]) == ("loading again failed: the old one serves on", [1])
    (managed.repository / "plus" / "foldserve.yaml").write_text("max_batch_size: many")
    with pytest.raises(ConfigurationError):
        managed.update()
    last = _logged(capfd)[-1]
    assert (last["event"], last["serving"]) == (
        "model is not brought up to date: the old one serves on",
        [1],
    )


def test_a_model_of_which_no_version_is_tried_shows_in_the_metrics(managed: Managed) -> None:
    put(managed.repository, 1, plus(1))
    configuration = managed.repository / "plus" / "foldserve.yaml"
    configuration.write_text("max_batch_size: many")
    with pytest.raises(ConfigurationError):
        managed.update()
    sample = managed.metrics.registry.get_sample_value
    nothing_tried = {"model": "plus", "version": ""}
    assert sample("foldserve_model_ready", nothing_tried) == 0
    assert sample("foldserve_model_load_failures_total", nothing_tried) == 1
    configuration.unlink()
    managed.update()
    assert sample("foldserve_model_ready", nothing_tried) is None
    assert sample("foldserve_model_ready", {"model": "plus", "version": "1"}) == 1
