"""Arrays of every type on their way through ONNX Runtime."""

import ml_dtypes
import numpy as np
import pytest
from foldserve.errors import InvalidRequest
from foldserve.runtime.onnxruntime_session import DTYPES, OnnxRuntimeSession
from foldserve.runtime.onnxruntime_values import run_bound
from foldserve.runtime.session import Array
from foldserve.runtime.tensors import TensorSpec
from foldserve.settings import ProviderChoice
from running import EXAMPLE_MODELS
from unit.runtime.text_models import cpu, identity, model


def example(dtype: np.dtype[np.generic]) -> Array:
    if dtype == np.object_:
        return np.array([[b"cat", "Katze größer".encode()], [b"", b"\x00"]], np.object_)
    if dtype == np.bool_:
        return np.array([[True, False], [False, True]])
    return np.array([[0, 1], [2, 100]]).astype(dtype)


@pytest.mark.parametrize(("runtime_type", "dtype"), list(DTYPES.items()), ids=str)
def test_every_dtype_goes_in_and_out_unchanged(runtime_type: str, dtype: np.dtype[np.generic]) -> None:
    session = identity(runtime_type)
    assert session.inputs == (TensorSpec("x", dtype, ("n", 2)),)
    assert session.outputs == (TensorSpec("y", dtype, ("n", 2)),)
    array = example(dtype)
    (result,) = session.run({"x": array})
    assert result.dtype == dtype
    np.testing.assert_array_equal(result, array)


@pytest.mark.parametrize(("runtime_type", "dtype"), list(DTYPES.items()), ids=str)
def test_an_empty_batch_is_a_batch(runtime_type: str, dtype: np.dtype[np.generic]) -> None:
    (result,) = identity(runtime_type).run({"x": np.empty((0, 2), dtype)})
    assert result.shape == (0, 2)
    assert result.dtype == dtype


@pytest.mark.parametrize("dtype", [np.dtype(np.float32), np.dtype(ml_dtypes.bfloat16)], ids=str)
def test_views_transposed_unaligned_and_read_only_are_taken(dtype: np.dtype[np.generic]) -> None:
    session = identity("tensor(float)" if dtype == np.float32 else "tensor(bfloat16)")
    array = np.arange(8).reshape(4, 2).astype(dtype)
    shifted = np.frombuffer(b"\x00" + array.tobytes(), np.uint8)[1:].view(dtype).reshape(4, 2)
    assert not shifted.flags.aligned
    assert not shifted.flags.writeable
    for view in (array[::-1], np.asfortranarray(array), shifted):
        np.testing.assert_array_equal(session.run({"x": view})[0], view)


def test_bfloat16_is_computed_with_and_mixed_with_other_types() -> None:
    session = cpu(model("g (bfloat16[2] x, float[2] z) => (float[2] y) { c = Cast<to=1>(x) y = Add(c, z) }"))
    x, z = np.array([1.5, 2], ml_dtypes.bfloat16), np.array([0.25, 0.5], np.float32)
    np.testing.assert_array_equal(session.run({"x": x, "z": z})[0], np.array([1.75, 2.5], np.float32))


@pytest.mark.parametrize("element", ["float", "bfloat16"])
def test_a_scalar_stays_a_scalar(element: str) -> None:
    session = cpu(model(f"g ({element} x) => ({element} y) {{ y = Identity(x) }}"))
    dtype = session.inputs[0].dtype
    assert session.inputs[0].shape is None  # the runtime does not tell a scalar from an unknown rank
    (result,) = session.run({"x": np.array(3).astype(dtype)})
    assert (result.shape, float(result)) == ((), 3.0)


def test_strings_must_be_utf8() -> None:
    with pytest.raises(InvalidRequest, match="input 'x': strings must be UTF-8"):
        identity("tensor(string)").run({"x": np.array([[b"a", b"\xff"]], np.object_)})


def test_bound_runs_answer_as_others_do() -> None:
    """As on CUDA; the binding itself works everywhere."""
    session = OnnxRuntimeSession(EXAMPLE_MODELS / "digits" / "1" / "model.onnx", provider=ProviderChoice.CPU)
    images = np.random.default_rng(0).random((3, 1, 8, 8), np.float32)[:, :, ::-1]
    (bound,) = run_bound(session._session, ["logits"], {"images": images})
    np.testing.assert_array_equal(bound, session.run({"images": images})[0])
