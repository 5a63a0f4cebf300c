"""A report in files, for programs (JSON, CSV) and for people (HTML)."""

import csv
from pathlib import Path

from foldserve_client.load.page import page
from foldserve_client.load.report import PERCENTS, Report

COLUMNS = (
    "step",
    "loop",
    "level_start",
    "level_end",
    "measured_s",
    "due_per_s",
    "answered_per_s",
    "failed_share",
    "mean_ms",
    *(f"p{percent:g}_ms" for percent in PERCENTS),
    "max_ms",
    "generator_cpu_share",
    "generator_lag_p99_ms",
    "server_mean_ms",
    "server_p99_ms",
)


def write_json(report: Report, file: Path) -> None:
    """Everything; :meth:`Report.model_validate_json` reads it."""
    file.write_text(report.model_dump_json(indent=1) + "\n")


def write_csv(report: Report, file: Path) -> None:
    """A row for each step; empty where there is no value."""
    with file.open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(COLUMNS)
        for number, step in enumerate(report.steps, 1):
            writer.writerow(
                [
                    number,
                    step.loop.value,
                    step.level.start,
                    step.level.end,
                    step.measured_s,
                    step.due_per_s,
                    step.answered_per_s,
                    step.failed_share,
                    step.latency.mean_ms,
                    *(step.latency.percentile_ms(percent) for percent in PERCENTS),
                    step.latency.max_ms,
                    max(step.generator.cpu_shares),
                    step.generator.lag_p99_ms,
                    *((step.server.mean_ms, step.server.p99_ms) if step.server else (None, None)),
                ]
            )


def write_html(report: Report, file: Path) -> None:
    """One page that needs nothing else."""
    file.write_text(page(report))
