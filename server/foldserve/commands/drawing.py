"""A neighbourhood as an SVG picture, in layers from top to bottom (Sugiyama, Tagawa and Toda, 1981).

Each node is put one layer below the lowest node that it reads; an edge that skips layers is led through
them by points; each layer is ordered by the mean place of what its members are connected with. Colours are
those of the page: the picture only names classes.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from itertools import pairwise

from foldserve.commands.neighbourhood import Box, Neighbourhood

BOX_WIDTH, BOX_HEIGHT = 176, 44
POINT_WIDTH = 20
GAP, LAYER_GAP = 16, 30
MARGIN = 22
SWEEPS = 4
LONGEST_NAME = 26

Item = int | tuple[int, int, int]
"""A box by its index, or the point of an edge (from, to) in a layer."""


@dataclass
class _Layout:
    layers: list[list[Item]]
    chains: list[list[Item]]
    """Each edge as the items that it runs through."""

    centres: dict[Item, tuple[float, float]] = field(default_factory=dict)
    width: float = 0
    height: float = 0


def draw(neighbourhood: Neighbourhood, title: str) -> str:
    """The SVG element."""
    layout = _placed(neighbourhood)
    parts = [
        f'<svg class="graph" role="img" aria-label="{escape(title)}" '
        f'width="{layout.width:.0f}" height="{layout.height:.0f}" '
        f'viewBox="0 0 {layout.width:.0f} {layout.height:.0f}">'
    ]
    parts += [_edge([layout.centres[item] for item in chain], chain) for chain in layout.chains]
    parts += [_box(box, *layout.centres[index]) for index, box in enumerate(neighbourhood.boxes)]
    return "".join([*parts, "</svg>"])


def _placed(neighbourhood: Neighbourhood) -> _Layout:
    layout = _layered(len(neighbourhood.boxes), neighbourhood.edges)
    _order(layout)
    widths = [_width_of(layer) for layer in layout.layers]
    layout.width = max(widths) + 2 * MARGIN
    for depth, layer in enumerate(layout.layers):
        x = (layout.width - widths[depth]) / 2
        y = MARGIN + depth * (BOX_HEIGHT + LAYER_GAP) + BOX_HEIGHT / 2
        for item in layer:
            width = _item_width(item)
            layout.centres[item] = (x + width / 2, y)
            x += width + GAP
    layout.height = 2 * MARGIN + len(layout.layers) * (BOX_HEIGHT + LAYER_GAP) - LAYER_GAP
    return layout


def _layered(count: int, edges: Sequence[tuple[int, int]]) -> _Layout:
    """Boxes come in the order of the graph, so what a box reads has its layer before the box gets one."""
    depths = [0] * count
    for source, target in sorted(edges, key=lambda edge: edge[1]):
        depths[target] = max(depths[target], depths[source] + 1)
    layers: list[list[Item]] = [[] for _ in range(max(depths) + 1)]
    for index, depth in enumerate(depths):
        layers[depth].append(index)
    chains: list[list[Item]] = []
    for source, target in edges:
        points: list[Item] = [(source, target, depth) for depth in range(depths[source] + 1, depths[target])]
        for depth, point in enumerate(points, depths[source] + 1):
            layers[depth].append(point)
        chains.append([source, *points, target])
    return _Layout(layers, chains)


def _order(layout: _Layout) -> None:
    above, below = defaultdict[Item, list[Item]](list), defaultdict[Item, list[Item]](list)
    for chain in layout.chains:
        for upper, lower in pairwise(chain):
            above[lower].append(upper)
            below[upper].append(lower)
    for sweep in range(SWEEPS):
        downwards = sweep % 2 == 0
        for layer in layout.layers if downwards else reversed(layout.layers):
            _sort(layer, above if downwards else below, _places(layout.layers))


def _places(layers: Sequence[Sequence[Item]]) -> dict[Item, float]:
    """Where each item is in its layer, from 0 (left) to 1."""
    return {item: (place + 0.5) / len(layer) for layer in layers for place, item in enumerate(layer)}


def _sort(layer: list[Item], connected: Mapping[Item, Sequence[Item]], places: Mapping[Item, float]) -> None:
    layer.sort(key=lambda item: _mean([places[near] for near in connected[item]], places[item]))


def _mean(places: Sequence[float], default: float) -> float:
    return sum(places) / len(places) if places else default


def _item_width(item: Item) -> int:
    return BOX_WIDTH if isinstance(item, int) else POINT_WIDTH


def _width_of(layer: Sequence[Item]) -> int:
    return sum(_item_width(item) for item in layer) + GAP * (len(layer) - 1)


def _edge(points: Sequence[tuple[float, float]], chain: Sequence[Item]) -> str:
    x, y = points[0]
    path = [f"M{x:.0f} {y + BOX_HEIGHT / 2:.0f}"]
    y += BOX_HEIGHT / 2
    for (next_x, centre), item in zip(points[1:], chain[1:], strict=True):
        top = centre - BOX_HEIGHT / 2
        middle = (y + top) / 2
        path.append(f"C{x:.0f} {middle:.0f} {next_x:.0f} {middle:.0f} {next_x:.0f} {top:.0f}")
        x, y = next_x, top
        if not isinstance(item, int):  # straight past the boxes of this layer
            y = top + BOX_HEIGHT
            path.append(f"V{y:.0f}")
    tip = f"M{x - 4:.0f} {y - 6:.0f}L{x:.0f} {y:.0f}L{x + 4:.0f} {y - 6:.0f}"
    return f'<path class="edge" d="{"".join(path)}{tip}"/>'


def _box(box: Box, x: float, y: float) -> str:
    left, top, bottom = x - BOX_WIDTH / 2, y - BOX_HEIGHT / 2, y + BOX_HEIGHT / 2
    name = box.name if len(box.name) <= LONGEST_NAME else f"…{box.name[1 - LONGEST_NAME :]}"
    weight = f' <tspan class="weight">{escape(box.weight)}</tspan>' if box.weight else ""
    stubs = ""
    if box.continues_up:
        stubs += f'<path class="stub" d="M{x:.0f} {top:.0f}v-16"/>'
    if box.continues_down:
        stubs += f'<path class="stub" d="M{x:.0f} {bottom:.0f}v16"/>'
    return (
        f'<g class="box {box.role}"><title>{escape(box.name)}</title>{stubs}'
        f'<rect x="{left:.0f}" y="{top:.0f}" width="{BOX_WIDTH}" height="{BOX_HEIGHT}" rx="7"/>'
        f'<text x="{x:.0f}" y="{y - 3:.0f}">{escape(box.operator)}{weight}</text>'
        f'<text class="name" x="{x:.0f}" y="{y + 14:.0f}">{escape(name)}</text></g>'
    )
