import math

import pytest
from foldserve.observability.histogram import Histogram


def _of(*values: float) -> Histogram:
    histogram = Histogram((1.0, 2.0, 4.0))
    for value in values:
        histogram.observe(value)
    return histogram


@pytest.mark.parametrize(
    ("values", "share", "expected"),
    [
        ((), 0.5, None),
        ((0.2, 0.3), 0.5, 0.5),  # evenly between 0 and 1
        ((1.5, 1.5, 3.0, 3.0), 0.5, 2.0),
        ((1.5, 1.5, 3.0, 3.0), 0.75, 3.0),
        ((0.5, 9.0), 0.99, math.inf),
        ((0.5, 9.0), 0.5, 1.0),
    ],
)
def test_quantiles_are_estimated_as_prometheus_does(
    values: tuple[float, ...], share: float, expected: float | None
) -> None:
    assert _of(*values).quantile(share) == expected


def test_histograms_add_up() -> None:
    both = _of(0.5, 1.5).plus(_of(1.5, 9.0))
    assert (both.counts, both.sum, both.count) == ([1, 2, 0, 1], 12.5, 4)
