"""Models whose weights stay in memory answer as the same models from files do."""

import gc
from pathlib import Path

import ml_dtypes
import numpy as np
import onnx_ir as ir
import pytest
from foldserve.runtime.in_memory import SMALLEST_WEIGHT_BYTES, InMemoryModel, in_memory
from foldserve.runtime.onnxruntime_session import OnnxRuntimeSession
from foldserve.settings import ProviderChoice
from running import EXAMPLE_MODELS

MODEL = EXAMPLE_MODELS / "digits" / "1" / "model.onnx"


def _answer(source: object) -> np.ndarray:
    session = OnnxRuntimeSession(source, provider=ProviderChoice.CPU)  # type: ignore[arg-type]
    gc.collect()
    images = np.random.default_rng(0).random((3, 1, 8, 8), np.float32)
    (logits,) = session.run({"images": images})
    session.close()
    return logits


def test_the_answer_is_that_of_the_file() -> None:
    np.testing.assert_array_equal(_answer(in_memory(ir.load(MODEL))), _answer(MODEL))


def test_large_weights_leave_the_graph_and_the_model_stays_as_it_was() -> None:
    model = ir.load(MODEL)
    before = ir.to_proto(model).SerializeToString()
    taken = in_memory(model)
    assert ir.to_proto(model).SerializeToString() == before
    assert all(array.nbytes >= SMALLEST_WEIGHT_BYTES for array in taken.weights.values())
    assert len(taken.graph) + sum(array.nbytes for array in taken.weights.values()) < len(before) * 1.1
    assert len(taken.graph) < len(before) / 4


def test_weights_are_not_copied() -> None:
    model = ir.load(MODEL)
    for value in model.graph.initializers.values():
        assert value.const_value is not None
        value.const_value = ir.Tensor(value.const_value.numpy(), name=value.name)
    taken = in_memory(model)
    for name, array in taken.weights.items():
        original = model.graph.initializers[name].const_value
        assert original is not None
        assert np.shares_memory(array, original.numpy())


def test_a_session_without_optimisation_reads_the_weights_where_they_lie() -> None:
    """It is how copies are told: what is changed there shows in the answer."""
    taken = in_memory(ir.load(MODEL))
    images = np.random.default_rng(0).random((3, 1, 8, 8), np.float32)
    writable = {name: array.copy() for name, array in taken.weights.items()}
    session = OnnxRuntimeSession(
        InMemoryModel(taken.graph, writable), provider=ProviderChoice.CPU, optimise=False
    )
    before = session.run({"images": images})[0]
    for array in writable.values():
        array[...] = 0
    assert not np.array_equal(session.run({"images": images})[0], before)
    session.close()


def test_weights_in_files_are_read_from_there(tmp_path: Path) -> None:
    file = tmp_path / "model.onnx"
    ir.save(ir.load(MODEL), file, external_data="weights", size_threshold_bytes=0)
    np.testing.assert_array_equal(_answer(in_memory(ir.load(file))), _answer(MODEL))


@pytest.mark.parametrize("dtype", [np.float16, np.float64, ml_dtypes.bfloat16])
def test_other_element_types_and_transposed_weights(dtype: type[np.generic]) -> None:
    rows = np.arange(32 * 64).reshape(32, 64).astype(dtype)
    weight = ir.Value(name="w", const_value=ir.Tensor(rows.T, name="w"))
    node = ir.Node("", "Identity", [weight])
    cast = ir.Node("", "Cast", [node.outputs[0]], attributes=[ir.AttrInt64("to", ir.DataType.DOUBLE)])
    y = cast.outputs[0]
    y.name, y.shape, y.type = "y", ir.Shape(rows.T.shape), ir.TensorType(ir.DataType.DOUBLE)
    graph = ir.Graph([], [y], nodes=[node, cast], initializers=[weight], opset_imports={"": 18}, name="g")
    taken = in_memory(ir.Model(graph, ir_version=8))
    assert list(taken.weights) == ["w"]
    session = OnnxRuntimeSession(taken, provider=ProviderChoice.CPU, optimise=False)
    np.testing.assert_array_equal(session.run({})[0], rows.T.astype(np.float64))
    session.close()
