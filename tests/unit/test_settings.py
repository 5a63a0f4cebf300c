"""How the settings of a server and of its models are laid over each other."""

from pathlib import Path

from foldserve.settings import ServerSettings, model_settings

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
