"""Taps show what BatchNorms read, whatever the model, and change nothing else."""

from dataclasses import replace

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from foldserve.parity.sections import unoptimised
from foldserve.parity.statistics import Moments, Statistics
from foldserve.parity.taps import tapped
from unit.parity import batch_normed, networks
from unit.parity.batch_normed import DTYPES, Floats, model, normed, read_by_batch_norms, vectors


def _tapped(source: ir.Model) -> tuple[ir.Model, Statistics]:
    found = tapped(source)
    assert found is not None
    return found


def _moments(source: ir.Model, feed: dict[str, Floats]) -> tuple[Statistics, Moments]:
    copy, statistics = _tapped(source)
    with unoptimised(copy) as session:
        return statistics, Moments.of(statistics, session.run(feed, statistics.outputs))


def _expected(statistics: Statistics, read: list[Floats]) -> tuple[Floats, Floats]:
    """Mean and variance of every channel, in float64."""
    flat = [np.moveaxis(array, 1, 0).reshape(array.shape[1], -1) for array in read]
    mean = np.concatenate([array.mean(axis=1) for array in flat])
    variance = np.concatenate([array.var(axis=1) for array in flat])
    return (mean - statistics.mean) / statistics.spread, variance / statistics.spread**2


def _check(source: ir.Model, feed: dict[str, Floats], tolerance: float = 1e-5) -> None:
    statistics, moments = _moments(source, feed)
    mean, variance = _expected(statistics, read_by_batch_norms(source, feed))
    np.testing.assert_allclose(moments.mean, mean, rtol=tolerance, atol=tolerance)
    np.testing.assert_allclose(moments.variance, variance, rtol=tolerance, atol=tolerance)


def test_the_taps_of_a_trained_model_show_what_its_batchnorms_read(
    digits: tuple[Floats, Floats],
) -> None:
    source = batch_normed.digits()
    _check(source, {"images": digits[0]})
    statistics = _tapped(source)[1]
    assert statistics.layers[0] == "features.1/BatchNormalization"
    assert statistics.channels == (16, 32, 32, 64)
    assert statistics.mean.size == statistics.variance.size == statistics.epsilon.size == 144


@pytest.mark.parametrize("opset", [7, 9, 13, 14, 15, 17, 18, 22])
def test_every_operator_set(opset: int) -> None:
    x = np.random.default_rng(0).standard_normal((3, 4, 5, 6)).astype(np.float32)
    _check(normed(opset=opset), {"x": x})


@pytest.mark.parametrize("shape", [(9, 4), (3, 4, 7), (3, 4, 5, 6), (2, 4, 3, 2, 5)])
def test_every_rank(shape: tuple[int, ...]) -> None:
    x = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    dims = ", ".join(["n", "4", "a", "b", "c"][: len(shape)])
    _check(normed(shape=dims), {"x": x})


@pytest.mark.parametrize("kind", ["double", "float16"])
def test_every_type_of_element_that_the_runtime_normalises(kind: str) -> None:
    x = np.random.default_rng(0).standard_normal((3, 4, 5, 6)).astype(DTYPES[kind])
    _check(normed(kind=kind), {"x": x})


def test_one_tapped_model_takes_images_of_any_size_and_all_count_the_same() -> None:
    copy, statistics = _tapped(normed())
    generator = np.random.default_rng(0)
    small, large = (generator.standard_normal((2, 4, size, size)).astype(np.float32) for size in (3, 9))
    with unoptimised(copy) as session:
        sums = [Moments.of(statistics, session.run({"x": x}, statistics.outputs)) for x in (small, large)]
    total = sums[0] + sums[1]
    assert set(total.images.tolist()) == {4}
    np.testing.assert_allclose(total.mean, (sums[0].mean + sums[1].mean) / 2)


def test_types_that_no_file_tells_are_cast() -> None:
    source = normed()
    for node in source.graph:
        for output in node.outputs[:1]:
            if not output.is_graph_output():
                output.type = None
    x = np.random.default_rng(0).standard_normal((3, 4, 5, 6)).astype(np.float32)
    _check(source, {"x": x})


