"""Models whose weights stay in memory answer as the same models from files do."""

import gc
import resource
from pathlib import Path

import ml_dtypes
import numpy as np
import onnx_ir as ir
import pytest
from foldserve.errors import InvalidModel
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


def _branching(weight: ir.Value) -> ir.Model:
    """y: twice the weight if the input is true, else the weight."""

    def branch(node: ir.Node) -> ir.Graph:
        node.outputs[0].name = "chosen"
        return ir.Graph([], node.outputs, nodes=[node], name="branch")

    condition = ir.Value(name="c", shape=ir.Shape([]), type=ir.TensorType(ir.DataType.BOOL))
    choice = ir.Node(
        "",
        "If",
        [condition],
        attributes=[
            ir.AttrGraph("then_branch", branch(ir.Node("", "Add", [weight, weight]))),
            ir.AttrGraph("else_branch", branch(ir.Node("", "Identity", [weight]))),
        ],
    )
    y = choice.outputs[0]
    y.name, y.shape, y.type = "y", weight.shape, ir.TensorType(ir.DataType.FLOAT)
    graph = ir.Graph(
        [condition], [y], nodes=[choice], initializers=[weight], opset_imports={"": 18}, name="g"
    )
    return ir.Model(graph, ir_version=8)


def _weight(rows: int) -> ir.Value:
    numbers = np.arange(rows * 1024, dtype=np.float32).reshape(rows, 1024)
    return ir.Value(
        name="w",
        shape=ir.Shape(numbers.shape),
        type=ir.TensorType(ir.DataType.FLOAT),
        const_value=ir.Tensor(numbers, name="w"),
    )


@pytest.mark.parametrize("optimise", [True, False])
def test_weights_that_are_read_in_branches(optimise: bool) -> None:
    weight = _weight(4)
    taken = in_memory(_branching(weight))
    assert list(taken.weights) == ["w"]
    session = OnnxRuntimeSession(taken, provider=ProviderChoice.CPU, optimise=optimise)
    for doubled in (True, False):
        (answer,) = session.run({"c": np.array(doubled)})
        np.testing.assert_array_equal(answer, taken.weights["w"] * (1 + doubled))
    session.close()


def test_a_session_without_optimisation_copies_no_weights_on_its_way() -> None:
    """Pages that are touched for the first time tell: 64 MB of weights would touch 16,000."""
    taken = in_memory(_branching(_weight(16 * 1024)))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    session = OnnxRuntimeSession(taken, provider=ProviderChoice.CPU, optimise=False)
    touched = (resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before) * resource.getpagesize()
    session.close()
    assert touched < 16 * 2**20


@pytest.mark.parametrize("optimise", [True, False])
def test_a_weight_that_is_not_given_is_missed_and_not_misread(optimise: bool) -> None:
    taken = in_memory(ir.load(MODEL))
    _, *others = taken.weights
    lacking = InMemoryModel(taken.graph, {name: taken.weights[name] for name in others})
    with pytest.raises(InvalidModel):
        OnnxRuntimeSession(lacking, provider=ProviderChoice.CPU, optimise=optimise)


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
