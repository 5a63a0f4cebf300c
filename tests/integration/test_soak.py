"""``make soak`` in short: everything that callers do at once ends as it should; growth is told from rest."""

import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
from running import ROOT

BENCHMARKS = ROOT / "benchmarks"
MINUTES = 20 / 60


@pytest.fixture
def soak(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(BENCHMARKS)
    import soak

    return soak


def _growth(soak: ModuleType, mb_per_minute: float) -> dict[str, float]:
    """Of a server whose model of 20 MB comes and goes every 7 seconds, for 10 minutes."""
    samples = [
        soak.Sample(
            at_s=float(second),
            rss_mb=200 + mb_per_minute * second / 60 + 20 * (second % 7 > 2),
            files=40,
            threads=30 + second % 3,
            cpu_s=0.0,
            acts=0,
        )
        for second in range(600)
    ]
    growth: dict[str, float] = soak.growth_per_minute(samples)
    return growth


def test_what_comes_and_goes_is_no_growth(soak: ModuleType) -> None:
    assert soak.complaints(_growth(soak, 0.1), []) == []


def test_a_leak_is_complained_of(soak: ModuleType) -> None:
    (complaint,) = soak.complaints(_growth(soak, 2), [])
    assert complaint.startswith("rss_mb grew by 2.0")


def test_unexpected_outcomes_are_complained_of(soak: ModuleType) -> None:
    assert soak.complaints(_growth(soak, 0), ["load: INTERNAL"]) == ["unexpected: load: INTERNAL"]


def test_everything_at_once_ends_as_it_should(tmp_path: Path) -> None:
    """Too short to say anything of growth."""
    command = [sys.executable, "soak.py", "--minutes", str(MINUTES), "--results", str(tmp_path)]
    ended = subprocess.run(command, cwd=BENCHMARKS, capture_output=True, text=True, timeout=200, check=False)
    assert (tmp_path / "soak.json").is_file(), ended.stderr
    result = json.loads((tmp_path / "soak.json").read_text())
    assert result["unexpected"] == []
    assert result["outcomes"]["load"]["OK"]
    assert result["outcomes"]["stream"]["OK"]
    assert len(result["samples"]) > 10
    assert "<svg" in (tmp_path / "soak.svg").read_text()
