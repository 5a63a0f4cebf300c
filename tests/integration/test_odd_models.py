"""Models that are right, but not of the common kind."""

from pathlib import Path

import grpc
import numpy as np
import onnx_ir as ir
import pytest
from foldserve_client import Client, FailedPrecondition, InvalidArgument
from foldserve_proto import grpc_service_pb2 as pb
from foldserve_proto.grpc_service_pb2_grpc import GRPCInferenceServiceStub
from running import serving
from small_models import add_model, batch_norm, chain, convolution, plus


def test_weights_in_a_file_beside_the_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second convolution is not touched by the fold, so its weight still lies in the file."""
    weight = np.random.default_rng(1).normal(size=(2, 4, 1, 1)).astype(np.float32)
    model = chain(["batch", 3, 8, 8], convolution(3), batch_norm(), ("Relu", [], {}), ("Conv", [weight], {}))
    add_model(tmp_path, "external", model, external_data="weights.bin")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    with serving(tmp_path) as server, Client(f"127.0.0.1:{server.grpc_port}") as client:
        assert client.model_metadata("external").properties["foldserve.variant"] == "folded"
        assert client.infer("external", np.ones((1, 3, 8, 8), np.float32)).output.shape == (1, 2, 6, 6)


def test_an_old_model_that_lists_its_weights_as_inputs_folds_all_the_same(tmp_path: Path) -> None:
    """A request cannot set them, so here they are constants."""
    model = chain(["batch", 3, 8, 8], convolution(3), batch_norm(), ("Relu", [], {}))
    model.graph.inputs.extend(model.graph.initializers.values())
    model.ir_version = 3
    add_model(tmp_path, "old", model)
    with serving(tmp_path) as server, Client(f"127.0.0.1:{server.grpc_port}") as client:
        metadata = client.model_metadata("old")
        assert [tensor.name for tensor in metadata.inputs] == ["x"]
        assert metadata.properties["foldserve.batchnorms_folded"] == "1"
        assert client.infer("old", np.ones((1, 3, 8, 8), np.float32)).output.shape == (1, 4, 6, 6)


def test_a_model_whose_sizes_cannot_be_guessed_serves_unproven_and_says_so(tmp_path: Path) -> None:
    """Flattened and multiplied: only 41 × 41 fits, which no synthetic probe has."""
    matrix = np.random.default_rng(1).normal(size=(4 * 39 * 39, 5)).astype(np.float32)
    model = chain(
        ["batch", 3, "height", "width"],
        convolution(3),
        batch_norm(),
        ("Flatten", [], {}),
        ("MatMul", [matrix], {}),
    )
    add_model(tmp_path, "sized", model)
    with serving(tmp_path) as server, Client(f"127.0.0.1:{server.grpc_port}") as client:
        assert client.infer("sized", np.ones((1, 3, 41, 41), np.float32)).output.shape == (1, 5)
        report = client.parity("sized").report
        assert report.verdict == "unproven"
        assert "samples" in report.explanation


def _sum_of(rows_of_a: str, rows_of_b: str) -> ir.Model:
    """y = a + b, float32 [rows, 2] each, of which one may have a single row for all of the other's."""
    a, b = (ir.val(name, ir.DataType.FLOAT, [rows, 2]) for name, rows in (("a", rows_of_a), ("b", rows_of_b)))
    node = ir.node("Add", [a, b], name="Add")
    (y,) = node.outputs
    y.name, y.dtype, y.shape = "y", ir.DataType.FLOAT, ir.Shape([None, 2])
    graph = ir.Graph([a, b], [y], nodes=[node], opset_imports={"": 18}, name="sum")
    return ir.Model(graph, ir_version=9)


@pytest.mark.parametrize(
    ("rows", "configuration", "text"),
    [
        (("n", "m"), "", "input 'b' has 2 rows, input 'a' has 1"),
        (
            ("n", "n"),
            "inputs: [{name: a, shape: [-1, 2, 1], reshape: [-1, 2]}, {name: b}]",
            "'n', is 1 in input 'a'",
        ),
    ],
)
def test_requests_that_may_share_a_run_have_as_many_rows_in_each_input(
    tmp_path: Path, rows: tuple[str, str], configuration: str, text: str
) -> None:
    """Else one caller's rows of ``a`` would meet another's of ``b``."""
    add_model(tmp_path, "sum", _sum_of(*rows))
    (tmp_path / "sum" / "foldserve.yaml").write_text(configuration or "{}")
    one_row = np.ones((1, 2, 1) if configuration else (1, 2), np.float32)
    with serving(tmp_path) as server, Client(f"127.0.0.1:{server.grpc_port}") as client:
        np.testing.assert_array_equal(
            client.infer("sum", {"a": one_row, "b": np.ones((1, 2), np.float32)}).output, [[2, 2]]
        )
        with pytest.raises(InvalidArgument, match=text):
            client.infer("sum", {"a": one_row, "b": np.ones((2, 2), np.float32)})


def test_requests_share_no_run_where_callers_see_other_rows_than_the_model(tmp_path: Path) -> None:
    add_model(tmp_path, "plus", plus(1))
    yaml = "inputs: [{name: x, shape: [2, -1], reshape: [-1, 2]}]"
    (tmp_path / "plus" / "foldserve.yaml").write_text(yaml)
    with serving(tmp_path) as server, Client(f"127.0.0.1:{server.grpc_port}") as client:
        assert client.model_metadata("plus").properties["foldserve.batches"] == "False"
        answer = client.infer("plus", np.arange(6, dtype=np.float32).reshape(2, 3)).output
        np.testing.assert_array_equal(answer, np.arange(1, 7).reshape(3, 2))


