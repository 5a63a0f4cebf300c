"""Prometheus' configuration, rules and alerts, judged by its own tools."""

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from monitoring.docker_files import ALERTS, PROMETHEUS, RULE_FILES, RULE_TESTS, needs_prometheus
from running import ROOT

RUNBOOK = ROOT / "docs" / "monitoring.md"


def _run(*command: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def _test_cases() -> list[dict[str, Any]]:
    return [
        case
        for file in RULE_TESTS
        for test in yaml.safe_load(file.read_text())["tests"]
        for case in test.get("alert_rule_test", [])
    ]


@needs_prometheus
@pytest.mark.parametrize(
    "command",
    [
        ["promtool", "check", "config", PROMETHEUS / "prometheus.yml"],
        ["promtool", "check", "rules", "--lint=all", "--lint-fatal", *RULE_FILES],
        ["promtool", "test", "rules", *RULE_TESTS],
        ["amtool", "check-config", PROMETHEUS / "alertmanager.yml"],
    ],
    ids=["configuration", "rules", "tests of the rules", "alertmanager"],
)
def test_prometheus_own_tools_find_nothing_wrong(command: list[str | Path]) -> None:
    ran = _run(*command)
    assert ran.returncode == 0, ran.stdout + ran.stderr


@needs_prometheus
@pytest.mark.parametrize("alert", ALERTS)
def test_an_alert_that_never_fires_is_noticed(alert: str, tmp_path: Path) -> None:
    assert not _passes_with(tmp_path, alert, expr="vector(0) > 1")


@needs_prometheus
@pytest.mark.parametrize("alert", [name for name, rule in ALERTS.items() if "for" in rule])
def test_an_alert_that_fires_at_once_is_noticed(alert: str, tmp_path: Path) -> None:
    assert not _passes_with(tmp_path, alert, **{"for": "0s"})


@pytest.mark.parametrize("alert", ALERTS)
def test_each_alert_is_tested_silent_before_and_after_it_fires(alert: str) -> None:
    fires = [bool(case.get("exp_alerts")) for case in _test_cases() if case["alertname"] == alert]
    assert re.search("0+1+0+", "".join(str(int(one)) for one in fires))


@pytest.mark.parametrize("alert", ALERTS)
def test_each_alert_says_how_bad_it_is_and_what_to_do(alert: str) -> None:
    rule = ALERTS[alert]
    assert rule["labels"]["severity"] in {"critical", "warning"}
    assert set(rule["annotations"]) == {"summary", "description", "runbook_url"}
    page, anchor = rule["annotations"]["runbook_url"].split("#")
    assert (ROOT / page, anchor) == (RUNBOOK, alert.lower())


def test_the_runbook_has_a_section_for_each_alert_and_for_no_other() -> None:
    sections = re.findall(r"^### (\w+)$", RUNBOOK.read_text(), re.MULTILINE)
    assert sections == list(ALERTS)


def _passes_with(folder: Path, alert: str, **changes: str) -> bool:
    """Whether the tests of an alert pass though it is changed."""
    copy = folder / "prometheus"
    shutil.copytree(PROMETHEUS, copy)
    file = copy / "rules" / "alerts.yml"
    rules = yaml.safe_load(file.read_text())
    for group in rules["groups"]:
        for rule in group["rules"]:
            if rule["alert"] == alert:
                rule.update(changes)
    file.write_text(yaml.safe_dump(rules))
    tests = [file for file in (copy / "tests").iterdir() if alert in file.read_text()]
    return _run("promtool", "test", "rules", *tests).returncode == 0
