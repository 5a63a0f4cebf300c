"""What the scaling benchmark makes of its measurements: where curves bend, what several generators did."""

from collections.abc import Sequence
from types import ModuleType

import numpy as np
import pytest
from running import ROOT

DOUBLINGS = [2.0**power for power in range(9)]


@pytest.fixture(autouse=True)
def _benchmarks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(ROOT / "benchmarks")


@pytest.fixture
def scaling_knee() -> ModuleType:
    import scaling_knee

    return scaling_knee


def test_a_fixed_cost_hides_what_each_byte_costs_up_to_the_knee(scaling_knee: ModuleType) -> None:
    """Where a byte's cost times their number exceeds the fixed cost, growth becomes proportional."""
    found = scaling_knee.knee(DOUBLINGS, [max(16, size) for size in DOUBLINGS])
    assert found.at == 16
    assert found.before == pytest.approx(1)
    assert found.after == pytest.approx(2)


def test_a_rate_that_grows_until_something_is_full_has_its_knee_there(scaling_knee: ModuleType) -> None:
    found = scaling_knee.knee(DOUBLINGS, [min(8, callers) for callers in DOUBLINGS])
    assert (found.at, found.before, found.after) == (8, pytest.approx(2), pytest.approx(1))


def test_a_cost_that_falls_and_then_stays_has_its_knee_where_it_stays(scaling_knee: ModuleType) -> None:
    found = scaling_knee.knee(DOUBLINGS, [max(1 / 4, 1 / rows) for rows in DOUBLINGS])
    assert (found.at, found.before, found.after) == (4, pytest.approx(1 / 2), pytest.approx(1))


@pytest.mark.parametrize("scale", [1e-3, 1, 1e6])
def test_units_do_not_move_a_knee(scaling_knee: ModuleType, scale: float) -> None:
    x = [scale * one for one in DOUBLINGS]
    found = scaling_knee.knee(x, [scale * max(16, size) for size in DOUBLINGS])
    assert found.at == 16 * scale


@pytest.mark.parametrize(
    "y",
    [
        pytest.param([3.0 * x for x in DOUBLINGS], id="proportional"),
        pytest.param([x**0.5 for x in DOUBLINGS], id="the same factor with each doubling"),
        pytest.param([1.0, 1.1, 0.98, 1.2, 1.02, 1.1, 1.0, 1.15, 1.05], id="noise"),
        pytest.param([1.0] * 9, id="flat"),
    ],
)
def test_what_does_not_bend_has_no_knee(scaling_knee: ModuleType, y: Sequence[float]) -> None:
    assert scaling_knee.knee(DOUBLINGS, y) is None


def test_noise_on_a_straight_line_is_no_knee(scaling_knee: ModuleType) -> None:
    noisy = [x * factor for x, factor in zip(DOUBLINGS, (1, 1.1, 0.9, 1.2, 1, 0.9, 1.1, 1, 1), strict=True)]
    assert scaling_knee.knee(DOUBLINGS, noisy) is None


@pytest.mark.parametrize(
    ("x", "y"),
    [
        pytest.param([1, 2], [1, 2], id="two points"),
        pytest.param([1, 2, 4], [1, 2], id="other lengths"),
        pytest.param([1, 4, 2], [1, 2, 3], id="not ascending"),
        pytest.param([1, 2, 2], [1, 2, 3], id="twice the same x"),
        pytest.param([0, 1, 2], [1, 2, 3], id="zero"),
        pytest.param([1, 2, 4], [1, -2, 3], id="negative"),
    ],
)
def test_what_is_no_curve_is_refused(scaling_knee: ModuleType, x: list[float], y: list[float]) -> None:
    with pytest.raises(ValueError, match="not a curve"):
        scaling_knee.knee(x, y)


def _log(*requests: tuple[float, float]) -> np.ndarray:
    """h2load's log of requests that started and took so many seconds."""
    return np.array([(round(1e6 * start), 200, round(1e6 * took)) for start, took in requests], np.int64)


def test_only_the_time_counts_in_which_all_generators_were_at_work() -> None:
    from scaling_rounds import together

    early = _log(*((second, 1) for second in range(10)))
    late = _log(*((second + 4.5, 1) for second in range(10)))
    load = together([early, late], cpu_s=2.0)
    assert load.seconds == pytest.approx(5.5)  # 4.5 to 10 s
    assert load.requests == 11  # the early one's of 5 to 10 s, the late one's of 5.5 to 9.5 s
    assert load.cpu_s == pytest.approx(2.0 * 11 / 20)
    assert load.steady_rate == pytest.approx(2, rel=0.05)
    assert load.percentile_ms(50) == pytest.approx(1000)


def test_generators_that_were_never_at_work_together_measured_nothing() -> None:
    from scaling_rounds import together
    from serving_harness import BenchmarkFailed

    with pytest.raises(BenchmarkFailed, match="never all at work"):
        together([_log((0, 1), (1, 1)), _log((5, 1), (6, 1))], cpu_s=1.0)


def test_a_generator_that_was_never_answered_measured_nothing() -> None:
    from scaling_rounds import together
    from serving_harness import BenchmarkFailed

    with pytest.raises(BenchmarkFailed, match="never answered"):
        together([_log((0, 1), (1, 1)), np.empty((0, 3), np.int64)], cpu_s=1.0)


def test_ratios_are_taken_round_by_round() -> None:
    from scaling_rounds import relative, spread

    ratios = relative({"rate": spread([1, 4, 9])}, {"rate": spread([1, 2, 3])})
    assert ratios == {"rate": {"median": 2, "rounds": [1, 2, 3]}}


def test_a_request_of_many_rows_repeats_its_only_one() -> None:
    from scaling_models import of_rows
    from serving_models import TINY

    single = TINY.request()
    longer = of_rows(single, 3)
    assert list(longer.inputs[0].shape) == [3, *TINY.shape]
    assert longer.raw_input_contents[0] == 3 * single.raw_input_contents[0]
    assert list(single.inputs[0].shape) == [1, *TINY.shape]
