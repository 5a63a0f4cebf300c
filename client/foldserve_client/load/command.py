"""The options of ``foldserve-client load``; what it needs is imported when it runs."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from foldserve_client.load.order import Order
from foldserve_client.options import Connecting, connected

TIMEOUT_S = 10.0
EXTRA = {"hdrh", "jinja2", "markupsafe", "prometheus_client", "pydantic", "rich"}
"""What the extra ``load`` installs."""


def _option(panel: str, *flags: str) -> Callable[..., Any]:
    """Options of one panel of the help."""

    def option(help_text: str, metavar: str | None = None, **more: Any) -> Any:
        return typer.Option(*flags, metavar=metavar, help=help_text, rich_help_panel=panel, **more)

    return option


LOAD, REQUESTS, GOAL, OUTPUT = "Load", "Requests", "Capacity and comparison", "Output"
_load, _request, _goal, _output = map(_option, (LOAD, REQUESTS, GOAL, OUTPUT))


def register(app: typer.Typer) -> None:
    """Make :func:`load` one of an app's commands."""
    connected(app, timeout_s=TIMEOUT_S)(load)


def load(
    connecting: Connecting,
    models: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="MODEL[/VERSION][=WEIGHT]", help="What to ask for; several share the load by weight."
        ),
    ] = None,
    *,
    callers: Annotated[
        str | None,
        _load(
            "Callers that ask again as soon as they are answered: 16, steps 1,4,16, a ramp 1..64.", "LEVELS"
        ),
    ] = None,
    rate: Annotated[
        str | None,
        _load("Requests per second, whatever the server does: 500, steps 100,200, a ramp 1..2000.", "LEVELS"),
    ] = None,
    poisson: Annotated[
        bool, _option(LOAD, "--poisson")("Send them at random times instead of evenly.")
    ] = False,
    duration: Annotated[
        float | None, _load("Of each step; 10 unless --requests is given.", "SECONDS", min=0.1)
    ] = None,
    requests: Annotated[int | None, _load("Most requests of each step.", "NUMBER", min=1)] = None,
    warm_up: Annotated[float, _load("Before each step, at its load; not counted.", "SECONDS", min=0.0)] = 1.0,
    processes: Annotated[int, _load("Processes that send.", "NUMBER", min=1, max=256)] = 1,
    connections: Annotated[int, _load("Connections of each process.", "NUMBER", min=1, max=1024)] = 1,
    find_capacity: Annotated[
        bool,
        _option(GOAL, "--find-capacity")(
            "Search the highest rate with a p99 within --target-p99, from --rate (10) on."
        ),
    ] = False,
    target_p99: Annotated[
        float | None, _goal("Of --find-capacity, in milliseconds.", "MS", min=0.001)
    ] = None,
    most_failed: Annotated[
        float, _goal("Of the requests, that --find-capacity lets fail.", "SHARE", min=0.0, max=1.0)
    ] = 0.001,
    precision: Annotated[float, _goal("How near --find-capacity comes.", "SHARE", min=0.001, max=1.0)] = 0.05,
    compare: Annotated[
        tuple[str, str] | None,
        _goal("Measure two sides in turn; each is ADDRESS, MODEL or ADDRESS/MODEL.", "A B"),
    ] = None,
    rounds: Annotated[int, _goal("Of --compare.", "NUMBER", min=2, max=1000)] = 5,
    data: Annotated[
        list[str] | None,
        _request("Inputs: .npz, .npy, an image or a folder of images; else random ones.", "[MODEL=]PATH"),
    ] = None,
    rows: Annotated[
        int, _request("Rows of each request, where the model takes any number.", "NUMBER", min=1)
    ] = 1,
    shape: Annotated[
        list[str] | None,
        _request("Whole shape of an input whose other dimensions are dynamic, too.", "INPUT=1,3,224,224"),
    ] = None,
    metrics_url: Annotated[
        list[str] | None,
        _request("The server's /metrics, else looked for at port 8002; with --compare A's, then B's.", "URL"),
    ] = None,
    json: Annotated[Path | None, _output("Write everything as JSON.", "FILE", dir_okay=False)] = None,
    csv: Annotated[Path | None, _output("Write a row for each step as CSV.", "FILE", dir_okay=False)] = None,
    html: Annotated[Path | None, _output("Write a page with plots.", "FILE", dir_okay=False)] = None,
) -> None:
    """Put a server under load and tell what it does: any server of KServe V2 over gRPC.

    Exits with 1 where nothing was answered. docs/load-testing.md has recipes.
    """
    order = Order(
        models=tuple(models or ()),
        callers=callers,
        rate=rate,
        poisson=poisson,
        duration_s=duration,
        requests=requests,
        warm_up_s=warm_up,
        find_capacity=find_capacity,
        target_p99_ms=target_p99,
        most_failed=most_failed,
        precision=precision,
        compare=compare,
        rounds=rounds,
        rows=rows,
        shapes=tuple(shape or ()),
        data=tuple(data or ()),
        metrics_urls=tuple(metrics_url or ()),
        processes=processes,
        connections=connections,
        json=json,
        csv=csv,
        html=html,
    )
    try:
        from foldserve_client.load.carry_out import carry_out  # noqa: PLC0415 - needs the extra
    except ModuleNotFoundError as error:
        if error.name not in EXTRA:
            raise
        sys.exit(f"{error.name} is missing: pip install 'foldserve-client[load]'")
    raise typer.Exit(carry_out(connecting, order))
