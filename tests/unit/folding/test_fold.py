"""fold as a whole: what stays and why, what the input and the report look like afterwards."""

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from foldserve.errors import InvalidModel, UnsupportedModel
from foldserve.folding import fold
from foldserve.folding.report import FoldReport, Outcome, Reason, SiteWarning
from onnx import TensorProto, helper, numpy_helper
from unit.folding.checks import (
    Graph,
    assert_exact,
    assert_exact_float32,
    distance,
    feeds_for,
    run_reference,
    run_unoptimised,
)


def conv_bn(**options: object) -> Graph:
    graph = Graph(**options)  # type: ignore[arg-type]  # options of Graph, spelled by the caller
    y = graph.conv(graph.input("N", 3, 6, 6), 3, 4, pads=[1, 1, 1, 1])
    graph.output(graph.batch_norm(y, 4, name="bn"))
    return graph


def only_reason(graph: Graph) -> Reason | None:
    report = assert_exact(graph, folded=0, batch_norms_left=1, float32=False).report
    assert len(report.sites) == 1
    assert report.sites[0].outcome is Outcome.STAYED
    return report.sites[0].reason


@pytest.mark.parametrize("opset", [7, 9, 11, 13, 14, 15, 21])
def test_every_operator_set(opset: int) -> None:
    # The reference evaluator takes older BatchNormalizations for training ones.
    graph = conv_bn(opset=opset, ir_version=8 if opset < 21 else 10, float_type=TensorProto.FLOAT)
    assert_exact_float32(graph, folded=1)


def test_missing_epsilon_is_1e_5() -> None:
    graph = conv_bn()
    assert not [a for node in graph.nodes for a in node.attribute if a.name == "epsilon"]
    variance = graph.initializers[-1]
    variance.CopyFrom(numpy_helper.from_array(np.full(4, 1e-5), variance.name))
    assert_exact(graph, folded=1)


def test_training_mode_stays() -> None:
    graph = Graph(opset=15)
    y = graph.conv(graph.input("N", 3, 6, 6), 3, 4)
    graph.output(graph.batch_norm(y, 4, training_mode=1, outputs=3))
    assert only_reason(graph) is Reason.TRAINING_MODE


def test_training_mode_of_operator_set_9_shows_in_its_outputs() -> None:
    graph = Graph(opset=9, float_type=TensorProto.FLOAT)
    y = graph.conv(graph.input("N", 3, 6, 6), 3, 4)
    graph.output(graph.batch_norm(y, 4, outputs=5))
    report = fold(graph.model()).report
    assert report.sites[0].reason is Reason.TRAINING_MODE


def test_overridable_statistics_stay() -> None:
    graph = conv_bn()
    mean = graph.initializers[-2]
    graph.inputs.append(helper.make_tensor_value_info(mean.name, mean.data_type, mean.dims))
    assert only_reason(graph) is Reason.RUNTIME_PARAMETERS


def test_overridable_weight_stays() -> None:
    graph = conv_bn()
    weight = graph.initializers[0]
    graph.inputs.append(helper.make_tensor_value_info(weight.name, weight.data_type, weight.dims))
    assert only_reason(graph) is Reason.RUNTIME_WEIGHT


def test_output_between_stays() -> None:
    graph = Graph()
    y = graph.conv(graph.input("N", 3, 6, 6), 3, 4)
    graph.output(y)
    graph.output(graph.batch_norm(y, 4))
    assert only_reason(graph) is Reason.GRAPH_OUTPUT


def test_other_reader_stays() -> None:
    graph = Graph()
    y = graph.conv(graph.input("N", 3, 6, 6), 3, 4)
    graph.output(graph.op("Relu", y))
    graph.output(graph.batch_norm(y, 4))
    assert only_reason(graph) is Reason.SHARED_VALUE


