import json
from pathlib import Path

import pytest
from foldserve.errors import ConfigurationError, FoldserveError, InvalidRequest
from foldserve.observability.logging import configure_logging
from foldserve.serving.model_configuration import read_settings
from foldserve.serving.repository import look_at
from foldserve.settings import LatestVersions, LogFormat, LogLevel, ModelSettings, ServerSettings


@pytest.fixture
def model(tmp_path: Path) -> Path:
    folder = tmp_path / "digits"
    (folder / "1").mkdir(parents=True)
    return folder


def _read(model: Path, override: str | None = None) -> ModelSettings:
    server = ServerSettings(repository=(model.parent,), max_queue_size=9, max_batch_size=5)
    return read_settings(look_at(model, model.parent), server, override)


def test_a_model_without_files_has_the_servers_settings(model: Path) -> None:
    settings = _read(model)
    assert (settings.max_queue_size, settings.max_batch_size) == (9, 5)
    assert settings.versions == LatestVersions()


def test_config_pbtxt_wins_over_the_server_and_foldserve_yaml_over_both(model: Path) -> None:
    (model / "config.pbtxt").write_text("max_batch_size: 8 version_policy { latest { num_versions: 3 } }")
    assert _read(model).max_batch_size == 8
    (model / "foldserve.yaml").write_text("max_batch_size: 16\nparity: {relative_l2: 0.001}\n")
    settings = _read(model)
    assert (settings.max_batch_size, settings.versions) == (16, LatestVersions(latest=3))
    assert settings.parity.relative_l2 == 0.001
    (model / "foldserve.yaml").write_text("versions: all\nlabels: {logits: names.txt}\n")
    assert (_read(model).versions, _read(model).labels) == ("all", {"logits": "names.txt"})


def test_a_requests_configuration_stands_in_for_config_pbtxt_and_wins(model: Path) -> None:
    (model / "config.pbtxt").write_text("max_batch_size: 8 version_policy { all {} }")
    (model / "foldserve.yaml").write_text("max_batch_size: 16\nmax_queue_size: 3\n")
    settings = _read(model, '{"max_batch_size": 2}')
    assert (settings.max_batch_size, settings.max_queue_size) == (2, 3)
    assert settings.versions == LatestVersions()


def test_fields_without_effect_are_logged_once_each(model: Path, capfd: pytest.CaptureFixture[str]) -> None:
    configure_logging(LogFormat.JSON, LogLevel.INFO)
    (model / "config.pbtxt").write_text('runtime: "x" metric_tags { key: "a" value: "b" } max_batch_size: 2')
    _read(model)
    lines = [json.loads(line) for line in capfd.readouterr().err.splitlines()]
    assert [(line["level"], line["model"], line["field"]) for line in lines] == [
        ("warning", "digits", "metric_tags"),
        ("warning", "digits", "runtime"),
    ]
    assert all(line["reason"] and line["file"].endswith("config.pbtxt") for line in lines)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("max_bach_size: 3", r"foldserve\.yaml: 'max_bach_size' is not .* did you mean 'max_batch_size'\?"),
        (
            "batching: {queue_policy: {max_queue: 3}}",
            r"'batching\.queue_policy\.max_queue' .*'max_queue_size'",
        ),
        ("inputs: [{name: x, dtype: FP32}]", r"'inputs\.0\.dtype' .* 'datatype'"),
        ("instances: 0", r"foldserve\.yaml: 'instances': Input should be greater"),
        ("- a list", "must hold settings as 'name: value', not a list"),
        ("a: [", r"foldserve\.yaml is not readable YAML: (.|\n)*line 1"),
        ("!!python/object/apply:os.getcwd []", "not readable YAML"),
        ("file: ../../secret.onnx", r"file is '\.\./\.\./secret\.onnx'; it must name a file in"),
        ("labels: {logits: /etc/passwd}", r"labels\.logits is '/etc/passwd'"),
    ],
)
def test_what_is_wrong_in_foldserve_yaml_is_named(model: Path, text: str, says: str) -> None:
    (model / "foldserve.yaml").write_text(text)
    with pytest.raises(ConfigurationError, match=says):
        _read(model)


def test_an_empty_file_says_nothing(model: Path) -> None:
    (model / "foldserve.yaml").write_text("# later\n")
    assert _read(model).max_batch_size == 5


@pytest.mark.parametrize(
    ("text", "override", "error", "says"),
    [
        ("max_batch_size: -1", None, ConfigurationError, r"config\.pbtxt and .*'max_batch_size'"),
        ("sequence_batching {}", None, ConfigurationError, r"config\.pbtxt: sequence_batching is not"),
        ('name: "letters"', None, ConfigurationError, r"config\.pbtxt: name is 'letters'"),
        ("", '{"sequence_batching": {}}', ConfigurationError, "request's configuration: sequence_batching"),
        ("", "{", InvalidRequest, "in JSON"),
        ('default_model_filename: "/etc/model.onnx"', None, ConfigurationError, "in the model's own folder"),
    ],
)
def test_what_is_wrong_elsewhere_is_named(
    model: Path, text: str, override: str | None, error: type[FoldserveError], says: str
) -> None:
    (model / "config.pbtxt").write_text(text)
    with pytest.raises(error, match=says):
        _read(model, override)
