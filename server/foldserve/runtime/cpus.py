"""How many processors this process may use: affinity, and the limit of its container (cgroup v1 and v2)."""

import functools
import math
import os
from pathlib import Path

from foldserve.runtime.control_groups import CGROUPS, OWN_GROUPS, group_folders

CPU_INFO = Path("/proc/cpuinfo")


@functools.cache
def available_cpus() -> int:
    """Processors that this process can keep busy, at least 1; a share of one counts as one."""
    limit = cgroup_limit(OWN_GROUPS, CGROUPS)
    affinity = len(os.sched_getaffinity(0))
    return affinity if limit is None else max(1, min(affinity, math.ceil(limit)))


def half_of_the_cpus() -> int:
    """Threads for each of two that compute side by side, at least 1."""
    return max(1, available_cpus() // 2)


@functools.cache
def cpu_model() -> str:
    """What the processors call themselves; empty where that cannot be found."""
    return _cpu_info("model name")


@functools.cache
def cpu_features() -> frozenset[str]:
    """What the first processor can do, by Linux's names ("avx2", "avx512_bf16"); empty where nobody tells."""
    return frozenset(_cpu_info("flags").split())


def _cpu_info(name: str) -> str:
    try:
        lines = CPU_INFO.read_text().splitlines()
    except OSError:
        return ""
    return next((line.partition(":")[2].strip() for line in lines if line.startswith(name)), "")


def cgroup_limit(own_groups: Path, cgroups: Path) -> float | None:
    """Processors' worth of time that the control groups grant, the tightest of all levels; None for no limit.

    ``own_groups`` lists the groups of this process as ``/proc/self/cgroup`` does, ``cgroups`` is where they
    are mounted. In a container the paths listed are often those of the host, so the mount's root counts too.
    """
    limits = [
        limit for folder in group_folders("cpu", own_groups, cgroups) if (limit := _limit(folder)) is not None
    ]
    return min(limits, default=None)


def _limit(folder: Path) -> float | None:
    """The quota of one group: ``cpu.max`` in version 2, ``cpu.cfs_*`` in version 1."""
    try:
        if (folder / "cpu.max").exists():
            quota, period = (folder / "cpu.max").read_text().split()
        else:
            quota = (folder / "cpu.cfs_quota_us").read_text().strip()
            period = (folder / "cpu.cfs_period_us").read_text().strip()
        return float(quota) / float(period) if quota not in {"max", "-1"} else None
    except (OSError, ValueError):
        return None
