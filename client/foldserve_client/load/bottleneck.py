"""Whether a measurement tells of the server, or of the load generator itself."""

from collections.abc import Sequence

FULL_CORE = 0.9
"""Share of a core from which a process, in which one thread at a time runs Python, has no reserve."""

LATE_MS = 1.0
LATE_SHARE = 0.1
"""A generator is late where the p99 of its lag is above both: this, and this share of the p99 latency."""


def verdict(cpu_shares: Sequence[float], lag_p99_ms: float, latency_p99_ms: float) -> str | None:
    """Why the generator itself limits what was measured, and what to do; None where it does not.

    ``cpu_shares`` are of a core, by process; the lag is how late the generator did what was due.
    """
    remedy = f"take --processes {2 * len(cpu_shares)}, on cores that the server does not use"
    if max(cpu_shares) >= FULL_CORE:
        return f"a generator process used {max(cpu_shares):.0%} of a core: {remedy}"
    if lag_p99_ms > max(LATE_MS, LATE_SHARE * latency_p99_ms):
        return f"the generator was more than {lag_p99_ms:.1f} ms late in 1 % of what it did: {remedy}"
    return None
