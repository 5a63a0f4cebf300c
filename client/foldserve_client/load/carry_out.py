"""From what was asked for on the command line to the report, on the terminal and in files."""

import re
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from datetime import datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import typer
from rich.console import Console

from foldserve_client.errors import ClientError
from foldserve_client.load import display, files, runs
from foldserve_client.load.errors import LoadTestError
from foldserve_client.load.levels import Loop, Step, parse_levels, steps
from foldserve_client.load.live import Live, Watcher
from foldserve_client.load.mix import Share, parse_share
from foldserve_client.load.order import Order
from foldserve_client.load.report import Report
from foldserve_client.load.sides import Effort, Inputs, Side
from foldserve_client.load.target import Target
from foldserve_client.options import Connecting

DURATION_S = 10.0
FIRST_RATE = "10"
LEAST_TARGETS = 10
LEAST_WAIT = 2
"""A search's steps must last so many times the target, and so long that a rate which is above the capacity by
the precision makes the last requests wait for so many times the target: a queue that grows has to show."""

INTERRUPTED = 130
SIDE = re.compile(r"((?P<address>[^/=]+:\d+)(/|$))?(?P<model>.+)?")
SIZES = re.compile(r"(?P<input>[^=]+)=(?P<sizes>\d+(,\d+)*)")


def carry_out(connecting: Connecting, order: Order) -> int:
    """Do it; returns the exit code."""
    try:
        report = _report(connecting, order)
    except (LoadTestError, ClientError) as error:
        typer.secho(f"{error}", fg=typer.colors.RED, err=True)
        return 1
    except KeyboardInterrupt:
        typer.secho("interrupted: nothing is reported", err=True)
        return INTERRUPTED
    Console().print(display.report(report))
    written = [_written(report, file, write) for file, write in _files(order)]
    return 0 if report.answered and all(written) else 1


def plan(order: Order) -> list[Step]:
    """The steps that were asked for; raises typer.BadParameter for options that do not go together."""
    for file, _ in _files(order):
        _check_writable(file)
    loop = Loop.CLOSED if order.rate is None and not order.find_capacity else Loop.CONSTANT
    if order.poisson:
        _require(loop is not Loop.CLOSED, "--poisson is for --rate: callers send when they are answered")
        loop = Loop.POISSON
    _require(order.callers is None or not order.find_capacity, "--find-capacity takes --rate, not --callers")
    _require(order.callers is None or loop is Loop.CLOSED, "--callers and --rate exclude each other")
    _require(order.find_capacity or order.target_p99_ms is None, "--target-p99 goes with --find-capacity")
    duration_s = order.duration_s
    if duration_s is None and order.requests is None:
        duration_s = DURATION_S
    text = order.rate or order.callers or (FIRST_RATE if order.find_capacity else "1")
    try:
        found = steps(parse_levels(text, loop), loop, order.warm_up_s, duration_s, order.requests)
    except LoadTestError as error:
        raise typer.BadParameter(str(error)) from None
    one = len(found) == 1 and found[0].level.start == found[0].level.end
    if order.find_capacity:
        _require(order.target_p99_ms is not None, "--find-capacity needs --target-p99")
        _require(order.requests is None, "--find-capacity takes --duration, not --requests")
        targets = max(LEAST_TARGETS, LEAST_WAIT / order.precision)
        least_s = targets * (order.target_p99_ms or 0) / 1e3
        _require(
            found[0].duration_s >= least_s,
            f"--find-capacity needs a --duration of {least_s:g} s at least: {targets:g} times --target-p99, "
            "for a queue that grows to show",
        )
        _require(one, "--find-capacity begins at one --rate")
        _require(order.compare is None, "--find-capacity and --compare exclude each other")
    if order.compare is not None:
        _require(one, "--compare takes one level of load")
    return found


def parse_side(
    text: str, addresses: str | tuple[str, ...], shares: Sequence[Share]
) -> tuple[str | tuple[str, ...], list[Share]]:
    """Address and models of ``ADDRESS``, ``MODEL`` or ``ADDRESS/MODEL``; what is left out is as elsewhere."""
    found = SIDE.fullmatch(text)
    own, model = (found["address"], found["model"]) if found else (None, None)
    return own or addresses, [parse_share(model)] if model else list(shares)


def parse_shapes(texts: Sequence[str]) -> dict[str, tuple[int, ...]]:
    """Sizes by input, from ``INPUT=1,3,224,224``; raises LoadTestError."""
    shapes = {}
    for text in texts:
        found = SIZES.fullmatch(text)
        if found is None:
            raise LoadTestError(
                f"--shape '{text}' is none: give the input and all its sizes, images=1,3,224,224"
            )
        shapes[found["input"]] = tuple(map(int, found["sizes"].split(",")))
    return shapes


