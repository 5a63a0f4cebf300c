"""A report as one web page that needs no scripts and nothing from elsewhere; everything is escaped."""

from functools import cache
from math import log

from jinja2 import Environment, PackageLoader, StrictUndefined

from foldserve_client.load import pictures, words
from foldserve_client.load.report import Report

WIDEST = 2.0
"""A picture of ratios reaches from a half to two, or further where a ratio does."""


def page(report: Report) -> str:
    """The page of a report."""
    drawn = [
        pictures.against_load(report),
        pictures.percentiles(report),
        pictures.rounds(report),
        pictures.throughput(report),
        pictures.latency(report),
    ]
    return (
        _environment()
        .get_template("page.html.j2")
        .render(
            report=report,
            words=words,
            warnings=words.warnings(report),
            plots=[one for one in drawn if one is not None],
            bars=pictures.stages(report),
            reach=_reach(report),
            place=_place,
        )
    )


def _reach(report: Report) -> float:
    """How far the axis of ratios goes to both sides of 1."""
    ratios = [metric.ratio for metric in report.comparison.metrics] if report.comparison else []
    return max([WIDEST, *(max(found.high, 1 / found.low) for found in ratios if found)])


def _place(value: float, reach: float) -> float:
    """Where a ratio is on a logarithmic axis from 1 / reach to reach, in per cent."""
    return 50 + 50 * log(value) / log(reach)


@cache
def _environment() -> Environment:
    return Environment(
        loader=PackageLoader("foldserve_client.load", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
