import re
from pathlib import Path

import pytest
import typer
import yaml
from foldserve.cli_options import PANELS, with_options_of
from foldserve.configuration import Effective, Source, leaves
from foldserve.errors import ConfigurationError
from foldserve.settings import ParityBudget, Precision, ProviderChoice, ServerSettings
from typer.testing import CliRunner, Result


def _invoke(*arguments: str, environment: dict[str, str] | None = None) -> ServerSettings:
    return _chosen(*arguments, environment=environment).settings


def _chosen(*arguments: str, environment: dict[str, str] | None = None) -> Effective[ServerSettings]:
    (chosen,), _ = _run(*arguments, environment=environment)
    return chosen


def _run(
    *arguments: str, environment: dict[str, str] | None = None
) -> tuple[list[Effective[ServerSettings]], Result]:
    built: list[Effective[ServerSettings]] = []
    app = typer.Typer()
    app.command()(with_options_of(ServerSettings, built.append))
    return built, CliRunner().invoke(app, arguments, env=environment, catch_exceptions=False)


def test_what_is_not_given_has_its_default_and_is_known_as_not_given() -> None:
    settings = _invoke("--repository", "models")
    assert settings == ServerSettings(repository=(Path("models"),))
    assert settings.parity.model_fields_set == set()


def test_flags_set_fields_and_nested_fields() -> None:
    settings = _invoke(
        "--repository", "a", "--repository", "b", "--provider", "cpu", "--parity-relative-l2", "1e-4"
    )
    assert settings.repository == (Path("a"), Path("b"))
    assert settings.provider is ProviderChoice.CPU
    assert settings.parity == ParityBudget(relative_l2=1e-4)
    assert settings.parity.model_fields_set == {"relative_l2"}


def test_a_variable_sets_what_a_flag_does_not() -> None:
    environment = {
        "FOLDSERVE_REPOSITORY": "models",
        "FOLDSERVE_GRPC_PORT": "9001",
        "FOLDSERVE_HTTP_PORT": "9002",
    }
    settings = _invoke("--grpc-port", "7", environment=environment)
    assert (settings.repository, settings.grpc_port, settings.http_port) == ((Path("models"),), 7, 9002)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ((), "--repository is required"),
        (
            ("--repository", "m", "--grpc-port", "70000"),
            "--grpc-port must be less than or equal to 65535; got 70000",
        ),
        (
            ("--repository", "m", "--parity-scaled-max", "0"),
            "--parity-scaled-max must be greater than 0; got 0.0",
        ),
    ],
)
def test_what_cannot_be_is_named_by_its_flag(arguments: tuple[str, ...], text: str) -> None:
    with pytest.raises(ConfigurationError, match=text):
        _invoke(*arguments)


def test_every_setting_has_a_help_text() -> None:
    assert all(leaf.field.description for leaf in leaves(ServerSettings))


def test_help_texts_group_the_settings_and_can_be_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    shown = _run("--help")[1].stdout
    panels = re.findall(r"╭─ ([A-Z].*?) ─", shown)
    assert panels == ["Options", *PANELS]
    for leaf in leaves(ServerSettings):
        assert shown.count(f" {leaf.flag} ") == 1, leaf.flag
    for text in ("0…65535", "none|poll|explicit", "≥1", ">0", "PATH", "'auto' takes", "Default: 32."):
        assert text in shown
    for text in ("``", "list[", "(none)", "…  ", "FOLDSERVE_MAX"):
        assert text not in shown


def test_a_flag_wins_over_a_variable_over_the_file_over_the_default(tmp_path: Path) -> None:
    file = tmp_path / "settings.yaml"
    file.write_text(
        "repository: [models]\nparity: {relative_l2: 1.0e-3, scaled_max: 1.0e-2}\n"
        "grpc_port: 1\nhttp_port: 1\nshared_memory: true\n"
    )
    chosen = _chosen(
        *("--grpc-port", "3", "--no-shared-memory", "--settings", str(file)),
        environment={"FOLDSERVE_GRPC_PORT": "2", "FOLDSERVE_PARITY_SCALED_MAX": "0.5"},
    )
    settings, sources = chosen.settings, chosen.sources
    assert settings.repository == (Path("models"),)
    assert settings.parity == ParityBudget(relative_l2=1e-3, scaled_max=0.5)
    assert (settings.grpc_port, settings.http_port, settings.shared_memory) == (3, 1, False)
    assert settings.host == "0.0.0.0"
    assert {name: source for name, source in sources.items() if source is not Source.DEFAULT} == {
        "repository": Source.FILE,
        "parity_relative_l2": Source.FILE,
        "parity_scaled_max": Source.ENVIRONMENT,
        "grpc_port": Source.FLAG,
        "http_port": Source.FILE,
        "shared_memory": Source.FLAG,
    }


