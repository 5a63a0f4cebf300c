"""Recalibration gives what training mode over all samples at once would, and changes nothing else."""

from collections.abc import Iterable, Mapping

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch
from foldserve.errors import InvalidModel, UnsupportedModel
from foldserve.parity.drift import LayerDrift
from foldserve.parity.probes import Probe
from foldserve.parity.recalibration import Samples, drift_of, recalibrate
from foldserve.parity.taps import batch_norms
from unit.parity import batch_normed, networks
from unit.parity.batch_normed import Floats, model, normed, vectors
from unit.parity.networks import Layer

NETWORK = networks.layers(depth=3)
GENERATOR = np.random.default_rng(11)
IMAGES = (3 + 2 * GENERATOR.standard_normal((70, 8, 16, 16))).astype(np.float32)


def original() -> ir.Model:
    return ir.from_proto(onnx.load_from_string(networks.original(NETWORK)))


def batches(samples: Mapping[str, Floats], size: int = 16) -> Samples:
    count = len(next(iter(samples.values())))

    def give() -> Iterable[Probe]:
        for start in range(0, count, size):
            yield {name: array[start : start + size] for name, array in samples.items()}

    return give


def in_training_mode(network: list[Layer], images: Floats) -> list[tuple[Floats, Floats]]:
    """Mean and variance of what each BatchNorm reads, all images as one batch, in float64."""
    value = torch.from_numpy(images.astype(np.float64))
    found = []
    for layer in network:
        weight, bias, gamma, beta = (
            torch.from_numpy(array.astype(np.float64))
            for array in (layer.weight, layer.bias, layer.gamma, layer.beta)
        )
        value = torch.nn.functional.conv2d(value, weight, bias, padding=1)
        found.append((value.mean((0, 2, 3)).numpy(), value.var((0, 2, 3), unbiased=False).numpy()))
        value = torch.nn.functional.batch_norm(
            value, None, None, gamma, beta, training=True, eps=networks.EPSILON
        ).relu()
    return found


def worst(layers: Iterable[LayerDrift]) -> float:
    return max(max(layer.mean, layer.variance) for layer in layers)


