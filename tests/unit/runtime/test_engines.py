"""The table of engines: what is in it is whole, and what may be tried follows from it."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from foldserve.parity.probes import ProbeSet
from foldserve.parity.report import ProbeSource
from foldserve.runtime import engines
from foldserve.runtime.engines import BY_NAME, ENGINES, Engine, Plan, baseline, is_baseline, rivals
from foldserve.runtime.session import Provider
from foldserve.runtime.tuning import Layout
from foldserve.serving.conversion import convert
from foldserve.settings import Precision, ProviderChoice
from running import EXAMPLE_MODELS
from unit.converting.conversions import folded_digits

DIGITS = EXAMPLE_MODELS / "digits" / "1" / "model.onnx"
PLAN = Plan(name="digits", layout=Layout(instances=1, threads=1), warm_rows=4)


def test_names_are_unique_and_say_device_and_precision() -> None:
    assert len(BY_NAME) == len(ENGINES)
    for engine in ENGINES:
        name = engine.name.removesuffix("-nhwc")
        assert name.endswith(f"-{engine.provider}-{engine.precision}")


@pytest.mark.parametrize(
    "engine", [one for one in ENGINES if one.provider is Provider.CUDA], ids=lambda engine: engine.name
)
def test_what_the_name_says_of_cuda_is_what_the_runtime_is_told(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where there is no GPU, this is as far as it goes."""
    told: dict[str, Any] = {}
    monkeypatch.setattr(engines, "OnnxRuntimeSession", lambda _, **options: told.update(options))
    engine.open(DIGITS, PLAN)
    assert told["provider"] is ProviderChoice.CUDA
    assert told["cuda"]["prefer_nhwc"] == ("1" if engine.name.endswith("-nhwc") else "0")
    assert told["cuda"]["use_tf32"] == ("1" if "-tf32" in engine.name else "0")
    assert (told["precision"] is Precision.FLOAT16) == ("-float16" in engine.name)


@pytest.mark.parametrize("provider", Provider)
def test_the_baseline_of_a_device_is_float32_and_always_there(provider: Provider) -> None:
    first = baseline(provider)
    assert first.precision is Precision.FLOAT32
    assert first.provider is provider
    assert not first.missing()
    assert [
        engine.name for engine in ENGINES if is_baseline(engine.name) and engine.provider is provider
    ] == [first.name]


@pytest.mark.parametrize("provider", Provider)
def test_rivals_are_of_the_device_and_the_precisions_that_may_be_tried(provider: Provider) -> None:
    everything = rivals(provider, Precision)
    assert [baseline(provider), *everything] == [one for one in ENGINES if one.provider is provider]
    for precision in Precision:
        assert all(engine.precision is precision for engine in rivals(provider, [precision]))
    assert rivals(provider, ()) == []


@pytest.mark.parametrize(
    "engine", [one for one in ENGINES if one.provider is Provider.CPU], ids=lambda engine: engine.name
)
def test_an_engine_of_this_machine_opens_and_says_what_it_runs(engine: Engine, tmp_path: Path) -> None:
    if reason := engine.missing():
        pytest.skip(reason)
    file = DIGITS
    if engine.runs_conversion:
        file = tmp_path / "converted.onnx"
        images = np.random.default_rng(0).random((8, 1, 8, 8), np.float32)
        samples = ProbeSet(ProbeSource.SAMPLES, ({"images": images},))
        convert(folded_digits(tmp_path), engine.precision, samples, file)
    session = engine.open(file, PLAN)
    assert session.execution.precision is engine.precision
    assert session.execution.threads == 1
    assert session.run({"images": np.zeros((3, 1, 8, 8), np.float32)})[0].shape == (3, 10)
    session.close()
