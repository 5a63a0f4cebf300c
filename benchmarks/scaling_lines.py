"""The lines that are looked at for knees, and their picture, made from results/scaling_*.json."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from statistics import median
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator
from peer_tables import GREY, OUR_COLOUR, THEIR_COLOUR
from scaling_knee import Knee, growth, knee
from serving_harness import OURS, SYNC_ECHO

Result = dict[str, Any]
Rounds = Callable[[Result], list[float]]
"""The figure of each round at one point."""

LOOP = "session loop"
COLOURS = {OURS: OUR_COLOUR, SYNC_ECHO: THEIR_COLOUR, LOOP: GREY}
PAYLOAD, CALLERS, MODELS, ROWS = "bytes", "callers", "models", "rows"
ALONG = {
    PAYLOAD: "payload in each direction",
    CALLERS: "callers",
    MODELS: "models",
    ROWS: "rows in a request",
}
UNITS = ((1 << 20, "MB"), (1 << 10, "kB"))


@dataclass(frozen=True)
class Panel:
    """A figure over what grows, for each server that has it."""

    result: str
    along: str
    """The key of the points' x."""

    title: str
    lines: Mapping[str, Rounds]

    def knee(self, name: str, result: Result) -> Knee | None:
        """The knee of a server's line."""
        return knee(*self.medians(name, result))

    def growth(self, name: str, result: Result) -> float:
        """Factor of a server's figure with each doubling, all along the line."""
        return growth(*self.medians(name, result))

    def medians(self, name: str, result: Result) -> tuple[list[float], list[float]]:
        """A server's line: x, and the medians of the rounds."""
        points = result["points"]
        return [point[self.along] for point in points], [median(self.lines[name](one)) for one in points]


def of(*keys: str) -> Rounds:
    """The figure under these keys of a point."""

    def rounds(point: Result) -> list[float]:
        for key in keys:
            point = point[key]
        values: list[float] = point["rounds"]
        return values

    return rounds


def per_row(*keys: str) -> Rounds:
    """The same, divided by the rows of a request."""

    def rounds(point: Result) -> list[float]:
        return [value / point[ROWS] for value in of(*keys)(point)]

    return rounds


def of_both(*keys: str, under: tuple[str, ...] = ()) -> dict[str, Rounds]:
    """The figure of foldserve and of the echo server."""
    return {server: of(*under, server, *keys) for server in (OURS, SYNC_ECHO)}


PANELS = (
    Panel("scaling_payload", PAYLOAD, "CPU per request, ms", of_both("cpu_ms", under=("many_callers",))),
    Panel("scaling_payload", PAYLOAD, "p50 of one caller, ms", of_both("p50_ms", under=("one_caller",))),
    Panel("scaling_concurrency", CALLERS, "requests/s", of_both("requests_per_s")),
    Panel("scaling_concurrency", CALLERS, "p50, ms", of_both("p50_ms")),
    Panel("scaling_models", MODELS, "CPU per request, ms", of_both("cpu_ms")),
    Panel(
        "scaling_rows",
        ROWS,
        "CPU per row, ms",
        {
            name: per_row(key, "cpu_ms")
            for name, key in ((OURS, OURS), (SYNC_ECHO, SYNC_ECHO), (LOOP, "loop"))
        },
    ),
)


def size(value: float, along: str) -> str:
    """A value of x for people."""
    if along == PAYLOAD:
        for unit, name in UNITS:
            if value >= unit:
                return f"{value / unit:.0f} {name}"
    return f"{value:.0f}"


def picture(results: Mapping[str, Result]) -> Figure:
    """Every panel whose result there is: medians, the range of the rounds, and a dotted line at our knee."""
    panels = [panel for panel in PANELS if panel.result in results]
    with mpl.rc_context(
        {"text.color": GREY, "axes.labelcolor": GREY, "xtick.color": GREY, "ytick.color": GREY}
    ):
        figure = Figure(figsize=(9, 3 * -(-len(panels) // 3)), layout="constrained", facecolor="none")
        axes = figure.subplots(-(-len(panels) // 3), 3, squeeze=False).ravel()
        for axis, panel in zip(axes, panels, strict=False):
            _draw(axis, panel, results[panel.result])
        for axis in axes[len(panels) :]:
            axis.set_visible(False)
        named: dict[str, Any] = {}
        for axis in axes:
            lines, names = axis.get_legend_handles_labels()
            named |= dict(zip(names, lines, strict=True))
        figure.legend(named.values(), named.keys(), loc="outside lower center", ncols=3, frameon=False)
    return figure


def _draw(axis: Axes, panel: Panel, result: Result) -> None:
    x = [point[panel.along] for point in result["points"]]
    for name, rounds in panel.lines.items():
        values = [rounds(point) for point in result["points"]]
        axis.plot(x, list(map(median, values)), marker=".", color=COLOURS[name], label=name)
        axis.fill_between(x, list(map(min, values)), list(map(max, values)), color=COLOURS[name], alpha=0.2)
    if found := panel.knee(OURS, result):
        axis.axvline(found.at, color=OUR_COLOUR, linestyle=":")
    axis.set_xscale("log", base=2)
    axis.set_yscale("log")
    axis.set_xticks(
        x, [size(value, panel.along) for value in x], rotation=45, fontsize="x-small", minor=False
    )
    axis.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.yaxis.set_major_formatter("{x:g}")
    axis.minorticks_off()
    axis.tick_params(axis="y", labelsize="x-small")
    axis.set_xlabel(ALONG[panel.along], fontsize="small")
    axis.set_title(panel.title, fontsize="small", color=GREY)
    axis.set_facecolor("none")
    for side, spine in axis.spines.items():
        spine.set_visible(side in ("left", "bottom"))
        spine.set_color(GREY)