def test_flags_variables_and_file_agree(tmp_path: Path) -> None:
    """Every setting, given each way, comes out the same."""
    values: dict[str, object] = {
        "repository": ["a b", "c:d"],
        "model_control": "explicit",
        "load_models": ["two", "three words"],
        "max_batch_size": 7,
        "instances": 3,
        "objective": "latency",
        "drain_timeout_s": 1.5,
        "shared_memory": True,
        "cache_dir": "elsewhere",
        "log_level": "error",
    }
    file = tmp_path / "settings.yaml"
    file.write_text(yaml.safe_dump(values))
    from_file = _invoke("--settings", str(file))
    flags = [
        flag
        for name, value in values.items()
        for one in (value if isinstance(value, list) else [value])
        for flag in (f"--{name.replace('_', '-')}", *([] if one is True else [str(one)]))
    ]
    environment = {
        f"FOLDSERVE_{name.upper()}": ", ".join(value) if isinstance(value, list) else str(value)
        for name, value in values.items()
    }
    assert from_file == _invoke(*flags) == _invoke(environment=environment)
    assert from_file.model_dump(mode="json", include=set(values)) == values


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("grpc_prt: 1", "'grpc_prt' is not a setting; did you mean 'grpc_port'?"),
        ("parity: {relativ_l2: 1}", "'parity.relativ_l2' is not a setting; did you mean 'relative_l2'?"),
        ("grpc_port: 70000", "'grpc_port' must be less than or equal to 65535; got 70000"),
        ("parity: 3", "'parity' must hold settings as 'name: value'; got 3"),
        ("- a\n- b", "must hold settings as 'name: value', not a list"),
        ("a: [", "is not readable YAML"),
    ],
)
def test_what_is_wrong_in_the_file_is_told_with_its_name(tmp_path: Path, text: str, told: str) -> None:
    file = tmp_path / "settings.yaml"
    file.write_text(text)
    with pytest.raises(ConfigurationError) as failure:
        _invoke("--repository", "m", "--settings", str(file))
    assert told in str(failure.value)
    assert str(file) in str(failure.value)


def test_what_is_wrong_in_the_environment_is_named_by_its_variable() -> None:
    with pytest.raises(ConfigurationError, match="FOLDSERVE_GRPC_PORT must be less"):
        _invoke("--repository", "m", environment={"FOLDSERVE_GRPC_PORT": "70000"})


@pytest.mark.parametrize(
    ("arguments", "names"),
    [
        (("--grpc-port", "9000", "--http-port", "9000"), ("grpc_port", "http_port")),
        (("--instances", "5", "--grpc-workers", "4"), ("instances", "grpc_workers")),
        (("--load-models", "a"), ("load_models", "model_control")),
        (
            ("--max-queue-size", "9", "--grpc-workers", "8", "--max-streams", "0"),
            ("max_queue_size", "grpc_workers"),
        ),
        (("--provider", "cpu", "--cudnn-search", "exhaustive"), ("provider", "cudnn_search")),
        (("--poll-interval-s", "3"), ("poll_interval_s", "model_control")),
    ],
)
def test_contradictions_are_refused_naming_both(arguments: tuple[str, ...], names: tuple[str, str]) -> None:
    with pytest.raises(ConfigurationError) as failure:
        _invoke("--repository", "m", *arguments)
    assert all(name in str(failure.value) for name in names)


def test_what_is_measured_unless_set_is_shown_as_measured() -> None:
    shown = {leaf.name: leaf.default for leaf in leaves(ServerSettings)}
    assert (shown["instances"], shown["intra_op_threads"]) == ("measured", "measured")
    assert "None" not in shown.values()


def test_one_value_of_several_may_be_given_by_itself(tmp_path: Path) -> None:
    file = tmp_path / "settings.yaml"
    file.write_text("repository: models\nmodel_control: explicit\nload_models: two words\n")
    settings = _invoke("--settings", str(file))
    assert (settings.repository, settings.load_models) == ((Path("models"),), ("two words",))


def test_no_precision_at_all_may_be_given_everywhere(tmp_path: Path) -> None:
    file = tmp_path / "settings.yaml"
    for text in ("none", "[]", "[none]"):
        file.write_text(f"repository: models\nprecisions: {text}\n")
        assert _invoke("--settings", str(file)).precisions == ()
    assert _invoke("--repository", "m", "--precisions", "none").precisions == ()
    assert _invoke("--repository", "m", environment={"FOLDSERVE_PRECISIONS": "none"}).precisions == ()
    assert _invoke("--repository", "m", "--precisions", "int8").precisions == (Precision.INT8,)


@pytest.mark.parametrize("given", ["int9", "none,int8"])
def test_a_precision_that_there_is_not_is_refused_with_those_that_there_are(given: str) -> None:
    flags = [part for value in given.split(",") for part in ("--precisions", value)]
    wrong = "FOLDSERVE_PRECISIONS|--precisions"
    for arguments, environment in ((flags, {}), ([], {"FOLDSERVE_PRECISIONS": given})):
        with pytest.raises(ConfigurationError, match=f"({wrong}).* 'float32', 'bfloat16'"):
            _invoke("--repository", "m", *arguments, environment=environment)


def test_variables_that_are_no_settings_are_told_with_the_nearest() -> None:
    environment = {
        "FOLDSERVE_MAX_BATCHSIZE": "3",
        "FOLDSERVE_SERVICE_HOST": "10.0.0.1",
        "FOLDSERVE_MAX_BATCH_SIZE": "4",
        "FOLDSERVE": "",
    }
    _, ran = _run("--repository", "m", environment=environment)
    assert ran.stderr.splitlines() == [
        "foldserve: the variable FOLDSERVE_MAX_BATCHSIZE is not a setting and has no effect; "
        "did you mean FOLDSERVE_MAX_BATCH_SIZE?",
        "foldserve: the variable FOLDSERVE_SERVICE_HOST is not a setting and has no effect",
    ]


def test_the_file_itself_may_be_named_by_a_variable(tmp_path: Path) -> None:
    file = tmp_path / "settings.yaml"
    file.write_text("repository: models")
    (chosen,), ran = _run(environment={"FOLDSERVE_SETTINGS": str(file)})
    assert (chosen.settings.repository, ran.stderr) == ((Path("models"),), "")
