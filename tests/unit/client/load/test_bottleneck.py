"""Whether the generator is what was measured."""

import re

import pytest
from foldserve_client.load.bottleneck import verdict


@pytest.mark.parametrize(
    ("cpu_shares", "lag_ms", "latency_ms", "reason"),
    [
        ([0.5], 0.1, 5.0, None),
        ([0.89, 0.5], 0.9, 1.0, None),
        ([0.5, 0.93], 0.1, 5.0, "93% of a core: take --processes 4"),
        ([0.2], 1.1, 5.0, r"more than 1\.1 ms late in 1 % of what it did: take --processes 2"),
        ([0.2], 1.1, 20.0, None),
        ([0.2], 0.9, 0.5, None),
        ([0.2], 30.0, 20.0, "late"),
    ],
)
def test_a_full_core_or_late_requests_are_named(
    cpu_shares: list[float], lag_ms: float, latency_ms: float, reason: str | None
) -> None:
    found = verdict(cpu_shares, lag_ms, latency_ms)
    if reason is None:
        assert found is None
    else:
        assert found is not None
        assert re.search(reason, found)
