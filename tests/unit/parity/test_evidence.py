"""Evidence of a proof: kept in a file, repeated by the same model, not by another."""

from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from foldserve.errors import ExecutionFailed
from foldserve.parity.evidence import Evidence
from foldserve.parity.remembered import RememberingSession
from foldserve.runtime.onnxruntime_session import OnnxRuntimeSession
from foldserve.settings import ParityBudget, ProviderChoice
from running import EXAMPLE_MODELS


def _session() -> OnnxRuntimeSession:
    return OnnxRuntimeSession(EXAMPLE_MODELS / "digits" / "1" / "model.onnx", provider=ProviderChoice.CPU)


def _evidence(session: OnnxRuntimeSession) -> Evidence:
    probe = {"images": np.random.default_rng(1).random((2, 1, 8, 8), np.float32)}
    return Evidence(probe, tuple(session.run(probe)))


def test_a_session_with_the_same_model_repeats_it(tmp_path: Path) -> None:
    session = _session()
    _evidence(session).save(tmp_path / "evidence.npz")
    kept = Evidence.load(tmp_path / "evidence.npz")
    assert kept is not None
    assert kept.holds(_session(), ParityBudget())


@pytest.mark.parametrize("factor", [1.001, 0.0, float("nan")])
def test_another_answer_does_not_hold(factor: float) -> None:
    evidence = _evidence(_session())
    wrong = Evidence(evidence.probe, (np.multiply(evidence.outputs[0], factor, dtype=np.float32),))
    assert not wrong.holds(_session(), ParityBudget())


def test_a_model_that_refuses_the_probe_does_not_hold() -> None:
    evidence = _evidence(_session())
    assert not Evidence({"other": evidence.probe["images"]}, evidence.outputs).holds(
        _session(), ParityBudget()
    )


def test_element_types_survive_the_file(tmp_path: Path) -> None:
    probe = {
        "a b": np.array([1.5, 2], ml_dtypes.bfloat16),
        "i": np.array([3], np.int64),
        "scalar": np.array(True),
    }
    Evidence(probe, (np.array([[0.5]], np.float16),)).save(tmp_path / "e.npz")
    kept = Evidence.load(tmp_path / "e.npz")
    assert kept is not None
    assert {name: array.dtype for name, array in kept.probe.items()} == {
        name: array.dtype for name, array in probe.items()
    }
    assert kept.probe["a b"].tolist() == [1.5, 2]
    assert kept.probe["scalar"].shape == ()
    assert kept.outputs[0].dtype == np.float16


def test_strings_cannot_be_kept() -> None:
    assert not Evidence({"text": np.array([b"x"], np.object_)}, ()).storable()
    assert _evidence(_session()).storable()


def test_no_file_no_evidence(tmp_path: Path) -> None:
    assert Evidence.load(tmp_path / "missing.npz") is None


def test_each_probe_is_computed_once() -> None:
    session = RememberingSession(_session())
    probe = {"images": np.zeros((1, 1, 8, 8), np.float32)}
    refused = {"images": np.zeros((1, 1, 9, 9), np.float32)}
    first = session.run(probe)
    assert session.run(probe) is first
    assert session.run(dict(probe)) is not first
    errors = []
    for _ in range(2):
        with pytest.raises(ExecutionFailed) as caught:
            session.run(refused)
        errors.append(caught.value)
    assert errors[0] is errors[1]
    assert len(session.seconds()) == 2
    session.close()
