"""Numbers as pictures: SVG that is stretched to the width of the page, so its texts are HTML beside it.

Every axis of values is logarithmic. Nothing is told by colour alone: what breaks a budget stands on a stem
that begins at the budget's line.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from markupsafe import Markup

WIDTH, HEIGHT = 1000.0, 200.0
BAR = Markup(
    '<rect class="bar" x="{:.1f}" y="{:.1f}" width="{:.1f}" height="{:.1f}"><title>{}</title></rect>'
)
DOT = "h0"
"""A line without length: with round ends a dot, which no stretching makes an ellipse."""


@dataclass(frozen=True)
class Tick:
    """A labelled place on an axis, in per cent from the top."""

    label: str
    top: float


@dataclass(frozen=True)
class Line:
    """A dashed line across a picture: its name, and where it is."""

    name: str
    value: float


@dataclass(frozen=True)
class Picture:
    """A picture and what belongs beside it."""

    svg: Markup
    ticks: tuple[Tick, ...]
    line: Line | None


class _Decades:
    """A logarithmic axis over whole decades; what is infinite or zero sticks to its end."""

    def __init__(self, values: Iterable[float]) -> None:
        logs = [math.log10(value) for value in values if 0 < value < math.inf]
        self._low = math.floor(min(logs, default=-1))
        self._high = max(math.floor(max(logs, default=0)) + 1, self._low + 1)

    def height(self, value: float) -> float:
        """From 0, the lower end, to 1."""
        if value <= 0:
            return 0.0
        share = (math.log10(value) - self._low) / (self._high - self._low) if value < math.inf else 1.0
        return min(max(share, 0.0), 1.0)

    def y(self, value: float) -> float:
        return HEIGHT * (1 - self.height(value))

    def ticks(self) -> tuple[Tick, ...]:
        """Four at most: a label for each would not fit."""
        step = math.ceil((self._high - self._low) / 4)
        decades = range(self._low, self._high + 1, step)
        return tuple(Tick(power_of_ten(decade), 100 * (1 - self.height(10.0**decade))) for decade in decades)


def power_of_ten(exponent: int) -> str:
    """Such as ``0.01``, ``100`` or ``1e-7``."""
    return f"{10.0**exponent:g}" if -3 <= exponent <= 4 else f"1e{exponent}"


def over_time(points: Sequence[tuple[float, float]], until: float, limit: float, title: str) -> Picture:
    """Values, each at its moment, in front of a limit; the last moment is ``until``."""
    axis = _Decades([limit, *(value for _, value in points)])
    since = min([moment for moment, _ in points], default=until)
    span = max(until - since, 1.0)
    kept, broken, stems = [], [], []
    for moment, value in points:
        x, y = WIDTH * (0.01 + 0.98 * (moment - since) / span), axis.y(value)
        place = f"M{x:.1f} {y:.1f}"
        if value <= limit:
            kept.append(place + DOT)
        else:
            broken.append(place + DOT)
            stems.append(f"{place}V{axis.y(limit):.1f}")
    parts = [
        _path("grid", [f"M0 {HEIGHT * tick.top / 100:.1f}H{WIDTH:.0f}" for tick in axis.ticks()]),
        _path("limit", [f"M0 {axis.y(limit):.1f}H{WIDTH:.0f}"]),
        _path("stem", stems),
        _path("dot", kept),
        _path("dot broken", broken),
    ]
    return Picture(_svg(title, parts), axis.ticks(), Line("budget", limit))


def bars(values: Sequence[tuple[str, float]], limit: float | None, title: str) -> Picture:
    """One bar for each named value, in front of a line that they are compared with."""
    axis = _Decades([*(value for _, value in values), *([limit] if limit else [])])
    room = WIDTH / max(len(values), 1)
    parts = [_path("grid", [f"M0 {HEIGHT * tick.top / 100:.1f}H{WIDTH:.0f}" for tick in axis.ticks()])]
    for index, (name, value) in enumerate(values):
        y = min(axis.y(value), HEIGHT - 1)
        parts.append(BAR.format((index + 0.1) * room, y, 0.8 * room, HEIGHT - y, f"{name}: {value:.3g}"))
    line = Line("baseline", limit) if limit else None
    if limit:
        parts.append(_path("limit", [f"M0 {axis.y(limit):.1f}H{WIDTH:.0f}"]))
    return Picture(_svg(title, parts), axis.ticks(), line)


def _path(name: str, steps: Sequence[str]) -> Markup:
    return Markup('<path class="{}" d="{}"/>').format(name, "".join(steps)) if steps else Markup()


def _svg(title: str, parts: Iterable[Markup]) -> Markup:
    head = Markup(
        '<svg class="plot" role="img" aria-label="{}" viewBox="0 0 {:.0f} {:.0f}" preserveAspectRatio="none">'
    ).format(title, WIDTH, HEIGHT)
    return head + Markup().join(parts) + Markup("</svg>")