@pytest.mark.parametrize("size", [1, 16, 70])
def test_the_statistics_are_those_of_training_mode_over_all_samples_at_once(size: int) -> None:
    made = recalibrate(original(), batches({"x": IMAGES}, size))
    norms, expected = batch_norms(made), in_training_mode(NETWORK, IMAGES)
    assert len(norms) == len(expected) == 3
    for norm, (mean, variance) in zip(norms, expected, strict=True):
        np.testing.assert_allclose(norm.mean, mean, rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(norm.variance, variance, rtol=1e-5)


def test_with_them_the_samples_are_no_drift_any_more() -> None:
    source, samples = original(), batches({"x": IMAGES})
    assert worst(drift_of(source, samples)) > 0.5
    assert worst(drift_of(recalibrate(source, samples), samples)) < 1e-5


def test_nothing_else_changes() -> None:
    source = original()
    before = ir.to_proto(source).SerializeToString()
    made = recalibrate(source, batches({"x": IMAGES}))
    assert ir.to_proto(source).SerializeToString() == before
    onnx.checker.check_model(ir.to_proto(made), full_check=True)
    assert made.graph.initializers.keys() == source.graph.initializers.keys()
    for name, weight in source.graph.initializers.items():
        same = made.graph.initializers[name].const_value is weight.const_value
        assert same != name.startswith(("mean", "variance")), name
    assert [node.op_type for node in made.graph] == [node.op_type for node in source.graph]


def test_images_that_came_unnormalised_are_read_again(digits: tuple[Floats, Floats]) -> None:
    """The held-out images × 16: recalibrated on one half of them, read on the other."""
    images, labels = 16 * digits[0], digits[1]
    source = batch_normed.digits()
    made = recalibrate(source, batches({"images": images[::2]}))
    before, after = (
        np.mean(
            batch_normed.values(each, ["logits"], {"images": images[1::2]})[0].argmax(axis=1) == labels[1::2]
        )
        for each in (source, made)
    )
    assert before < 0.6
    assert after > 0.97


IMAGE = "float[n, 4, 5, 5]"
NORM = "BatchNormalization"
CASES = {
    "a residual sum that reaches over a BatchNorm": f"""g ({IMAGE} x) => ({IMAGE} y) {{
        a = {NORM}(x, gamma, beta, mean, variance)
        b = Relu(a)
        c = Conv<pads = [1, 1, 1, 1]>(b, weight)
        d = {NORM}(c, gamma, beta, mean, variance)
        e = Add(d, b)
        f = Add(e, x)
        h = Conv<pads = [1, 1, 1, 1]>(f, weight)
        i = {NORM}(h, gamma, beta, mean, variance)
        y = Add(i, f)
    }}""",
    "branches of different depth": f"""g ({IMAGE} x) => ({IMAGE} y) {{
        a = {NORM}(x, gamma, beta, mean, variance)
        b = Conv<pads = [1, 1, 1, 1]>(a, weight)
        c = {NORM}(b, gamma, beta, mean, variance)
        d = Sigmoid(x)
        e = {NORM}(d, gamma, beta, mean, variance)
        f = Mul(c, e)
        y = {NORM}(f, gamma, beta, mean, variance)
    }}""",
    "statistics in constants": f"""g ({IMAGE} x) => ({IMAGE} y) {{
        m = Constant<value = float[4] {{1, 2, 3, 4}}>()
        v = Identity(variance)
        y = {NORM}(x, gamma, beta, m, v)
    }}""",
    "a body that reads from outside": f"""g ({IMAGE} x, bool condition) => ({IMAGE} y) {{
        a = {NORM}(x, gamma, beta, mean, variance)
        b = Relu(a)
        c = If(condition) <
            then_branch = g1 () => ({IMAGE} p) {{ p = Conv<pads = [1, 1, 1, 1]>(b, weight) }},
            else_branch = g2 () => ({IMAGE} q) {{ q = Neg(b) }}
        >
        y = {NORM}(c, gamma, beta, mean, variance)
    }}""",
    "shapes computed on the way": f"""g ({IMAGE} x) => ({IMAGE} y) {{
        a = {NORM}(x, gamma, beta, mean, variance)
        s = Shape(a)
        b = Conv<pads = [1, 1, 1, 1]>(a, weight)
        c = {NORM}(b, gamma, beta, mean, variance)
        d = Flatten(c)
        e = Reshape(d, s)
        y = {NORM}(e, gamma, beta, mean, variance)
    }}""",
}


@pytest.mark.parametrize("case", CASES)
def test_every_batchnorm_reads_what_its_new_statistics_say(case: str) -> None:
    weights = vectors(4, "gamma", "beta", "mean", "variance")
    weights["weight"] = GENERATOR.standard_normal((4, 4, 3, 3)).astype(np.float32)
    source = model(CASES[case], weights)
    x = (5 * GENERATOR.standard_normal((70, 4, 5, 5))).astype(np.float32)
    others = {"condition": np.array(True)} if "condition" in CASES[case] else {}

    def samples() -> Iterable[Probe]:
        return ({"x": x[start : start + 10], **others} for start in range(0, 70, 10))

    assert worst(drift_of(source, samples)) > 0.1
    made = recalibrate(source, samples)
    onnx.checker.check_model(ir.to_proto(made), full_check=True)
    assert worst(drift_of(made, samples)) < 1e-4


@pytest.mark.parametrize(("kind", "tolerance"), [("double", 1e-5), ("float16", 5e-3)])
def test_statistics_are_rounded_to_the_type_that_they_had(kind: str, tolerance: float) -> None:
    source = normed(kind=kind)
    x = (3 + GENERATOR.standard_normal((70, 4, 5, 5))).astype(batch_normed.DTYPES[kind])
    samples = batches({"x": x})
    made = recalibrate(source, samples)
    for name in ("mean", "variance"):
        assert made.graph.initializers[name].dtype == source.graph.initializers[name].dtype
    assert worst(drift_of(made, samples)) < tolerance


def test_bfloat16_goes_through_a_cut() -> None:
    """The runtime has no bfloat16 convolution for the CPU: a Cast is what crosses the cut."""
    weights = vectors(4, "gamma", "beta", "mean", "variance")
    text = f"""g ({IMAGE} x) => ({IMAGE} y) {{
        half = Cast<to = 16>(x)
        whole = Cast<to = 1>(half)
        a = {NORM}(whole, gamma, beta, mean, variance)
        again = Cast<to = 1>(half)
        b = Add(a, again)
        y = {NORM}(b, gamma, beta, mean, variance)
    }}"""
    source = model(text, weights)
    samples = batches({"x": GENERATOR.standard_normal((70, 4, 5, 5)).astype(np.float32)})
    assert worst(drift_of(recalibrate(source, samples), samples)) < 1e-4


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_values_that_are_no_numbers_are_refused_naming_the_layer(value: float) -> None:
    spoilt = IMAGES.copy()
    spoilt[20, 3, 4, 5] = value
    for measure in (recalibrate, drift_of):
        with pytest.raises(InvalidModel, match="'n1' reads NaN or infinite"):
            measure(original(), batches({"x": spoilt}))


def test_a_model_without_statistics_is_refused() -> None:
    source = model(f"g ({IMAGE} x) => ({IMAGE} y) {{ y = Relu(x) }}", {})
    for measure in (recalibrate, drift_of):
        with pytest.raises(UnsupportedModel, match="export it with its BatchNorms kept"):
            measure(source, batches({"x": np.zeros((70, 4, 5, 5), np.float32)}))