def _positive_rows() -> ir.Model:
    """y = the rows of x, float32 [rows, 2], whose sum is above -100: all of them, on any probe."""
    x = ir.val("x", ir.DataType.FLOAT, ["rows", 2])
    axis, least = (
        ir.val(name, const_value=ir.tensor(array, name=name))
        for name, array in (("axis", np.array([1])), ("least", np.float32(-100)))
    )
    total = ir.node("ReduceSum", [x, axis], {"keepdims": 0})
    kept = ir.node("Greater", [total.outputs[0], least])
    rows = ir.node("Compress", [x, kept.outputs[0]], {"axis": 0})
    (y,) = rows.outputs
    y.name, y.dtype, y.shape = "y", ir.DataType.FLOAT, ir.Shape([None, 2])
    nodes = [total, kept, rows]
    graph = ir.Graph([x], [y], nodes=nodes, initializers=[axis, least], opset_imports={"": 18}, name="rows")
    return ir.Model(graph, ir_version=9)


def test_a_model_that_was_found_out_not_to_batch_tells_so(tmp_path: Path) -> None:
    """A request of more rows than a run may have is cut, and so is its answer, if it has as many rows."""
    add_model(tmp_path, "filter", _positive_rows())
    (tmp_path / "filter" / "foldserve.yaml").write_text("max_batch_size: 8")
    with (
        serving(tmp_path) as server,
        Client(f"127.0.0.1:{server.grpc_port}") as client,
        grpc.insecure_channel(f"127.0.0.1:{server.grpc_port}") as channel,
    ):
        stub = GRPCInferenceServiceStub(channel)

        def told() -> tuple[str, int, bool, list[int]]:
            config = stub.ModelConfig(pb.ModelConfigRequest(name="filter")).config
            batches = client.model_metadata("filter").properties["foldserve.batches"]
            dynamic = config.HasField("dynamic_batching")
            return batches, config.max_batch_size, dynamic, list(config.input[0].dims)

        assert told() == ("True", 8, True, [2])
        assert client.infer("filter", np.full((20, 2), -1000, np.float32)).output.shape == (0, 2)
        assert told() == ("False", 0, False, [-1, 2])
        assert client.model_metadata("filter").properties["foldserve.rows_of_a_run"] == "1"


def test_a_size_that_the_model_does_not_take_is_the_callers_mistake(tmp_path: Path) -> None:
    add_model(tmp_path, "spatial", chain(["batch", 3, "height", "width"], convolution(5), batch_norm()))
    with serving(tmp_path) as server, Client(f"127.0.0.1:{server.grpc_port}") as client:
        with pytest.raises(InvalidArgument, match=r"does not take 'x' \[1, 3, 2, 2\]"):
            client.infer("spatial", np.ones((1, 3, 2, 2), np.float32))
        assert client.infer("spatial", np.ones((1, 3, 9, 7), np.float32)).output.shape == (1, 4, 5, 3)


def test_a_model_that_failed_to_load_says_why_and_that_retrying_is_no_use(tmp_path: Path) -> None:
    name, parameters, attributes = batch_norm()
    parameters[3][2] = -1.0
    add_model(tmp_path, "broken", chain(["batch", 3, 8, 8], convolution(3), (name, parameters, attributes)))
    with (
        serving(tmp_path) as server,
        Client(f"127.0.0.1:{server.grpc_port}") as client,
        pytest.raises(FailedPrecondition, match=r"'broken' version 1 failed to load: .*BatchNormalization_1"),
    ):
        client.infer("broken", np.ones((1, 3, 8, 8), np.float32))


def test_of_a_model_without_batch_norms_nobody_says_that_it_is_folded(tmp_path: Path) -> None:
    add_model(tmp_path, "plain", chain(["batch", 3, 8, 8], convolution(3)))
    add_model(tmp_path, "stays", chain(["batch", 4, 8, 8], batch_norm()))
    with serving(tmp_path) as server, Client(f"127.0.0.1:{server.grpc_port}") as client:
        assert client.model_metadata("plain").properties["foldserve.variant"] == "nothing to fold"
        assert client.model_metadata("stays").properties["foldserve.variant"] == "nothing folded"


def test_a_request_of_a_model_without_batches_counts_as_one_inference(tmp_path: Path) -> None:
    """Its first dimension means something else."""
    add_model(tmp_path, "fixed", chain([3, 4, 8, 8], convolution(3, channels=4), batch_norm()))
    with serving(tmp_path) as server, Client(f"127.0.0.1:{server.grpc_port}") as client:
        client.infer("fixed", np.ones((3, 4, 8, 8), np.float32))
        with grpc.insecure_channel(f"127.0.0.1:{server.grpc_port}") as channel:
            stub = GRPCInferenceServiceStub(channel)
            (statistics,) = stub.ModelStatistics(pb.ModelStatisticsRequest(name="fixed")).model_stats
    assert (statistics.inference_count, statistics.execution_count) == (1, 1)
    assert [batch.batch_size for batch in statistics.batch_stats] == [1]
