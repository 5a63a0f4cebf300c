import json
from pathlib import Path

import pytest
from foldserve.errors import ConfigurationError, FoldserveError, InvalidRequest, UnsupportedModel
from foldserve.observability.logging import configure_logging
from foldserve.runtime.cpus import available_cpus
from foldserve.serving.model_configuration import read_configuration
from foldserve.serving.repository import look_at
from foldserve.settings import LatestVersions, LogFormat, LogLevel, ModelSettings, ServerSettings


@pytest.fixture
def model(tmp_path: Path) -> Path:
    folder = tmp_path / "digits"
    (folder / "1").mkdir(parents=True)
    return folder


def _read(model: Path, override: str | None = None) -> ModelSettings:
    server = ServerSettings(repository=(model.parent,), max_queue_size=9, max_batch_size=5)
    return read_configuration(look_at(model, model.parent), server, override).settings


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


def test_more_threads_than_processors_are_logged_with_both_numbers(
    model: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    configure_logging(LogFormat.JSON, LogLevel.INFO)
    for threads in (available_cpus(), available_cpus() + 1):
        (model / "foldserve.yaml").write_text(f"intra_op_threads: {threads}")
        _read(model)
    (line,) = [json.loads(line) for line in capfd.readouterr().err.splitlines()]
    assert (line["level"], line["model"]) == ("warning", "digits")
    assert (line["intra_op_threads"], line["processors"]) == (available_cpus() + 1, available_cpus())


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
        ("instances: 0", r"foldserve\.yaml: 'instances' must be greater than or equal to 1; got 0"),
        ("versions: newest", r"'versions' must be \{latest: 2\}, all, or a list .*; got 'newest'$"),
        ("versions: {latest: 0}", r"^[^ ]*foldserve\.yaml: 'versions' must be [^']*; got \{'latest': 0\}$"),
        ("labels: names.txt", "'labels' must hold settings as 'name: value'; got 'names.txt'"),
        ("inputs: [{datatype: FP32}]", r"'inputs\.0\.name' is required"),
        ("batching: {priority_levels: 2}", "'batching': default_priority_level is 0; with"),
        ("batching: {preferred_batch_sizes: [9]}", r"foldserve\.yaml: preferred_batch_sizes has 9, but"),
        ("instances: 1\nparity: {}\ninstances: 2", r"'instances' is given twice in line 3, column 1$"),
        ("batching: {queue_policy: {}, queue_policy: {}}", r"'queue_policy' is given twice"),
        ("- a list", "must hold settings as 'name: value', not a list"),
        ("a: [", r"foldserve\.yaml is not readable YAML: [^\n]* in line 1, column 5$"),
        ("!!python/object/apply:os.getcwd []", "not readable YAML"),
        ("file: 2024-13-45", "not readable YAML: month must be"),
        ("max_queue_size: " + "9" * 5000, "not readable YAML: .*4300 digits"),
        ("[" * 20_000, "not readable YAML: maximum recursion depth"),
        ("file: '\xff'", "not readable YAML: .*utf-8"),
        ("file: ../../secret.onnx", r"file is '\.\./\.\./secret\.onnx'; it must name a file in"),
        ("labels: {logits: /etc/passwd}", r"labels\.logits is '/etc/passwd'"),
    ],
)
def test_what_is_wrong_in_foldserve_yaml_is_named(model: Path, text: str, says: str) -> None:
    (model / "foldserve.yaml").write_text(text, encoding="latin-1")
    with pytest.raises(ConfigurationError, match=says):
        _read(model)


def test_an_empty_file_says_nothing(model: Path) -> None:
    (model / "foldserve.yaml").write_text("# later\n")
    assert _read(model).max_batch_size == 5