def parse_data(texts: Sequence[str], models: Sequence[str]) -> dict[str, Path]:
    """Paths by model, from ``PATH`` (for all models: the empty name) or ``MODEL=PATH``."""
    paths = {}
    for text in texts:
        model, equals, path = text.partition("=")
        named = bool(equals) and model in models
        paths[model if named else ""] = Path(path if named else text)
    return paths


def _report(connecting: Connecting, order: Order) -> Report:
    planned = plan(order)
    target = _target(connecting)
    wanted = _wanted(order, target)
    models = [share.model for _, shares in wanted for share in shares]
    inputs = Inputs(order.rows, parse_shapes(order.shapes), parse_data(order.data, models))
    effort = Effort(order.processes, order.connections, connecting.timeout)
    urls = order.metrics_urls or (None,) * len(wanted)
    _require(len(urls) == len(wanted), f"--metrics-url goes here {len(wanted)} times, or not at all")
    with ExitStack() as stack:
        sides = [
            stack.enter_context(Side(own, shares, inputs, effort, url))
            for (own, shares), url in zip(wanted, urls, strict=True)
        ]
        found = _measure(order, planned, sides, stack.enter_context(Live()))
    return Report(
        created=datetime.now().astimezone().isoformat(timespec="seconds"),
        addresses=tuple(dict.fromkeys(str(side.target) for side in sides)),
        servers=tuple(dict.fromkeys(side.server for side in sides)),
        shares=tuple(dict.fromkeys(share for side in sides for share in side.shares)),
        rows=order.rows,
        data=", ".join(order.data) or "random",
        generator=f"foldserve-client {version('foldserve-client')}, grpcio {version('grpcio')}",
        **found,
    )


def _wanted(order: Order, target: Target) -> list[tuple[Target, list[Share]]]:
    """Whom to ask for what: one server, or the two sides of a comparison."""
    shares = [parse_share(text) for text in order.models]
    if order.compare is None:
        _require(bool(shares), "name a model to ask for")
        return [(target, shares)]
    parsed = [parse_side(text, target.addresses, shares) for text in order.compare]
    _require(all(own for _, own in parsed), "--compare of two addresses needs a model to ask for")
    return [(replace(target, addresses=address), own) for address, own in parsed]


def _measure(order: Order, planned: list[Step], sides: Sequence[Side], watcher: Watcher) -> dict[str, Any]:
    """What the report says of the measurement, by the names of its fields."""
    if order.compare is not None:
        results, comparison = runs.compare(
            (sides[0], sides[1]), order.compare, planned[0], order.rounds, watcher
        )
        return {"kind": "comparison", "steps": tuple(results), "comparison": comparison}
    if order.target_p99_ms is not None and order.find_capacity:
        goal = runs.Goal(order.target_p99_ms, order.most_failed, order.precision)
        results, capacity = runs.find_capacity(sides[0], planned[0], goal, watcher)
        return {"kind": "capacity", "steps": tuple(results), "capacity": capacity}
    return {"kind": "run", "steps": tuple(runs.run(sides[0], planned, watcher))}


def _files(order: Order) -> list[tuple[Path, Callable[[Report, Path], None]]]:
    """The files that were asked for, and how each is written."""
    formats = ((order.json, files.write_json), (order.csv, files.write_csv), (order.html, files.write_html))
    return [(file, write) for file, write in formats if file is not None]


def _check_writable(file: Path) -> None:
    """Before the load: what was measured in an hour should not be lost to a wrong path."""
    _require(file.parent.is_dir(), f"{file}: there is no such folder")
    try:
        is_new = not file.exists()
        file.open("ab").close()
    except OSError as error:
        raise typer.BadParameter(f"{file} cannot be written: {error.strerror}") from None
    if is_new:
        file.unlink()


def _written(report: Report, file: Path, write: Callable[[Report, Path], None]) -> bool:
    """Whether a file could be written; the others still are where it could not."""
    try:
        write(report, file)
    except OSError as error:
        typer.secho(f"{file} is not written: {error.strerror}", fg=typer.colors.RED, err=True)
        return False
    return True


def _target(connecting: Connecting) -> Target:
    """The server that the options name, and how it lets us in."""
    try:
        return Target(connecting.addresses(), *connecting.credentials(), connecting.compressing())
    except (OSError, ValueError) as error:
        raise typer.BadParameter(str(error)) from None


def _require(condition: bool, otherwise: str) -> None:
    if not condition:
        raise typer.BadParameter(otherwise)