def test_one_convolution_before_two_batch_norms_stays() -> None:
    graph = Graph()
    y = graph.conv(graph.input("N", 3, 6, 6), 3, 4)
    graph.output(graph.batch_norm(y, 4))
    graph.output(graph.batch_norm(y, 4))
    report = assert_exact(graph, folded=0, batch_norms_left=2).report
    assert {site.reason for site in report.sites} == {Reason.SHARED_VALUE}


def test_readers_of_the_shape_alone_do_not_matter() -> None:
    graph = Graph()
    y = graph.conv(graph.input("N", 3, 6, 6), 3, 4)
    shape = graph.op("Shape", y)
    z = graph.op("Relu", graph.batch_norm(y, 4))
    graph.output(graph.op("Cast", graph.op("Size", y), to=graph.float_type))
    graph.output(graph.op("Reshape", z, shape))
    assert_exact(graph, folded=1)


def test_input_of_the_graph_stays() -> None:
    graph = Graph()
    y = graph.batch_norm(graph.input("N", 3, 6, 6), 3)
    graph.output(graph.conv(y, 3, 4, pads=[1, 1, 1, 1]))
    assert only_reason(graph) is Reason.PADDING


def test_excluded_site_stays() -> None:
    graph = conv_bn()
    report = fold(graph.model(), keep=["bn"]).report
    assert (report.sites[0].outcome, report.sites[0].reason) == (Outcome.STAYED, Reason.EXCLUDED)


def test_shared_weight_is_copied() -> None:
    """Two convolutions with one weight and different BatchNorms."""
    graph = Graph()
    x = graph.input("N", 3, 6, 6)
    weight = graph.random(4, 3, 3, 3)
    graph.output(graph.batch_norm(graph.op("Conv", x, weight), 4))
    graph.output(graph.batch_norm(graph.op("Conv", x, weight), 4))
    graph.output(graph.op("Conv", x, weight))
    result = assert_exact(graph, folded=2)
    assert len(ir.to_proto(result.model).graph.initializer) == 5  # three weights, two biases


def test_module_applied_twice_is_folded_into_one_weight() -> None:
    graph = Graph()
    x = graph.input("N", 4, 6, 6)
    weight, parameters = graph.random(4, 4, 1, 1), [graph.constant(np.full(4, 0.5 + i)) for i in range(4)]
    for _ in range(2):
        x = graph.op("BatchNormalization", graph.op("Conv", x, weight), *parameters)
    graph.output(x)
    result = assert_exact(graph, folded=2)
    assert len(ir.to_proto(result.model).graph.initializer) == 2


def test_constants_in_constant_nodes_and_behind_identity() -> None:
    graph = Graph()
    x = graph.input("N", 3, 6, 6)
    weight = graph.op("Identity", graph.random(4, 3, 3, 3))
    mean = graph.op("Constant", value=numpy_helper.from_array(np.arange(4.0)))
    y = graph.op("Conv", x, weight)
    others = [graph.constant(np.full(4, 1.5)) for _ in range(3)]
    graph.output(graph.op("BatchNormalization", y, others[0], others[1], mean, others[2]))
    result = assert_exact(graph, folded=1)
    assert result.report.operators_after == {"Conv": 1}


def test_parameters_computed_from_constants() -> None:
    graph = Graph()
    y = graph.conv(graph.input("N", 3, 6, 6), 3, 4)
    variance = graph.op("Exp", graph.random(4))
    graph.output(
        graph.op("BatchNormalization", y, graph.random(4), graph.random(4), graph.random(4), variance)
    )
    assert_exact(graph, folded=1)


def test_external_data(tmp_path: Path) -> None:
    proto = conv_bn(float_type=TensorProto.FLOAT).proto()
    stored = onnx.ModelProto()
    stored.CopyFrom(proto)
    onnx.save_model(
        stored, tmp_path / "m.onnx", save_as_external_data=True, location="m.data", size_threshold=0
    )
    result = fold(ir.load(tmp_path / "m.onnx"))
    assert result.report.batch_norms_folded == 1
    feeds = feeds_for(proto)
    after = run_unoptimised(ir.to_proto(result.model), feeds)
    assert distance(after, run_unoptimised(proto, feeds)) < 3e-6


