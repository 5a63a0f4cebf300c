"""Fold by fold: the wrong one is named, and no other."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from foldserve.folding import fold
from foldserve.parity import sites as sites_module
from foldserve.parity.measures import distance
from foldserve.parity.probes import Probe
from foldserve.parity.reference import Reference
from foldserve.parity.sites import Pair, compare_sites
from foldserve.settings import ParityBudget
from unit.parity import networks
from unit.parity.networks import PLANTS, Layer

PAIRS: list[Pair] = [(f"n{index}", f"n{index}") for index in range(1, 5)]
NETWORK = networks.layers(depth=4)


def ir_model(source: bytes) -> ir.Model:
    return ir.from_proto(onnx.load_from_string(source))


def probe(batch: int = 1) -> Probe:
    generator = np.random.default_rng(batch)
    return {
        "x": generator.standard_normal((batch, networks.CHANNELS, networks.SIZE, networks.SIZE)).astype(
            np.float32
        )
    }


ORIGINAL = ir_model(networks.original(NETWORK))


def test_every_site_of_a_right_fold_is_within_the_budget() -> None:
    folded = ir_model(networks.folded(NETWORK))
    sites = compare_sites(Reference(ORIGINAL), folded, PAIRS, [probe(1), probe(3)], ParityBudget())
    assert [site.original_value for site in sites] == ["n1", "n2", "n3", "n4"]
    assert all(site.within_budget and site.relative_l2 < 1e-6 for site in sites)


@pytest.mark.parametrize("plant", PLANTS, ids=lambda plant: plant.__name__)
@pytest.mark.parametrize("wrong", [1, 3])
def test_a_wrong_fold_spoils_its_own_site_and_no_other(plant: Callable[[Layer], Layer], wrong: int) -> None:
    folded = ir_model(networks.folded(NETWORK, plant, site=wrong))
    sites = compare_sites(Reference(ORIGINAL), folded, PAIRS, [probe()], ParityBudget())
    assert [site.within_budget for site in sites] == [index != wrong for index in range(1, 5)]


def test_a_fault_that_no_output_shows_is_seen() -> None:
    """Ahead of the Relu: the channel is dead on every probe."""
    first = NETWORK[0]
    beta = first.beta.copy()
    beta[3] = -8
    network = [replace(first, beta=beta), *NETWORK[1:]]
    original, wrong = networks.original(network), networks.folded(network, networks.scaled_channel)
    expected, actual = (networks.session(source).run(probe())[0] for source in (original, wrong))
    assert distance(expected, actual).relative_l2 < 1e-6
    sites = compare_sites(Reference(ir_model(original)), ir_model(wrong), PAIRS, [probe()], ParityBudget())
    assert [site.within_budget for site in sites] == [False, True, True, True]


def test_float64_tells_an_inaccurate_original_from_a_wrong_fold() -> None:
    network = networks.cancelling(NETWORK)
    original, right = ir_model(networks.original(network)), ir_model(networks.folded(network))
    sites = compare_sites(Reference(original), right, PAIRS, [probe()], ParityBudget())
    assert [site.within_budget for site in sites] == [True] * 4
    assert [site.relative_l2 > ParityBudget().relative_l2 for site in sites] == [True, False, False, False]
    wrong = ir_model(networks.folded(network, networks.wrong_axis, site=1))
    sites = compare_sites(Reference(original), wrong, PAIRS, [probe()], ParityBudget())
    assert [site.within_budget for site in sites] == [False, True, True, True]


def test_a_site_that_is_not_judged_in_time_is_not_right() -> None:
    network = networks.cancelling(NETWORK)
    original, right = ir_model(networks.original(network)), ir_model(networks.folded(network))
    sites = compare_sites(Reference(original), right, PAIRS, [probe()], ParityBudget(), judging_s=0)
    assert [site.within_budget for site in sites] == [False, True, True, True]


def test_any_probe_can_show_it() -> None:
    folded = ir_model(networks.folded(NETWORK, networks.shifted_channel))
    nothing = {"x": np.full_like(probe()["x"], 1e6)}
    assert compare_sites(Reference(ORIGINAL), folded, PAIRS[:1], [nothing], ParityBudget())[0].within_budget
    assert not compare_sites(Reference(ORIGINAL), folded, PAIRS[:1], [nothing, probe()], ParityBudget())[
        0
    ].within_budget


def test_the_order_is_that_of_the_graph() -> None:
    sites = compare_sites(Reference(ORIGINAL), ORIGINAL, PAIRS[::-1], [probe()], ParityBudget())
    assert [site.original_value for site in sites] == ["n1", "n2", "n3", "n4"]


def test_names_may_differ_and_outputs_may_be_sites() -> None:
    folded = ir_model(networks.folded(NETWORK))
    sites = compare_sites(Reference(ORIGINAL), folded, [("y", "y"), ("r4", "y")], [probe()], ParityBudget())
    assert [(site.original_value, site.candidate_value) for site in sites] == [("r4", "y"), ("y", "y")]
    assert all(site.within_budget for site in sites)


def test_values_that_are_not_there_are_left_out() -> None:
    pairs = [("n1", "gone"), ("gone", "n1"), ("n2", "n2")]
    assert len(compare_sites(Reference(ORIGINAL), ORIGINAL, pairs, [probe()], ParityBudget())) == 1
    assert compare_sites(Reference(ORIGINAL), ORIGINAL, [], [probe()], ParityBudget()) == ()


@pytest.mark.parametrize("values_at_once", [1, 3, 100])
def test_values_are_fetched_in_groups(monkeypatch: pytest.MonkeyPatch, values_at_once: int) -> None:
    value_bytes = 2 * networks.CHANNELS * networks.SIZE * networks.SIZE * 4
    monkeypatch.setattr(sites_module, "LARGEST_FETCH_BYTES", values_at_once * value_bytes)
    folded = ir_model(networks.folded(NETWORK, networks.wrong_epsilon, site=2))
    sites = compare_sites(Reference(ORIGINAL), folded, PAIRS, [probe(2)], ParityBudget())
    assert [(site.original_value, site.within_budget) for site in sites] == [
        ("n1", True),
        ("n2", False),
        ("n3", True),
        ("n4", True),
    ]


@pytest.mark.parametrize("tier", [1, 2, 3])
def test_pairs_of_our_own_fold_in_every_tier(tier: int) -> None:
    """BatchNorm ahead of Relu and convolution, in a residual block: each tier folds more of it."""
    original = ir_model(preactivated())
    result = fold(original, max_tier=tier)
    pairs = [(pair.original, pair.folded) for site in result.report.sites for pair in site.pairs]
    found = compare_sites(Reference(original), result.model, [*pairs, ("y", "y")], [probe()], ParityBudget())
    assert found
    assert all(site.within_budget and site.relative_l2 < 2e-6 for site in found)
    convolution = next(node for node in result.model.graph if node.op_type == "Conv")
    weight = convolution.inputs[1]
    assert weight is not None
    assert weight.const_value is not None
    weight.const_value = ir.tensor(weight.const_value.numpy() * np.float32(1.001), name=weight.name)
    found = compare_sites(Reference(original), result.model, [*pairs, ("y", "y")], [probe()], ParityBudget())
    assert not all(site.within_budget for site in found)


def preactivated() -> bytes:
    """x + Conv(Relu(BN(Conv(Relu(BN(x)))))), then BN."""
    generator = np.random.default_rng(5)
    weights = {}
    lines = []
    value = "x"
    for index in (1, 2, 3):
        for name, low in (("gamma", 0.5), ("beta", -1), ("mean", -1), ("variance", 0.5)):
            weights[f"{name}{index}"] = generator.uniform(low, 1.5, networks.CHANNELS).astype(np.float32)
        statistics = ", ".join(f"{name}{index}" for name in ("gamma", "beta", "mean", "variance"))
        if index < 3:
            shape = (networks.CHANNELS, networks.CHANNELS, 1, 1)
            weights[f"w{index}"] = (0.4 * generator.standard_normal(shape)).astype(np.float32)
            lines.append(f"n{index} = BatchNormalization({value}, {statistics})  r{index} = Relu(n{index})")
            lines.append(f"c{index} = Conv(r{index}, w{index})")
            value = f"c{index}"
    lines.append(f"s = Add(x, c2)  y = BatchNormalization(s, {statistics})")
    image = f"float[n, {networks.CHANNELS}, {networks.SIZE}, {networks.SIZE}]"
    return networks.model(f"g ({image} x) => ({image} y) {{ {' '.join(lines)} }}", weights=weights)


def test_the_models_are_not_changed() -> None:
    before = ir.to_proto(ORIGINAL).SerializeToString(deterministic=True)
    compare_sites(Reference(ORIGINAL), ORIGINAL, PAIRS, [probe()], ParityBudget())
    assert ir.to_proto(ORIGINAL).SerializeToString(deterministic=True) == before


def test_half_precision_has_a_budget_of_its_own() -> None:
    network = networks.layers(depth=4, dtype="float16")
    original = ir_model(networks.original(network))
    half = {"x": probe()["x"].astype(np.float16)}
    right = ir_model(networks.folded(network))
    assert all(
        site.within_budget
        for site in compare_sites(Reference(original), right, PAIRS, [half], ParityBudget())
    )
    wrong = ir_model(networks.folded(network, networks.wrong_axis))
    assert not compare_sites(Reference(original), wrong, PAIRS, [half], ParityBudget())[0].within_budget


def test_a_value_read_inside_a_body_and_a_constant_that_callers_may_override() -> None:
    def source(factor: float) -> ir.Model:
        parsed = onnx.load_from_string(
            networks.model(
                """g (float[n, 4] x, float[1] k) => (float[n, 4] y) {
                    a = Mul(x, f)
                    b = If(yes) <then_branch = t () => (float[n, 4] u) { u = Mul(a, k) },
                                 else_branch = e () => (float[n, 4] v) { v = Identity(a) }>
                    y = Relu(b)
                }""",
                weights={
                    "yes": np.array([True]),
                    "k": np.array([3], np.float32),
                    "f": np.array([factor], np.float32),
                },
            )
        )
        return ir.from_proto(parsed)

    pairs = [("a", "a"), ("b", "b"), ("u", "u"), ("y", "y")]
    x = {"x": np.random.default_rng(0).standard_normal((2, 4)).astype(np.float32)}
    sites = compare_sites(Reference(source(2)), source(2.1), pairs, [x], ParityBudget())
    assert [(site.original_value, site.within_budget) for site in sites] == [
        ("a", False),
        ("b", True),
        ("y", True),
    ]
