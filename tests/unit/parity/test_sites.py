"""Fold by fold: the first wrong one is named."""

from collections.abc import Callable

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from foldserve.parity.probes import Probe
from foldserve.parity.sites import VALUES_PER_RUN, Pair, compare_sites
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
    sites = compare_sites(ORIGINAL, folded, PAIRS, [probe(1), probe(3)], ParityBudget())
    assert [site.original_value for site in sites] == ["n1", "n2", "n3", "n4"]
    assert all(site.within_budget and site.relative_l2 < 1e-6 for site in sites)


@pytest.mark.parametrize("plant", PLANTS, ids=lambda plant: plant.__name__)
@pytest.mark.parametrize("wrong", [1, 3])
def test_the_first_bad_site_is_the_wrong_fold(plant: Callable[[Layer], Layer], wrong: int) -> None:
    folded = ir_model(networks.folded(NETWORK, plant, site=wrong))
    sites = compare_sites(ORIGINAL, folded, PAIRS, [probe()], ParityBudget())
    assert [site.within_budget for site in sites[:wrong]] == [True] * (wrong - 1) + [False]


def test_any_probe_can_show_it() -> None:
    folded = ir_model(networks.folded(NETWORK, networks.shifted_channel))
    nothing = {"x": np.full_like(probe()["x"], 1e6)}
    assert compare_sites(ORIGINAL, folded, PAIRS[:1], [nothing], ParityBudget())[0].within_budget
    assert not compare_sites(ORIGINAL, folded, PAIRS[:1], [nothing, probe()], ParityBudget())[0].within_budget


def test_the_order_is_that_of_the_graph() -> None:
    sites = compare_sites(ORIGINAL, ORIGINAL, PAIRS[::-1], [probe()], ParityBudget())
    assert [site.original_value for site in sites] == ["n1", "n2", "n3", "n4"]


def test_names_may_differ_and_outputs_may_be_sites() -> None:
    folded = ir_model(networks.folded(NETWORK))
    sites = compare_sites(ORIGINAL, folded, [("y", "y"), ("r4", "y")], [probe()], ParityBudget())
    assert [(site.original_value, site.candidate_value) for site in sites] == [("r4", "y"), ("y", "y")]
    assert all(site.within_budget for site in sites)


def test_values_that_are_not_there_are_left_out() -> None:
    pairs = [("n1", "gone"), ("gone", "n1"), ("n2", "n2")]
    assert len(compare_sites(ORIGINAL, ORIGINAL, pairs, [probe()], ParityBudget())) == 1
    assert compare_sites(ORIGINAL, ORIGINAL, [], [probe()], ParityBudget()) == ()


def test_more_sites_than_are_fetched_at_once() -> None:
    depth = VALUES_PER_RUN + 3
    deep = ir_model(networks.original(networks.layers(depth=depth)))
    pairs = [(f"n{index}", f"n{index}") for index in range(1, depth + 1)]
    sites = compare_sites(deep, deep, pairs, [probe()], ParityBudget())
    assert [site.original_value for site in sites] == [pair[0] for pair in pairs]
    assert all(site.relative_l2 == 0 for site in sites)


def test_the_models_are_not_changed() -> None:
    before = ir.to_proto(ORIGINAL).SerializeToString(deterministic=True)
    compare_sites(ORIGINAL, ORIGINAL, PAIRS, [probe()], ParityBudget())
    assert ir.to_proto(ORIGINAL).SerializeToString(deterministic=True) == before


def test_half_precision_has_a_budget_of_its_own() -> None:
    network = networks.layers(depth=4, dtype="float16")
    original = ir_model(networks.original(network))
    half = {"x": probe()["x"].astype(np.float16)}
    right = ir_model(networks.folded(network))
    assert all(site.within_budget for site in compare_sites(original, right, PAIRS, [half], ParityBudget()))
    wrong = ir_model(networks.folded(network, networks.wrong_axis))
    assert not compare_sites(original, wrong, PAIRS, [half], ParityBudget())[0].within_budget