def test_far_from_zero_the_variance_does_not_drown() -> None:
    """2·x = 40000 ± 2 in steps of 0.004: its square in float32 tells nothing of the 2."""
    source = normed()
    mean, variance = (source.graph.initializers[name] for name in ("mean", "variance"))
    mean.const_value = ir.tensor(np.full(4, 40_000, np.float32), name="mean")
    variance.const_value = ir.tensor(np.full(4, 4, np.float32), name="variance")
    x = 20_000 + np.random.default_rng(0).standard_normal((3, 4, 20, 20)).astype(np.float32)
    _check(source, {"x": x}, tolerance=1e-3)


def test_a_channel_that_the_model_multiplies_by_zero_is_seen() -> None:
    layer = networks.layers(depth=1)[0]
    gamma = layer.gamma.copy()
    gamma[:] = 0
    source = ir.from_proto(onnx.load_from_string(networks.original([replace(layer, gamma=gamma)])))
    x = np.random.default_rng(0).standard_normal((3, 8, 16, 16)).astype(np.float32)
    _check(source, {"x": x})


@pytest.mark.parametrize(("gamma", "beta", "more"), [(1, 8, 0), (-1, 8, 0), (1, 9, 1), (0, 0, 1)])
def test_only_where_the_output_does_not_tell_the_input_is_normalised_again(
    gamma: float, beta: float, more: int
) -> None:
    parameters = WEIGHTS | {
        "gamma": np.array([1, 1, gamma, 1], np.float32),
        "beta": np.array([0, 0, beta, 0], np.float32),
    }
    text = f"""g ({IMAGES} x) => ({IMAGES} y)
        {{ r = Relu(x) y = BatchNormalization(r, gamma, beta, mean, variance) }}"""
    source = model(text, parameters)
    kinds = [node.op_type for node in _tapped(source)[0].graph]
    assert kinds.count("BatchNormalization") == 1 + more
    x = np.random.default_rng(0).standard_normal((3, 4, 5, 5)).astype(np.float32)
    _check(source, {"x": x}, tolerance=1e-4)


def test_the_answers_are_the_same_bit_for_bit_and_the_weights_are_shared(
    digits: tuple[Floats, Floats],
) -> None:
    source = batch_normed.digits()
    before = ir.to_proto(source).SerializeToString()
    copy, statistics = _tapped(source)
    (expected,) = batch_normed.values(source, ["logits"], {"images": digits[0]})
    with unoptimised(copy) as session:
        assert [spec.name for spec in session.outputs] == ["logits", *statistics.outputs]
        assert np.array_equal(session.run({"images": digits[0]}, ["logits"])[0], expected)
    for name, weight in source.graph.initializers.items():
        assert copy.graph.initializers[name].const_value is weight.const_value
    assert ir.to_proto(source).SerializeToString() == before
    onnx.checker.check_model(ir.to_proto(copy), full_check=True)


WEIGHTS = vectors(4, "gamma", "beta", "mean", "variance")
IMAGES = "float[n, 4, 5, 5]"
WITHOUT_STATISTICS = {
    "no BatchNorm": (f"g ({IMAGES} x) => ({IMAGES} y) {{ y = Relu(x) }}", 18),
    "training mode": (
        f"""g ({IMAGES} x) => ({IMAGES} y)
        {{ y, m, v = BatchNormalization<training_mode = 1>(x, gamma, beta, mean, variance) }}""",
        18,
    ),
    "training mode, long ago": (
        f"""g ({IMAGES} x) => ({IMAGES} y)
        {{ y, m, v, sm, sv = BatchNormalization(x, gamma, beta, mean, variance) }}""",
        9,
    ),
    "computed": (
        f"""g ({IMAGES} x, float[4] other) => ({IMAGES} y)
        {{ y = BatchNormalization(x, gamma, beta, mean, other) }}""",
        18,
    ),
    "no channels": ("g (float[n] x) => (float[n] y) { y = BatchNormalization(x, one, one, one, one) }", 18),
    "of a weight": (
        """g (float[n] x) => (float[4, 4] y)
        { y = BatchNormalization(weight, gamma, beta, mean, variance) }""",
        18,
    ),
}


