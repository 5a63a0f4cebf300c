"""Drift: real images as the model was trained on stay low, others do not, and nothing is said too early."""

import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
from foldserve.parity.drift import BASELINE_WINDOWS, DriftMonitor, DriftReport, DriftScores
from foldserve.parity.sections import unoptimised
from foldserve.parity.statistics import Statistics
from foldserve.parity.taps import tapped
from foldserve.runtime.session import Array
from pydantic import ValidationError
from unit.parity import batch_normed
from unit.parity.batch_normed import Floats

Run = Callable[[Floats], list[Array]]
"""The taps of the digits model for images."""


@pytest.fixture(scope="module")
def statistics() -> Statistics:
    found = tapped(batch_normed.digits())
    assert found is not None
    return found[1]


@pytest.fixture(scope="module")
def run() -> Iterator[Run]:
    found = tapped(batch_normed.digits())
    assert found is not None
    copy, statistics = found
    with unoptimised(copy) as session:
        yield lambda images: session.run({"images": images.astype(np.float32)}, statistics.outputs)


@pytest.fixture(scope="module")
def images(digits: tuple[Floats, Floats]) -> Floats:
    return digits[0][:256]


def _one_layer(variance: Sequence[float], epsilon: float = 1e-5) -> Statistics:
    count = len(variance)
    return Statistics(
        ("norm",),
        (count,),
        np.ones(count),
        np.zeros(count),
        np.zeros(count),
        np.array(variance),
        np.full(count, epsilon),
    )


def _taps(z: Floats) -> list[Array]:
    """What taps give for z [images, channels, space]."""
    return [z.mean(axis=2).astype(np.float32).ravel(), np.square(z).mean(axis=2).astype(np.float32).ravel()]


def _window(statistics: Statistics, taps: list[Array], rows: int) -> DriftReport:
    report = DriftMonitor(statistics, 64).observe(taps, rows)
    assert report is not None
    return report


def _overall(report: DriftReport) -> DriftScores:
    assert report.overall is not None
    return report.overall


CORRUPTIONS: dict[str, Callable[[Floats], Floats]] = {
    "inverted": lambda images: 1 - images,
    "not normalised": lambda images: 16 * images,
    "turned": lambda images: np.rot90(images, axes=(2, 3)).copy(),
    "noisy": lambda images: images + np.random.default_rng(0).normal(0, 0.2, images.shape),
    "moved": lambda images: np.roll(images, 1, axis=3),
}


def test_held_out_images_are_near_what_training_saw(statistics: Statistics, run: Run, images: Floats) -> None:
    overall = _overall(_window(statistics, run(images), 256))
    assert 0 < overall.mean < 0.03
    assert 0 < overall.variance < 0.05


@pytest.mark.parametrize("corruption", CORRUPTIONS)
def test_other_images_are_not(statistics: Statistics, run: Run, images: Floats, corruption: str) -> None:
    overall = _overall(_window(statistics, run(CORRUPTIONS[corruption](images)), 256))
    assert overall.mean > 0.06
    assert overall.variance > 0.1


def test_scores_are_those_of_the_definition(statistics: Statistics, run: Run, images: Floats) -> None:
    report = _window(statistics, run(1 - images), 256)
    read = batch_normed.read_by_batch_norms(batch_normed.digits(), {"images": 1 - images})
    columns = map(statistics.by_layer, (statistics.mean, statistics.variance, statistics.epsilon))
    for layer, x, mean, variance, epsilon in zip(report.layers, read, *columns, strict=True):
        axes = (0, *range(2, x.ndim))
        expected = np.abs(x.mean(axes) - mean) / np.sqrt(variance + epsilon)
        assert layer.mean == pytest.approx(expected.mean(), rel=1e-4)
        logs = np.abs(np.log((x.var(axes) + epsilon) / (variance + epsilon)))
        assert layer.variance == pytest.approx(logs.mean(), rel=1e-4)
    overall = _overall(report)
    assert overall.mean == pytest.approx(np.mean([layer.mean for layer in report.layers]))
    assert overall.variance == pytest.approx(np.mean([layer.variance for layer in report.layers]))


def test_requests_of_any_size_add_up_to_a_window(statistics: Statistics, run: Run, images: Floats) -> None:
    monitor = DriftMonitor(statistics, 64)
    reports = [monitor.observe(run(images[start : start + 7]), 7) for start in range(0, 70, 7)]
    assert reports[:-1] == [None] * 9
    assert reports[-1] is not None
    whole = _window(statistics, run(images[:70]), 70)
    assert _overall(reports[-1]).mean == pytest.approx(_overall(whole).mean, rel=1e-5)
    assert _overall(reports[-1]).variance == pytest.approx(_overall(whole).variance, rel=1e-5)