def test_unchanged_weights_are_shared_with_the_original() -> None:
    graph = conv_bn()
    graph.output(graph.conv("x", 3, 4))
    model = graph.model()
    untouched = model.graph.initializers[graph.initializers[-2].name].const_value
    after = fold(model).model
    assert untouched in [value.const_value for value in after.graph.initializers.values()]


@pytest.mark.parametrize("number", [np.nan, np.inf, -1.0])
def test_broken_statistics_are_refused(number: float) -> None:
    graph = conv_bn()
    variance = graph.initializers[-1]
    variance.CopyFrom(numpy_helper.from_array(np.array([1.0, 1.0, number, 1.0]), variance.name))
    with pytest.raises(InvalidModel, match="'bn'"):
        fold(graph.model())


def test_old_operator_sets_are_refused() -> None:
    with pytest.raises(UnsupportedModel, match="operator set 6"):
        fold(conv_bn(opset=6).model())


def test_model_without_batch_norms_is_a_calm_result() -> None:
    graph = Graph()
    graph.output(graph.op("Relu", graph.conv(graph.input("N", 3, 6, 6), 3, 4)))
    report = assert_exact(graph, folded=0).report
    assert report.arrived_folded
    assert report.hint is not None
    assert ".pt2" in report.hint


@pytest.mark.parametrize(
    ("numbers", "warning"),
    [
        ((1.0, 0.0, 0.0, 1.0), SiteWarning.UNTRAINED),
        ((0.0, 0.5, 0.5, 2.0), SiteWarning.DEAD_CHANNELS),
        ((1e3, 0.5, 0.5, 1e-6), SiteWarning.HUGE_SCALE),
        ((1.0, 0.5, 0.5, 1e-6), SiteWarning.EPSILON_DOMINATES),
    ],
)
def test_warnings(numbers: tuple[float, ...], warning: SiteWarning) -> None:
    graph = Graph(float_type=TensorProto.FLOAT)
    y = graph.conv(graph.input("N", 3, 6, 6), 3, 4)
    graph.output(graph.op("BatchNormalization", y, *(graph.constant(np.full(4, n)) for n in numbers)))
    assert warning in fold(graph.model()).report.sites[0].warnings


def test_float16_overflow_stays() -> None:
    graph = Graph(float_type=TensorProto.FLOAT16)
    y = graph.conv(graph.input("N", 3, 6, 6), 3, 4)
    huge = [graph.constant(np.full(4, n)) for n in (6e4, 0.0, 0.0, 1e-3)]
    graph.output(graph.op("BatchNormalization", y, *huge))
    report = fold(graph.model()).report
    assert report.sites[0].reason is Reason.OVERFLOW


@pytest.mark.parametrize("kind", [TensorProto.FLOAT16, TensorProto.BFLOAT16])
def test_half_precision_is_rounded_once(kind: int) -> None:
    graph = conv_bn(float_type=kind)
    before, after = graph.proto(), ir.to_proto(fold(graph.model()).model)
    parameters = [numpy_helper.to_array(t).astype(np.float64) for t in before.graph.initializer]
    weight, _, gamma, _, _, variance = parameters
    exact = weight * (gamma / np.sqrt(variance + 1e-5)).reshape(-1, 1, 1, 1)
    folded = numpy_helper.to_array(after.graph.initializer[0])
    assert folded.dtype == helper.tensor_dtype_to_np_dtype(kind)
    assert np.array_equal(folded, exact.astype(folded.dtype))


