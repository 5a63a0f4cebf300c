"""What was asked for on the command line: plain values, which wait for no library."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Order:
    """The options of ``foldserve-client load``, as they were given."""

    models: tuple[str, ...]
    callers: str | None
    rate: str | None
    poisson: bool
    duration_s: float | None
    requests: int | None
    warm_up_s: float
    find_capacity: bool
    target_p99_ms: float | None
    most_failed: float
    precision: float
    compare: tuple[str, str] | None
    rounds: int
    rows: int
    shapes: tuple[str, ...]
    data: tuple[str, ...]
    metrics_urls: tuple[str, ...]
    processes: int
    connections: int
    json: Path | None
    csv: Path | None
    html: Path | None
