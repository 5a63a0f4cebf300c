"""A report on the terminal: the answer to what was asked first, then what it rests on."""

from rich.box import SIMPLE_HEAD
from rich.console import Group, JustifyMethod, RenderableType
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from foldserve_client.load import words
from foldserve_client.load.report import Comparison, Latency, Report

PERCENTS = ("50", "90", "99", "99.9")
PERCENT_NAMES = tuple(f"p{percent}" for percent in PERCENTS)
MOST_DETAILS = 200
LEAST_WIDTH = 4


def report(found: Report) -> RenderableType:
    """All of it; of a comparison only the ratios and the failures, as its rounds are many."""
    shown: list[RenderableType] = []
    if found.comparison is not None:
        shown += [comparison(found.comparison), failures(found)]
    else:
        shown += [steps(found), failures(found), models(found), stages(found), parity(found)]
    if found.capacity is not None:
        shown.append(Text(f"capacity: {words.capacity(found.capacity)}", style="bold"))
    shown += [Text(f"warning: {warning}", style="yellow") for warning in words.warnings(found)]
    return Group(*(one for one in shown if not isinstance(one, Table) or one.row_count))


def steps(found: Report) -> Table:
    """A row for each step."""
    table = _table("latency in ms", "due\n/s", "answered\n/s", *PERCENT_NAMES, "max", "failed")
    for name, step in words.steps(found):
        table.add_row(
            name,
            words.rate(step.due_per_s),
            words.rate(step.answered_per_s),
            *_percentiles(step.latency),
            words.milliseconds(step.latency.max_ms),
            words.share(step.failed_share),
        )
    return table


def failures(found: Report) -> Table:
    """A row for each status code of a step that is none of success."""
    table = _table("failures", "code", "requests", "p50 ms", "the server said first")
    for name, step in words.steps(found):
        for code in step.codes:
            if code.name != "OK":
                details = escape(code.details[:MOST_DETAILS])
                table.add_row(name, code.name, str(code.count), words.milliseconds(code.p50_ms), details)
    return table


def models(found: Report) -> Table:
    """A row for each model of a mix."""
    table = _table("models, ms", "model", "request", "answered\n/s", *PERCENT_NAMES)
    for name, step in words.steps(found):
        for one in step.models if len(step.models) > 1 else ():
            size, rate = words.size(one.request_bytes), words.rate(one.answered_per_s)
            table.add_row(name, escape(one.model), size, rate, *_percentiles(one.latency))
    return table


def stages(found: Report) -> Table:
    """The server's view of each step, beside the client's mean."""
    columns = ("client", "server", "queue", "input", "infer", "output", "batch")
    table = _table("mean ms", *columns)
    for name, step in words.steps(found):
        if step.server is not None:
            table.add_row(
                name,
                words.milliseconds(step.latency.mean_ms),
                words.milliseconds(step.server.mean_ms),
                *(words.milliseconds(stage.mean_ms) for stage in step.server.stages),
                f"{step.server.mean_batch:.3g}",
            )
    return table


def parity(found: Report) -> Table:
    """How near each model stayed to its unfolded original."""
    table = _table("parity", "model", "answers", "checks", "at load", "in service", "top-1")
    for name, step in words.steps(found):
        for one in step.parity:
            table.add_row(
                name,
                f"{escape(one.model)} {one.version}",
                one.variant,
                words.checks(one),
                words.distance(one.at_load),
                words.distance(one.in_service),
                words.NONE if one.top1_agreement is None else words.share(one.top1_agreement),
            )
    return table


def comparison(found: Comparison) -> RenderableType:
    """The sides, then a row for each value."""
    table = _table("", "A", "B", "B / A [95 %]", "")
    for metric in found.metrics:
        table.add_row(
            metric.name,
            words.mean(metric.a),
            words.mean(metric.b),
            words.ratio(metric),
            words.outcome(metric),
        )
    a, b = found.sides
    said = f"A: {a}\nB: {b}\nmeans of {found.rounds} rounds in turn; ratios are taken by round"
    return Group(Text(said), table)


def _percentiles(latency: Latency) -> list[str]:
    return [words.milliseconds(latency.percentiles_ms.get(percent)) for percent in PERCENTS]


def _table(*columns: str) -> Table:
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    last = len(columns) - 1
    for number, column in enumerate(columns):
        side: JustifyMethod = "right" if number else "left"
        table.add_column(
            escape(column), overflow="fold", justify=side, no_wrap=number < last, min_width=LEAST_WIDTH
        )
    return table
