"""The Grafana dashboard: that it is whole, and that it asks Prometheus what Prometheus understands."""

import subprocess
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
import yaml
from monitoring.docker_files import (
    DASHBOARD,
    GRAFANA,
    PANELS,
    RECORDED,
    RULES,
    dashboard_queries,
    metrics_in,
    needs_prometheus,
    recorded_in,
)
from readme_tables import own_metrics
from running import ROOT

EXPRESSIONS = [(name, query) for name, query in dashboard_queries()] + [
    (rule.get("alert") or rule["record"], rule["expr"]) for rule in RULES
]
SAMPLES = {"counter": ["_total"], "histogram": ["_bucket", "_sum", "_count"], "gauge": [""]}
OF_THE_PROCESS = {
    "process_cpu_seconds_total",
    "process_resident_memory_bytes",
    "process_open_fds",
    "process_max_fds",
}


def test_panels_have_ids_of_their_own() -> None:
    ids = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(set(ids)) == len(ids)


def test_panels_lie_side_by_side_within_the_width() -> None:
    places = [panel["gridPos"] for panel in DASHBOARD["panels"]]
    assert all(place["x"] + place["w"] <= 24 for place in places)
    for one, other in combinations(places, 2):
        assert not (_overlap(one, other, "x", "w") and _overlap(one, other, "y", "h")), (one, other)


def _overlap(one: dict[str, int], other: dict[str, int], edge: str, size: str) -> bool:
    return one[edge] < other[edge] + other[size] and other[edge] < one[edge] + one[size]


@pytest.mark.parametrize("panel", PANELS, ids=lambda panel: panel["title"])
def test_each_panel_says_what_it_shows(panel: dict[str, Any]) -> None:
    assert panel["description"]
    if panel["type"] in {"stat", "timeseries", "bargauge"}:
        assert panel["fieldConfig"]["defaults"]["unit"]
    for target in panel["targets"]:
        assert "$model" in target["expr"] or metrics_in(target["expr"]) <= {
            *OF_THE_PROCESS,
            "foldserve_build_info",
            "foldserve_shadow_cpu_seconds_total",
        }, "a panel about models shows those that are chosen"


def test_what_grafana_is_given_fits_together() -> None:
    provisioned = yaml.safe_load((GRAFANA / "provisioning/datasources/prometheus.yml").read_text())
    (source,) = provisioned["datasources"]
    chosen = next(one for one in DASHBOARD["templating"]["list"] if one["type"] == "datasource")
    assert chosen["current"] == {"text": source["name"], "value": source["uid"]}
    assert chosen["query"] == source["type"] == "prometheus"
    prometheus = yaml.safe_load((ROOT / "docker/prometheus/prometheus.yml").read_text())
    assert source["jsonData"]["timeInterval"] == prometheus["global"]["scrape_interval"]
    variable = {"type": "prometheus", "uid": "${datasource}"}
    assert all(panel["datasource"] == variable for panel in PANELS)


@needs_prometheus
def test_prometheus_understands_every_expression(tmp_path: Path) -> None:
    rules = [{"record": f"expression_{index}", "expr": query} for index, (_, query) in enumerate(EXPRESSIONS)]
    file = tmp_path / "expressions.yml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "all", "rules": rules}]}))
    ran = subprocess.run(
        ["promtool", "check", "rules", file], capture_output=True, text=True, timeout=60, check=False
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr


@pytest.mark.parametrize(("name", "expression"), EXPRESSIONS, ids=[name for name, _ in EXPRESSIONS])
def test_expressions_read_only_what_there_is(name: str, expression: str) -> None:
    ours = {metric.name + suffix for metric, _ in own_metrics() for suffix in SAMPLES[metric.type]}
    assert metrics_in(expression) <= ours | OF_THE_PROCESS
    assert recorded_in(expression) <= set(RECORDED)
    assert metrics_in(expression) | recorded_in(expression) or "ALERTS" in expression or "up{" in expression