def test_pairs_name_values_that_both_models_agree_on() -> None:
    graph = conv_bn()
    relu = graph.op("Relu", graph.outputs[0].name)
    graph.outputs.clear()
    graph.output(graph.batch_norm(graph.conv(relu, 4, 5), 5))
    before, result = graph.proto(), fold(graph.model())
    after = ir.to_proto(result.model)
    for site in result.report.sites:
        assert site.pairs
        for pair in site.pairs:
            values = []
            for proto, name in ((before, pair.original), (after, pair.folded)):
                proto.graph.output.add().CopyFrom(onnx.ValueInfoProto(name=name))
                values.append(run_reference(proto, feeds_for(graph.proto()))[-1])
            assert distance([values[1]], [values[0]]) < 1e-11


def test_report_survives_json() -> None:
    report = fold(conv_bn().model()).report
    assert FoldReport.model_validate_json(report.model_dump_json()) == report


@pytest.mark.parametrize("opset", [7, 8])
def test_statistics_per_element_of_a_sample(opset: int) -> None:
    """spatial=0: parameters [C, H, W]. A Gemm behind a Flatten can take them, a convolution cannot."""
    graph = Graph(opset=opset, float_type=TensorProto.FLOAT)
    x = graph.input("N", 3, 4, 5)
    parameters = [graph.constant(graph.rng.uniform(0.5, 2.0, (3, 4, 5))) for _ in range(4)]
    y = graph.op("BatchNormalization", x, *parameters, spatial=0)
    y = graph.op("Flatten", y)
    graph.output(graph.op("Gemm", y, graph.random(60, 7), graph.random(7)))
    after = ir.to_proto(fold(graph.model()).model)
    assert [node.op_type for node in after.graph.node] == ["Flatten", "Gemm"]
    feeds = feeds_for(graph.proto())
    scale, shift, mean, variance = (numpy_helper.to_array(t).astype(float) for t in graph.initializers[:4])
    normal = scale * (feeds["x"] - mean) / np.sqrt(variance + 1e-5) + shift
    weight, bias = (numpy_helper.to_array(t).astype(float) for t in graph.initializers[4:])
    expected = normal.reshape(2, 60) @ weight + bias
    assert distance(run_unoptimised(after, feeds), [expected]) < 3e-6


def test_parameters_of_another_element_type() -> None:
    """Operator set 15 lets float32 statistics stand beside a float16 input; the weight keeps its own type."""
    graph = Graph(opset=15, float_type=TensorProto.FLOAT16)
    x = graph.input("N", 3, 6, 6)
    y = graph.conv(x, 3, 4, bias=False)
    statistics = [graph.constant(np.full(4, number, np.float32)) for number in (0.5, 1.5)]
    graph.output(graph.op("BatchNormalization", y, graph.random(4), graph.random(4), *statistics))
    result = fold(graph.model())
    after = ir.to_proto(result.model)
    onnx.checker.check_model(after, full_check=True)
    assert {tensor.data_type for tensor in after.graph.initializer} == {TensorProto.FLOAT16}
    assert result.report.operators_after == {"Conv": 1}


def test_value_of_unknown_shape_between() -> None:
    """Without a declared shape the weight of the convolution tells the rank."""
    graph = Graph(float_type=TensorProto.FLOAT)
    x = graph.input("N", 3, 6, 6)
    graph.output(graph.batch_norm(graph.conv(x, 3, 4), 4), "N", 4, 4, 4)
    graph.inputs[0].type.tensor_type.ClearField("shape")
    result = fold(graph.model())
    assert result.report.batch_norms_folded == 1
    feeds = {"x": np.ones((2, 3, 6, 6), np.float32)}
    assert (
        distance(run_unoptimised(ir.to_proto(result.model), feeds), run_unoptimised(graph.proto(), feeds))
        < 3e-6
    )


def test_names_of_unnamed_nodes() -> None:
    graph = conv_bn()
    for node in graph.nodes:
        node.name = ""
    report = fold(graph.model()).report
    assert report.sites[0].name == graph.outputs[0].name
    assert report.sites[0].absorbed_by == (graph.outputs[0].name,)
