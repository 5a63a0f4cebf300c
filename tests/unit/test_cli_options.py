from pathlib import Path

import pytest
import typer
from foldserve.cli_options import leaves, with_options_of
from foldserve.errors import ConfigurationError
from foldserve.settings import ParityBudget, ProviderChoice, ServerSettings
from typer.testing import CliRunner


def _invoke(*arguments: str, environment: dict[str, str] | None = None) -> ServerSettings:
    built: list[ServerSettings] = []
    app = typer.Typer()
    app.command()(with_options_of(ServerSettings, built.append))
    CliRunner().invoke(app, arguments, env=environment, catch_exceptions=False)
    (settings,) = built
    return settings


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
        ((), "--repository: Field required"),
        (
            ("--repository", "m", "--grpc-port", "70000"),
            "--grpc-port: Input should be less than or equal to 65535",
        ),
        (
            ("--repository", "m", "--parity-scaled-max", "0"),
            "--parity-scaled-max: Input should be greater than 0",
        ),
    ],
)
def test_what_cannot_be_is_named_by_its_flag(arguments: tuple[str, ...], text: str) -> None:
    with pytest.raises(ConfigurationError, match=text):
        _invoke(*arguments)


def test_every_setting_has_a_help_text() -> None:
    assert all(field.description for _, field in leaves(ServerSettings))
