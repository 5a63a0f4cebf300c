"""Limits of control groups, in folders laid out as the kernel lays them out."""

from pathlib import Path

import pytest
from foldserve.runtime.cpus import available_cpus, cgroup_limit, cpu_features, cpu_model


def _write(file: Path, text: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)


@pytest.mark.parametrize(
    ("files", "own", "expected"),
    [
        ({"cpu.max": "150000 100000\n"}, "0::/\n", 1.5),
        ({"cpu.max": "max 100000\n"}, "0::/\n", None),
        ({"a/cpu.max": "max 100000\n", "a/b/cpu.max": "50000 100000\n"}, "0::/a/b\n", 0.5),
        ({"a/cpu.max": "100000 100000\n", "a/b/cpu.max": "400000 100000\n"}, "0::/a/b\n", 1.0),
        # A container sees its own limit at the root while the path is the host's.
        ({"cpu.max": "200000 100000\n"}, "0::/docker/0123\n", 2.0),
        (
            {"cpu,cpuacct/x/cpu.cfs_quota_us": "300000\n", "cpu,cpuacct/x/cpu.cfs_period_us": "100000\n"},
            "4:cpu,cpuacct:/x\n3:memory:/x\n",
            3.0,
        ),
        (
            {"cpu,cpuacct/cpu.cfs_quota_us": "-1\n", "cpu,cpuacct/cpu.cfs_period_us": "100000\n"},
            "4:cpu,cpuacct:/\n",
            None,
        ),
        ({"cpu.max": "nonsense"}, "0::/\n", None),
        ({}, "0::/\n", None),
    ],
)
def test_the_tightest_limit_counts(
    files: dict[str, str], own: str, expected: float | None, tmp_path: Path
) -> None:
    for name, text in files.items():
        _write(tmp_path / "cgroup" / name, text)
    _write(tmp_path / "own", own)
    assert cgroup_limit(tmp_path / "own", tmp_path / "cgroup") == expected


def test_no_control_groups_no_limit(tmp_path: Path) -> None:
    assert cgroup_limit(tmp_path / "missing", tmp_path) is None


def test_this_machine() -> None:
    assert available_cpus() >= 1
    assert isinstance(cpu_model(), str)


def test_the_features_of_this_processor_are_told() -> None:
    assert cpu_features() & {"sse2", "neon", "asimd"}
