"""Shares of several models."""

import numpy as np
import pytest
from foldserve_client.load.errors import LoadTestError
from foldserve_client.load.messages import Messages, cycle
from foldserve_client.load.mix import Share, order, parse_share
from hypothesis import given
from hypothesis import strategies as st


@pytest.mark.parametrize(
    ("text", "share"),
    [
        ("digits", Share("digits")),
        ("digits/2", Share("digits", "2")),
        ("digits=3", Share("digits", "", 3)),
        ("digits/2=0.5", Share("digits", "2", 0.5)),
        ("a-b.c:1", Share("a-b.c:1")),
    ],
)
def test_a_share_is_a_model_its_version_and_its_weight(text: str, share: Share) -> None:
    assert parse_share(text) == share


@pytest.mark.parametrize("text", ["", "=2", "/1", "a=", "a=0", "a=-1", "a=x", "a=inf", "a/1/2", "a=1=2"])
def test_anything_else_is_refused(text: str) -> None:
    with pytest.raises(LoadTestError):
        parse_share(text)


def test_a_share_reads_as_its_model_and_version() -> None:
    assert str(Share("digits", "2", 5)) == "digits/2"
    assert str(Share("digits", weight=5)) == "digits"


@given(st.lists(st.floats(0.5, 100), min_size=1, max_size=8))
def test_models_come_by_their_weights(weights: list[float]) -> None:
    counts = np.bincount(order(weights), minlength=len(weights))
    exact = np.array(weights) / sum(weights) * 1000
    assert counts.sum() == 1000
    assert (np.abs(counts - exact) < 1).all()


def test_a_model_of_tiny_weight_comes_too() -> None:
    assert np.bincount(order([1e6, 1])).min() == 1


def test_models_are_shuffled_the_same_way_every_time() -> None:
    found = order([1, 1])
    assert (found == order([1, 1])).all()
    assert 300 < np.count_nonzero(np.diff(found)) < 700


def test_a_cycle_goes_round_the_requests_of_each_model() -> None:
    first = Messages(Share("a", weight=3), (b"a0", b"a1"))
    second = Messages(Share("b", weight=1), (b"b0", b"b1", b"b2"))
    found = cycle([first, second])
    assert len(found) == 1000
    assert [message for model, message in found if model == 0][:3] == [b"a0", b"a1", b"a0"]
    assert [message for model, message in found if model == 1][:4] == [b"b0", b"b1", b"b2", b"b0"]
    assert sum(model for model, _ in found) == 250


def test_a_cycle_of_one_model_is_its_requests() -> None:
    assert cycle([Messages(Share("a"), (b"1", b"2"))]) == [(0, b"1"), (0, b"2")]
