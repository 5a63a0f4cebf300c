import numpy as np
import onnx_ir as ir
import pytest
from foldserve.parity.remembered import RememberingSession
from foldserve.runtime.onnxruntime_session import OnnxRuntimeSession
from foldserve.serving.batchability import rows_are_independent
from foldserve.settings import ParityBudget
from running import EXAMPLE_MODELS

BUDGET = ParityBudget()


def _session(
    operator: str, attributes: dict[str, int | list[int]], batch: str | int = "batch"
) -> OnnxRuntimeSession:
    """x [batch, 4] → one node → y."""
    x = ir.val("x", ir.DataType.FLOAT, [batch, 4])
    node = ir.node(operator, [x], attributes)
    y = node.outputs[0]
    y.name, y.dtype, y.shape = "y", ir.DataType.FLOAT, ir.Shape([batch, 4])
    graph = ir.Graph([x], [y], nodes=[node], opset_imports={"": 18}, name="g")
    return OnnxRuntimeSession(ir.to_proto(ir.Model(graph, ir_version=9)).SerializeToString())


def _rows(count: int) -> dict[str, np.ndarray]:
    return {"x": np.random.default_rng(1).normal(size=(count, 4)).astype(np.float32)}


def test_a_convolutional_network_takes_batches() -> None:
    session = OnnxRuntimeSession(EXAMPLE_MODELS / "digits" / "1" / "model.onnx")
    images = np.random.default_rng(1).random((5, 1, 8, 8), np.float32)
    assert rows_are_independent(session, {"images": images}, BUDGET)


def test_a_row_that_sees_the_others_is_found_out() -> None:
    """A softmax over the batch has all the right shapes."""
    assert rows_are_independent(_session("Softmax", {"axis": 1}), _rows(3), BUDGET)
    assert not rows_are_independent(_session("Softmax", {"axis": 0}), _rows(3), BUDGET)


@pytest.mark.parametrize("batch", [1, 3])
def test_a_fixed_first_dimension_takes_none(batch: int) -> None:
    assert not rows_are_independent(_session("Relu", {}, batch), _rows(batch), BUDGET)


def test_a_row_that_is_a_probe_itself_is_not_computed_again() -> None:
    rows = _rows(2)
    first = {"x": rows["x"][:1].copy()}
    session = RememberingSession(_session("Relu", {}))
    session.run(first)
    assert rows_are_independent(session, rows, BUDGET, [first, rows])
    assert len(session.seconds()) == 3  # the first row, both, the last one


def test_one_row_proves_nothing() -> None:
    assert not rows_are_independent(_session("Relu", {}), _rows(1), BUDGET)
