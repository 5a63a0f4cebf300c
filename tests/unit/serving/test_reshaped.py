"""Declared shapes that differ from the model's own."""

import numpy as np
import pytest
from foldserve.runtime.onnxruntime_session import OnnxRuntimeSession
from foldserve.serving.reshaped import keeps_rows, reshaped
from foldserve.settings import ModelSettings, ProviderChoice
from pydantic import ValidationError
from running import EXAMPLE_MODELS


def _session() -> OnnxRuntimeSession:
    """Takes images [batch, 1, 8, 8], gives logits [batch, 10]."""
    return OnnxRuntimeSession(EXAMPLE_MODELS / "digits" / "1" / "model.onnx", provider=ProviderChoice.CPU)


def test_tensors_are_taken_and_given_as_declared() -> None:
    settings = ModelSettings.model_validate(
        {
            "inputs": [{"name": "images", "shape": [-1, 64], "reshape": [-1, 1, 8, 8]}],
            "outputs": [{"name": "logits", "shape": [2, 5, -1], "reshape": [-1, 10]}],
        }
    )
    (batch, *_) = _session().inputs[0].shape or ()
    assert isinstance(batch, str)
    session = reshaped(_session(), settings)
    assert [spec.shape for spec in session.inputs] == [(batch, 64)]
    assert [spec.shape for spec in session.outputs] == [(2, 5, batch)]  # the model's own names
    images = np.random.default_rng(0).random((3, 64), np.float32)
    (logits,) = session.run({"images": images})
    (expected,) = _session().run({"images": images.reshape(3, 1, 8, 8)})
    np.testing.assert_array_equal(logits, expected.reshape(2, 5, 3))
    assert session.run({"images": images}, ["logits"])[0].shape == (2, 5, 3)


@pytest.mark.parametrize(
    ("shape", "reshape", "keeps"),
    [
        ([-1, 64], [-1, 1, 8, 8], True),
        ([64, -1], [-1, 64], False),  # the first axis is not the model's
        ([1, -1], [-1], False),
        ([-1], [1, -1], False),  # the model's own first axis is fixed
    ],
)
def test_rows_are_kept_where_the_first_axis_is(shape: list[int], reshape: list[int], keeps: bool) -> None:
    tensor = {"name": "x", "shape": shape, "reshape": reshape}
    assert keeps_rows(ModelSettings.model_validate({"inputs": [tensor]})) is keeps
    assert keeps_rows(ModelSettings.model_validate({"outputs": [tensor]})) is keeps


def test_nothing_declared_nothing_in_between() -> None:
    session = _session()
    settings = ModelSettings.model_validate({"inputs": [{"name": "images", "shape": [-1, 1, 8, 8]}]})
    assert reshaped(session, settings) is session


@pytest.mark.parametrize(
    "tensor",
    [
        {"name": "x", "shape": [3, 4], "reshape": [11]},
        {"name": "x", "shape": [-1, 4], "reshape": [4]},
        {"name": "x", "reshape": [4]},
    ],
)
def test_a_reshape_to_other_elements_is_refused(tensor: dict[str, object]) -> None:
    with pytest.raises(ValidationError, match="'x'"):
        ModelSettings.model_validate({"inputs": [tensor]})
