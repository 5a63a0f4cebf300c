"""Plots as SVG that is stretched to its place on the page, so its texts are HTML beside it.

Series differ in colour and in dash, and points say what they are when pointed at.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from foldserve_client.load.axes import Axis, Tick

WIDTH, HEIGHT = 1000.0, 300.0
MOST_DOTS = 40
"""Points of a series that are drawn as dots; more of them are a line alone."""

LABEL_ROOM = (0.06, 0.1)
"""Room of a point's label along both axes: a label nearer to another one is left out."""


@dataclass(frozen=True)
class Point:
    """A place in a plot, and what it says when pointed at."""

    x: float
    y: float
    says: str
    label: str = ""


@dataclass(frozen=True)
class Series:
    """Points in order, None where the line is interrupted."""

    name: str
    points: Sequence[Point | None]
    style: int
    """Number of its colour and dash."""


@dataclass(frozen=True)
class Label:
    """A text at a place in the plot, in per cent from the left and from the top."""

    text: str
    left: float
    top: float


@dataclass(frozen=True)
class Plot:
    """A picture and what belongs around it."""

    title: str
    svg: Markup
    x_name: str
    y_name: str
    x_ticks: list[Tick]
    y_ticks: list[Tick]
    legend: list[tuple[str, int]]
    labels: list[Label]


def plot(
    title: str,
    series: Sequence[Series],
    x: Axis,
    y: Axis,
    *,
    x_name: str,
    y_name: str,
    limit: tuple[str, float] | None = None,
    marks: Sequence[float] = (),
) -> Plot:
    """Series on two axes; ``limit`` is a dashed line across with its name, ``marks`` are lines upwards."""
    parts = [
        _path("grid", [f"M0 {_down(tick.place)}H{WIDTH:.0f}" for tick in y.ticks()]),
        _path("mark", [f"M{_right(x.place(mark))} 0V{HEIGHT:.0f}" for mark in marks]),
    ]
    if limit is not None:
        parts.append(_path("limit", [f"M0 {_down(y.place(limit[1]))}H{WIDTH:.0f}"]))
    labels: list[Label] = []
    for one in series:
        parts.append(_path(f"line s{one.style}", _line(one.points, x, y)))
        points = [point for point in one.points if point is not None]
        kind = f"dot s{one.style}" if len(points) <= MOST_DOTS else "hover"
        for point in points:
            place = (x.place(point.x), y.place(point.y))
            parts.append(
                Markup('<path class="{}" d="M{} {}h0"><title>{}</title></path>').format(
                    kind, _right(place[0]), _down(place[1]), point.says
                )
            )
            if point.label:
                _add_label(labels, point.label, place)
    head = Markup(
        '<svg class="plot" role="img" aria-label="{}" viewBox="0 0 {:.0f} {:.0f}" preserveAspectRatio="none">'
    ).format(title, WIDTH, HEIGHT)
    return Plot(
        title=title,
        svg=head + Markup().join(parts) + Markup("</svg>"),
        x_name=x_name,
        y_name=y_name,
        x_ticks=x.ticks(),
        y_ticks=y.ticks(),
        legend=[(one.name, one.style) for one in series] + ([(limit[0], -1)] if limit else []),
        labels=labels,
    )


def _line(points: Sequence[Point | None], x: Axis, y: Axis) -> list[str]:
    steps, drawing = [], False
    for point in points:
        if point is None:
            drawing = False
            continue
        steps.append(f"{'L' if drawing else 'M'}{_right(x.place(point.x))} {_down(y.place(point.y))}")
        drawing = True
    return steps


def _add_label(labels: list[Label], text: str, place: tuple[float, float]) -> None:
    left, top = 100 * place[0], 100 * (1 - place[1])
    across, down = LABEL_ROOM
    free = all(abs(label.left - left) > 100 * across or abs(label.top - top) > 100 * down for label in labels)
    if free:
        labels.append(Label(text, left, top))


def _right(place: float) -> str:
    return f"{WIDTH * place:.1f}"


def _down(place: float) -> str:
    return f"{HEIGHT * (1 - place):.1f}"


def _path(name: str, steps: Sequence[str]) -> Markup:
    return Markup('<path class="{}" d="{}"/>').format(name, "".join(steps)) if steps else Markup()
