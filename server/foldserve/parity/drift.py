"""Drift: how far what a model's BatchNorms read in service is from what they saw in training.

Scores of a window of rows, for each layer, averaged over its channels:

    mean        |mean of x − μ| / √(σ² + ε)
    variance    |ln((variance of x + ε) / (σ² + ε))|, the variance as the BatchNorm sees it: with ε on both
                sides a channel that stands still counts, and not infinitely

0 is what was seen in training; 1 is a shift by one standard deviation, or a variance 2.7 times too large or
too small. They are a measure of the inputs and not of accuracy. Augmentation in training moves the stored
statistics away from any real input, so the scores of the first windows are kept as the baseline.
"""

from collections.abc import Sequence

import numpy as np
from pydantic import BaseModel, ConfigDict

from foldserve.parity.statistics import Moments, Statistics
from foldserve.runtime.session import Array

SMALLEST_WINDOW = 64
"""Rows; fewer are too noisy to say anything about."""

BASELINE_WINDOWS = 4
"""Windows that the baseline is learned from."""

STANDS_STILL = 0.01
"""A channel whose σ² was less than this share of ε is left out: divided by √ε whatever it does, it hardly
moves anything behind the BatchNorm, and its variance is mostly rounding."""

_TINY = float(np.finfo(np.float64).tiny)


class _Report(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class DriftScores(_Report):
    """Both measures; at least 0, which is what was seen in training."""

    mean: float
    """Distance of the means, in standard deviations."""

    variance: float
    """Distance of the variances, as a natural logarithm of their ratio."""


class LayerDrift(DriftScores):
    """The scores of one BatchNorm."""

    layer: str
    """Its name, as the fold report has it."""


class DriftReport(_Report):
    """What is known of a model's drift."""

    window_rows: int
    """Rows that make a window."""

    windows: int
    """Whole windows so far."""

    rows: int
    """Rows so far, those of the window that is not yet whole included."""

    unusable_rows: int
    """Rows left out of all windows, for they made some layer read NaN or infinity."""

    layers: tuple[LayerDrift, ...]
    """Of the last whole window; empty before the first. Without layers whose channels all stood still."""

    overall: DriftScores | None
    """Average over the layers; None before the first whole window."""

    baseline: DriftScores | None
    """Average of ``overall`` over the first windows; None until there are enough."""


class DriftMonitor:
    """Scores window after window; for one thread."""

    def __init__(self, statistics: Statistics, window_rows: int) -> None:
        """``window_rows`` is at least 64; raises ValueError for less."""
        if window_rows < SMALLEST_WINDOW:
            raise ValueError(f"a window of {window_rows} rows: {SMALLEST_WINDOW} are the least")
        self._statistics = statistics
        self._window_rows = window_rows
        self._moments: Moments | None = None
        self._rows_in_window = 0
        self._first: list[DriftScores] = []
        self._report = DriftReport(
            window_rows=window_rows,
            windows=0,
            rows=0,
            unusable_rows=0,
            layers=(),
            overall=None,
            baseline=None,
        )

    def observe(self, taps: Sequence[Array], rows: int) -> DriftReport | None:
        """Add a run of the tapped model over ``rows`` rows; the report if that made a window whole.

        ``taps`` are the model's outputs ``statistics.outputs``, in that order. A run in which any layer read
        NaN or infinity is counted and otherwise left out.
        """
        moments = Moments.of(self._statistics, taps)
        if not moments.finite:
            self._update(unusable_rows=self._report.unusable_rows + rows)
            return None
        self._moments = moments if self._moments is None else self._moments + moments
        self._rows_in_window += rows
        self._update(rows=self._report.rows + rows)
        if self._rows_in_window < self._window_rows:
            return None
        self._score(self._moments)
        self._moments, self._rows_in_window = None, 0
        return self._report

    def report(self) -> DriftReport:
        """What is known now."""
        return self._report

    def _score(self, moments: Moments) -> None:
        layers = layer_drift(self._statistics, moments)
        overall = average(layers)
        if overall is not None and len(self._first) < BASELINE_WINDOWS:
            self._first.append(overall)
        self._update(
            windows=self._report.windows + 1,
            layers=layers,
            overall=overall,
            baseline=average(self._first) if len(self._first) == BASELINE_WINDOWS else None,
        )

    def _update(self, **changes: object) -> None:
        self._report = self._report.model_copy(update=changes)


def layer_drift(statistics: Statistics, moments: Moments) -> tuple[LayerDrift, ...]:
    """The scores of each layer that has a channel which moved in training."""
    moves = statistics.variance >= STANDS_STILL * statistics.epsilon
    share_of_epsilon = statistics.epsilon / (statistics.variance + statistics.epsilon)
    means = np.abs(moments.mean)
    variances = np.abs(np.log(np.maximum(moments.variance + share_of_epsilon, _TINY)))
    columns = zip(statistics.layers, *map(statistics.by_layer, (means, variances, moves)), strict=True)
    return tuple(
        LayerDrift(layer=layer, mean=float(mean[counts].mean()), variance=float(variance[counts].mean()))
        for layer, mean, variance, counts in columns
        if counts.any()
    )


def average(scores: Sequence[DriftScores]) -> DriftScores | None:
    """The average of each measure; None of nothing."""
    if not scores:
        return None
    return DriftScores(
        mean=float(np.mean([one.mean for one in scores])),
        variance=float(np.mean([one.variance for one in scores])),
    )