@pytest.mark.parametrize("case", WITHOUT_STATISTICS)
def test_without_statistics_there_are_no_taps(case: str) -> None:
    text, opset = WITHOUT_STATISTICS[case]
    others = {"weight": np.ones((4, 4), np.float32), "one": np.ones(1, np.float32)}
    assert tapped(model(text, WEIGHTS | others, opset)) is None


def test_parameters_for_every_element_have_no_taps() -> None:
    """spatial=0, as operator sets 7 and 8 had it."""
    whole = {name: np.ones((4, 5, 5), np.float32) for name in WEIGHTS}
    text = f"""g ({IMAGES} x) => ({IMAGES} y)
        {{ y = BatchNormalization<spatial = 0>(x, gamma, beta, mean, variance) }}"""
    assert tapped(model(text, whole, 8)) is None


def test_initialisers_that_a_caller_may_override_have_no_taps() -> None:
    source = normed()
    source.graph.inputs.append(source.graph.initializers["mean"])
    assert tapped(source) is None


def test_statistics_in_constant_nodes_and_behind_identity() -> None:
    text = f"""g ({IMAGES} x) => ({IMAGES} y) {{
        m = Constant<value = float[4] {{1, 2, 3, 4}}>()
        v = Identity(variance)
        r = Relu(x)
        y = BatchNormalization(r, gamma, beta, m, v)
    }}"""
    source = model(text, WEIGHTS)
    x = np.random.default_rng(0).standard_normal((3, 4, 5, 5)).astype(np.float32)
    _check(source, {"x": x})
    np.testing.assert_array_equal(_tapped(source)[1].mean, [1, 2, 3, 4])


def test_layers_are_told_apart_by_name() -> None:
    text = f"""g ({IMAGES} x) => ({IMAGES} y) {{
        a = BatchNormalization(x, gamma, beta, mean, variance)
        b = BatchNormalization(a, gamma, beta, mean, variance)
        y = BatchNormalization(b, gamma, beta, mean, variance)
    }}"""
    source = model(text, WEIGHTS)
    assert _tapped(source)[1].layers == ("a", "b", "y")  # as the fold report names nodes without a name
    for node in source.graph:
        node.name = "norm"
    assert _tapped(source)[1].layers == ("norm", "norm (b)", "norm (y)")


def test_batchnorms_inside_functions_are_seen() -> None:
    text = """<ir_version: 10, opset_import: ["": 18, "local": 1]>
    g (float[n, 4, 5, 5] x, float[4] unused) => (float[n, 4, 5, 5] y)
    <float[4] gamma = {1, 1, 1, 1}, float[4] beta = {0, 0, 0, 0},
     float[4] mean = {1, 2, 3, 4}, float[4] variance = {1, 2, 3, 4}>
    { y = local.block(x, gamma, beta, mean, variance) }
    <domain: "local", opset_import: ["": 18]>
    block (x, gamma, beta, mean, variance) => (y)
    { a = Relu(x) y = BatchNormalization(a, gamma, beta, mean, variance) }"""
    source = ir.from_proto(onnx.parser.parse_model(text))
    copy, statistics = _tapped(source)
    np.testing.assert_array_equal(statistics.variance, [1, 2, 3, 4])
    x = np.abs(np.random.default_rng(0).standard_normal((3, 4, 5, 5)).astype(np.float32))
    with unoptimised(copy) as session:
        feed = {"x": x, "unused": np.zeros(4, np.float32)}
        moments = Moments.of(statistics, session.run(feed, statistics.outputs))
    expected = (x.astype(np.float64).mean(axis=(0, 2, 3)) - statistics.mean) / statistics.spread
    np.testing.assert_allclose(moments.mean, expected, rtol=1e-5)
