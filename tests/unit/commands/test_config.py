"""``foldserve config``: effective values and where they came from."""

import json
from pathlib import Path

import pytest
from unit.commands.invoking import run


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A settings file, and one variable beside it."""
    file = tmp_path / "settings.yaml"
    file.write_text("repository: [models]\nmax_batch_size: 4\n")
    (tmp_path / "models" / "there").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FOLDSERVE_SETTINGS", str(file))
    monkeypatch.setenv("FOLDSERVE_MAX_QUEUE_SIZE", "9")
    return file


def test_json_has_every_value_and_source(file: Path) -> None:
    told = json.loads(run("config", "--grpc-port", "7", "--json").stdout)
    assert told["settings"]["repository"] == ["models"]
    assert told["settings"]["parity"]["relative_l2"] == 1e-5
    chosen = {name: source for name, source in told["sources"].items() if source != "default"}
    assert chosen == {
        "repository": "file",
        "max_batch_size": "file",
        "max_queue_size": "environment",
        "grpc_port": "flag",
    }
    assert told["sources"]["parity.relative_l2"] == "default"


def test_the_table_names_flag_variable_and_file(file: Path) -> None:
    rows = [line.split() for line in run("config", "--grpc-port", "7").stdout.splitlines()]
    assert ["grpc_port", "7", "--grpc-port"] in rows
    assert ["max_queue_size", "9", "FOLDSERVE_MAX_QUEUE_SIZE"] in rows
    assert ["instances", "measured", "default"] in rows
    (max_batch_size,) = (row for row in rows if row and row[0] == "max_batch_size")
    assert max_batch_size[1] == "4"
    assert "".join(max_batch_size[2:]).startswith("/")


def test_what_serve_would_refuse_is_refused() -> None:
    result = run("config", "--repository", "m", "--grpc-port", "5", "--http-port", "5")
    assert result.exit_code == 2
    assert "grpc_port and http_port are both 5" in result.stderr


def test_a_repository_or_a_model_that_is_not_there_is_refused_after_the_settings(file: Path) -> None:
    result = run("config", "--repository", "nowhere")
    assert (result.exit_code, "max_batch_size" in result.stdout) == (2, True)
    assert "model repository nowhere is not a folder; create it or mend --repository" in result.stderr
    explicit = ("--model-control", "explicit", "--load-models")
    result = run("config", *explicit, "nobody")
    assert result.exit_code == 2
    assert "load_models names 'nobody', but the repositories have there" in result.stderr
    assert run("config", *explicit, "there").exit_code == 0


def test_files_that_cannot_protect_a_server_are_refused(file: Path, tmp_path: Path) -> None:
    (tmp_path / "tokens").write_text("- token: planted-0123456789\n")
    result = run("config", "--token-file", str(tmp_path / "tokens"))
    assert result.exit_code == 2
    assert "token 1, name is missing" in result.stderr
    assert "planted" not in result.stdout + result.stderr
    (tmp_path / "c").touch()
    result = run("config", "--tls-cert-file", str(tmp_path / "c"), "--tls-key-file", str(tmp_path / "c"))
    assert result.exit_code == 2
    assert "c has no certificate in PEM form" in result.stderr