def test_too_few_rows_have_no_score(statistics: Statistics, run: Run, images: Floats) -> None:
    monitor = DriftMonitor(statistics, 64)
    assert monitor.observe(run(images[:63]), 63) is None
    report = monitor.report()
    assert (report.windows, report.rows) == (0, 63)
    assert (report.layers, report.overall, report.baseline) == ((), None, None)
    with pytest.raises(ValueError, match="63 rows"):
        DriftMonitor(statistics, 63)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e30])
def test_values_that_are_no_numbers_are_left_out_and_counted(
    statistics: Statistics, run: Run, images: Floats, value: float
) -> None:
    monitor = DriftMonitor(statistics, 64)
    spoilt = images[:8].copy()
    spoilt[3, 0, 2, 2] = value
    monitor.observe(run(images[:32]), 32)
    assert monitor.observe(run(spoilt), 8) is None
    report = monitor.observe(run(images[32:64]), 32)
    assert report is not None
    assert (report.rows, report.unusable_rows, report.windows) == (64, 8, 1)
    expected = _overall(_window(statistics, run(images[:64]), 64))
    assert _overall(report).mean == pytest.approx(expected.mean, rel=1e-5)
    assert _overall(report).variance == pytest.approx(expected.variance, rel=1e-5)


def test_one_window_does_not_remember_another(statistics: Statistics, run: Run, images: Floats) -> None:
    monitor = DriftMonitor(statistics, 64)
    for shown in (images[:64], 16 * images[:64], images[:64]):
        report = monitor.observe(run(shown), 64)
    assert report is not None
    assert report.windows == 3
    assert report.layers == _window(statistics, run(images[:64]), 64).layers


def test_the_baseline_is_the_average_of_the_first_windows(
    statistics: Statistics, run: Run, images: Floats
) -> None:
    monitor = DriftMonitor(statistics, 64)
    first = []
    for number in range(BASELINE_WINDOWS):
        assert monitor.report().baseline is None
        report = monitor.observe(run(images[48 * number :][:64]), 64)
        assert report is not None
        first.append(_overall(report))
    baseline = monitor.report().baseline
    assert baseline is not None
    assert baseline.mean == pytest.approx(np.mean([scores.mean for scores in first]))
    assert baseline.variance == pytest.approx(np.mean([scores.variance for scores in first]))
    monitor.observe(run(1 - images[:64]), 64)
    later = monitor.report()
    assert later.baseline == baseline
    assert _overall(later).mean > 3 * baseline.mean


def test_channels_that_stood_still_are_left_out() -> None:
    """One of two channels had a variance of nothing, and moves now."""
    z = np.random.default_rng(0).standard_normal((64, 2, 9))
    z[:, 1] = 1e3
    alone = _window(_one_layer([1]), _taps(z[:, :1]), 64)
    assert _window(_one_layer([1, 1e-9]), _taps(z), 64).layers == alone.layers


def test_a_layer_of_which_nothing_is_known_is_absent() -> None:
    report = _window(_one_layer([0, 0]), _taps(np.ones((64, 2, 9))), 64)
    assert (report.windows, report.layers, report.overall) == (1, (), None)


@pytest.mark.parametrize("epsilon", [1e-5, 0.0])
def test_a_channel_that_stands_still_now_has_a_finite_score(epsilon: float) -> None:
    overall = _overall(_window(_one_layer([1, 2], epsilon), _taps(np.zeros((64, 2, 9))), 64))
    assert overall.mean == 0
    assert 10 < overall.variance < np.inf


def test_statistics_survive_being_saved(tmp_path: Path, statistics: Statistics) -> None:
    statistics.save(tmp_path)
    loaded = Statistics.load(tmp_path)
    assert loaded is not None
    assert (loaded.layers, loaded.channels) == (statistics.layers, statistics.channels)
    assert loaded.outputs == statistics.outputs
    for name in ("mean", "variance", "epsilon"):
        np.testing.assert_array_equal(getattr(loaded, name), getattr(statistics, name))


def test_where_nothing_was_saved_there_are_none(tmp_path: Path) -> None:
    assert Statistics.load(tmp_path) is None


def test_the_report_is_frozen_and_survives_json(statistics: Statistics, run: Run, images: Floats) -> None:
    report = _window(statistics, run(images), 256)
    assert DriftReport.model_validate_json(report.model_dump_json()) == report
    with pytest.raises(ValidationError):
        report.windows = 2


def test_scoring_needs_no_graph_library() -> None:
    heavy = {"onnx", "onnx_ir", "onnxruntime"}
    code = f"import sys, foldserve.parity.drift; print(sorted({heavy!r} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