@pytest.mark.parametrize(
    ("text", "override", "error", "says"),
    [
        ("max_batch_size: -1", None, ConfigurationError, r"config\.pbtxt: 'max_batch_size' must be greater"),
        (
            "version_policy { specific { versions: [ -1 ] } }",
            None,
            ConfigurationError,
            r"config\.pbtxt: 'version_policy' must be .*; got \[-1\]",
        ),
        (
            "instance_group { count: -1 }",
            None,
            ConfigurationError,
            r"config\.pbtxt: 'instance_group\.count' must be greater",
        ),
        (
            "dynamic_batching { preferred_batch_size: [ 0 ] }",
            None,
            ConfigurationError,
            r"config\.pbtxt: 'dynamic_batching\.preferred_batch_size\.0' must be greater than 0; got 0",
        ),
        ('backend: "python"', None, UnsupportedModel, r"config\.pbtxt: backend is 'python'"),
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


def test_what_two_files_contradict_each_other_in_is_told_with_both(model: Path) -> None:
    (model / "config.pbtxt").write_text("max_batch_size: 4")
    (model / "foldserve.yaml").write_text("batching: {preferred_batch_sizes: [8]}")
    with pytest.raises(
        ConfigurationError, match=r"config\.pbtxt and .*foldserve\.yaml: preferred_batch_sizes"
    ):
        _read(model)


def test_one_file_may_complete_what_would_be_wrong_by_itself(model: Path) -> None:
    (model / "config.pbtxt").write_text("max_batch_size: 64")
    (model / "foldserve.yaml").write_text("batching: {preferred_batch_sizes: [64]}")
    assert _read(model).batching.preferred_batch_sizes == (64,)


def test_a_wrong_value_is_looked_for_in_the_file_that_gave_it(model: Path) -> None:
    (model / "config.pbtxt").write_text("max_batch_size: 4 instance_group { count: -1 }")
    (model / "foldserve.yaml").write_text("max_batch_size: -1")
    with pytest.raises(ConfigurationError) as failure:
        _read(model)
    assert {text.rpartition(" must be ")[0] for text in str(failure.value).split("; ") if "'" in text} == {
        f"{model / 'foldserve.yaml'}: 'max_batch_size'",
        f"{model / 'config.pbtxt'}: 'instance_group.count'",
    }


def test_each_setting_of_the_models_own_is_known_with_its_file(model: Path) -> None:
    (model / "config.pbtxt").write_text('max_batch_size: 4 output { name: "y" }')
    (model / "foldserve.yaml").write_text("max_batch_size: 8")
    server = ServerSettings(repository=(model.parent,), instances=3)
    assert read_configuration(look_at(model, model.parent), server).origins == {
        "max_batch_size": str(model / "foldserve.yaml"),
        "outputs": str(model / "config.pbtxt"),
    }


def test_what_somebody_may_take_to_be_in_use_is_logged(
    model: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    configure_logging(LogFormat.JSON, LogLevel.INFO)
    for version in ("01", "v2", "3", "data"):
        (model / version).mkdir()
    for file in ("foldserve.yml", "config.pbtx", "labels.txt", "3/model.onnx", "3/model.pt2", "1/model.pt2"):
        (model / file).write_text("")
    _read(model)
    lines = [json.loads(line) for line in capfd.readouterr().err.splitlines()]
    assert {Path(line["file"]).relative_to(model).as_posix(): line["reason"] for line in lines} == {
        "01": "a version is a positive integer without leading zeros",
        "v2": "a version is a positive integer without leading zeros",
        "foldserve.yml": "only foldserve.yaml is read",
        "config.pbtx": "only config.pbtxt is read",
        "3/model.pt2": "model.onnx is taken; choose with 'file'",
    }
    (model / "foldserve.yaml").write_text("file: model.pt2")
    _read(model)
    assert "3/model.pt2" not in capfd.readouterr().err


def test_a_file_that_cannot_be_read_is_told_as_that(model: Path) -> None:
    (model / "foldserve.yaml").mkdir()
    with pytest.raises(ConfigurationError, match=r"foldserve\.yaml cannot be read: Is a directory$"):
        _read(model)
