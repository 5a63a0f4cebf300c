"""How the settings of a server and of its models are laid over each other."""

from pathlib import Path

import pytest
from foldserve.settings import ParityBudget, ServerSettings, model_settings
from pydantic import ValidationError

MODELS = (Path("models"),)


def test_the_later_layer_wins_name_by_name() -> None:
    server = ServerSettings.model_validate(
        {"repository": MODELS, "parity": {"scaled_max": 0.5}, "instances": 3}
    )
    model = model_settings(server, {"parity": {"relative_l2": 0.1}, "instances": 4}, {"instances": 5})
    assert (model.parity.relative_l2, model.parity.scaled_max, model.instances) == (0.1, 0.5, 5)


def test_a_limit_that_nobody_set_stays_unset_for_the_model() -> None:
    """Its default depends on the precision that the model computes in."""
    server = ServerSettings(repository=MODELS)
    assert not model_settings(server).parity.model_fields_set
    assert model_settings(server, {"parity": {"relative_l2": 1.0}}).parity.model_fields_set == {"relative_l2"}


def test_a_single_element_may_be_off_by_ten_times_what_an_output_may_unless_somebody_says_how_far() -> None:
    assert ParityBudget().scaled_max == pytest.approx(1e-4)
    assert ParityBudget(relative_l2=0.05).scaled_max == pytest.approx(0.5)
    assert ParityBudget(relative_l2=0.05, scaled_max=0.1).scaled_max == 0.1
    with pytest.raises(ValidationError, match="relative_l2"):
        ParityBudget(relative_l2=0)


def test_a_tilde_is_the_home_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    server = ServerSettings(repository=(Path("~/models"), Path("/more")), trace_file=Path("~/traces"))
    assert server.repository == (tmp_path / "models", Path("/more"))
    assert server.cache_dir == tmp_path / ".cache" / "foldserve"
    assert server.trace_file == tmp_path / "traces"
    with pytest.raises(ValidationError, match="~nobody-here: there is no home folder"):
        ServerSettings(repository=(Path("~nobody-here"),))


def test_a_repository_is_given_once_however_it_is_spelt(tmp_path: Path) -> None:
    """Else each of its models would be in two repositories, and be refused."""
    (tmp_path / "link").symlink_to(tmp_path)
    for again in (tmp_path, tmp_path / "x" / "..", tmp_path / "link"):
        with pytest.raises(ValidationError, match="twice, in whatever spelling; leave one out"):
            ServerSettings(repository=(tmp_path, again))


@pytest.mark.parametrize(
    ("given", "names"),
    [
        (
            {"batching": {"preferred_batch_sizes": [4, 64]}, "max_batch_size": 32},
            ("preferred_batch_sizes", "max_batch_size"),
        ),
        (
            {"batching": {"priority_levels": 2, "default_priority_level": 3}},
            ("default_priority_level", "priority_levels"),
        ),
        (
            {"batching": {"priority_queue_policies": {"1": {}}}},
            ("priority_queue_policies", "priority_levels"),
        ),
    ],
)
def test_contradictions_are_refused_naming_both(given: dict[str, object], names: tuple[str, str]) -> None:
    with pytest.raises(ValidationError) as failure:
        model_settings(ServerSettings(repository=MODELS), given)
    assert all(name in str(failure.value) for name in names)
