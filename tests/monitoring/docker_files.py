"""What docker/ gives Prometheus and Grafana, read as they read it."""

import json
import re
import shutil
from collections.abc import Iterator
from typing import Any

import pytest
import yaml
from running import ROOT

PROMETHEUS = ROOT / "docker" / "prometheus"
GRAFANA = ROOT / "docker" / "grafana"
RULE_FILES = sorted((PROMETHEUS / "rules").glob("*.yml"))
RULE_TESTS = sorted((PROMETHEUS / "tests").glob("*.yml"))

RULES: list[dict[str, Any]] = [
    rule
    for file in RULE_FILES
    for group in yaml.safe_load(file.read_text())["groups"]
    for rule in group["rules"]
]
ALERTS = {rule["alert"]: rule for rule in RULES if "alert" in rule}
RECORDED = [rule["record"] for rule in RULES if "record" in rule]

DASHBOARD: dict[str, Any] = json.loads((GRAFANA / "dashboards" / "foldserve.json").read_text())
PANELS = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]

VARIABLES = {"$__rate_interval": "30s"} | {
    f"${variable['name']}": variable["allValue"]
    for variable in DASHBOARD["templating"]["list"]
    if "allValue" in variable
}
"""What Grafana puts in their place where everything is shown."""

needs_prometheus = pytest.mark.skipif(
    not all(map(shutil.which, ("prometheus", "promtool", "prometheus-alertmanager", "amtool"))),
    reason="no Prometheus: apt-get install prometheus prometheus-alertmanager",
)


def dashboard_queries() -> Iterator[tuple[str, str]]:
    """The expression of every panel and annotation as Grafana sends it, with a name for it."""
    for panel in PANELS:
        for target in panel["targets"]:
            yield f"{panel['title']} {target['refId']}", _with_values(target["expr"])
    for annotation in DASHBOARD["annotations"]["list"]:
        if "expr" in annotation:
            yield annotation["name"], annotation["expr"]


def metrics_in(expression: str) -> set[str]:
    """Names of the server's metrics that an expression reads."""
    without_texts = re.sub(r'"[^"]*"', "", expression)
    return set(re.findall(r"(?<![\w:])(?:foldserve|process|python)_\w+(?![\w:])", without_texts))


def recorded_in(expression: str) -> set[str]:
    """Names of recorded series that an expression reads."""
    return set(re.findall(r"\w+(?::\w+)+", re.sub(r'"[^"]*"', "", expression)))


def _with_values(expression: str) -> str:
    for variable, value in VARIABLES.items():
        expression = expression.replace(variable, value)
    assert "$" not in expression, expression
    return expression
