"""The choice of provider: a GPU is not at hand everywhere, so what it would take is given."""

import pytest
from foldserve.parity.probes import ProbeSet
from foldserve.parity.report import ProbeSource
from foldserve.runtime.session import Provider
from foldserve.serving import preparation
from foldserve.serving.opening import Opening
from foldserve.settings import ModelSettings, ProviderChoice


def _opening(provider: ProviderChoice) -> Opening:
    return Opening("m", ModelSettings(provider=provider))


def _probes() -> ProbeSet:
    return ProbeSet(ProbeSource.SYNTHETIC, ())


@pytest.mark.parametrize(
    ("seconds", "chosen"),
    [
        ([0.010, 0.020], ProviderChoice.CUDA),
        ([0.010, 0.0099], ProviderChoice.CUDA),  # no more than noise
        ([0.010, 0.005], ProviderChoice.CPU),
        ([], ProviderChoice.CUDA),  # no probe can be run
    ],
)
def test_a_model_runs_where_it_is_faster(
    seconds: list[float], chosen: ProviderChoice, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(preparation, "resolve_provider", lambda _: Provider.CUDA)
    monkeypatch.setattr(preparation, "_seconds", lambda *_: seconds)
    choice, measured = preparation._fastest_provider(None, _probes, _opening(ProviderChoice.AUTO))  # type: ignore[arg-type]  # what is measured is given
    assert choice is chosen
    assert list(measured.values()) == seconds


@pytest.mark.parametrize("requested", [ProviderChoice.CPU, ProviderChoice.CUDA])
def test_a_demand_is_not_measured(requested: ProviderChoice, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preparation, "_seconds", None)
    assert preparation._fastest_provider(None, _probes, _opening(requested)) == (requested, {})  # type: ignore[arg-type]  # not looked at
