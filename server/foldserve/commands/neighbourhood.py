"""The part of a graph around one fold site, before and after the fold: what a picture shows."""

from collections import deque
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from enum import StrEnum

import onnx_ir as ir

from foldserve.folding.report import FoldSite, Outcome

MOST_VISITED = 400
"""Nodes that the search for a way from a site to its absorbers looks at."""

MOST_SHOWN = 16
"""Nodes in one picture; those nearest to the site are taken."""


class Role(StrEnum):
    """What a node has to do with the fold."""

    SITE = "site"
    ABSORBER = "absorber"
    OTHER_SITE = "other"
    """An affine of another site, which folds as well."""

    CONTEXT = "context"


@dataclass(frozen=True)
class Box:
    """One node of the graph."""

    name: str
    operator: str
    weight: str
    """Shape of its weight, and whether it has a bias; empty where it has none."""

    role: Role
    continues_up: bool
    """Whether it reads something that is not shown."""

    continues_down: bool
    """Whether somebody who is not shown reads it."""


@dataclass(frozen=True)
class Neighbourhood:
    """Boxes in the order of the graph, and who reads whom, by index."""

    boxes: tuple[Box, ...]
    edges: tuple[tuple[int, int], ...]


class Graphs:
    """The original and the folded graph, in which nodes are found by their names."""

    def __init__(self, original: ir.Model, folded: ir.Model, sites: Iterable[FoldSite]) -> None:
        self._original = {node.name or "": node for node in original.graph.all_nodes()}
        self._folded = {node.name or "": node for node in folded.graph.all_nodes()}
        self._gone = {site.name for site in sites if site.outcome is Outcome.FOLDED}

    def around(self, site: FoldSite) -> tuple[Neighbourhood, Neighbourhood] | None:
        """The neighbourhood of ``site`` before and after; None if no node has its name."""
        centre = self._original.get(site.name)
        if centre is None:
            return None
        absorbers = [self._original[name] for name in site.absorbed_by if name in self._original]
        shown = _ways(centre, absorbers)
        for node in list(shown):
            if node is centre or node in absorbers or node.name in self._gone:
                shown |= dict.fromkeys(_neighbours(node))
        before = list(shown)[:MOST_SHOWN]
        names = {node.name for node in before}
        after = [self._folded[name] for name in names if name in self._folded]
        after += [node for node in _new_beside(after, self._original) if node not in after]
        return self._picture(before, self._original, site), self._picture(after, self._folded, site)

    def _picture(self, nodes: Collection[ir.Node], order: Iterable[str], site: FoldSite) -> Neighbourhood:
        rank = {name: index for index, name in enumerate(order)}
        ordered = sorted(nodes, key=lambda node: rank[node.name or ""])
        index = {node: position for position, node in enumerate(ordered)}
        edges = [
            (index[node], index[reader]) for node in ordered for reader in _readers(node) if reader in index
        ]
        boxes = [
            Box(
                name=node.name or "",
                operator=node.op_type,
                weight=_weight(node),
                role=self._role(node, site),
                continues_up=any(_computed(value, index) for value in node.inputs),
                continues_down=any(
                    value.is_graph_output() or any(reader not in index for reader in value.consumers())
                    for value in node.outputs
                ),
            )
            for node in ordered
        ]
        return Neighbourhood(tuple(boxes), tuple(dict.fromkeys(edges)))

    def _role(self, node: ir.Node, site: FoldSite) -> Role:
        if node.name == site.name:
            return Role.SITE
        if node.name in site.absorbed_by:
            return Role.ABSORBER
        return Role.OTHER_SITE if node.name in self._gone else Role.CONTEXT


def _ways(centre: ir.Node, targets: Collection[ir.Node]) -> dict[ir.Node, None]:
    """``centre`` and a shortest way from it to each of ``targets``, the nearest first."""
    came_from: dict[ir.Node, ir.Node | None] = {centre: None}
    queue = deque([centre])
    while queue and len(came_from) < MOST_VISITED:
        node = queue.popleft()
        for neighbour in _neighbours(node):
            if neighbour not in came_from:
                came_from[neighbour] = node
                queue.append(neighbour)
    ways: dict[ir.Node, None] = {centre: None}
    for target in targets:
        step = target if target in came_from else None
        while step is not None:
            ways[step] = None
            step = came_from[step]
    return ways


def _neighbours(node: ir.Node) -> Iterator[ir.Node]:
    for value in node.inputs:
        producer = value.producer() if value is not None else None
        if producer is not None and producer.op_type != "Constant":
            yield producer
    yield from _readers(node)


def _readers(node: ir.Node) -> Iterator[ir.Node]:
    for value in node.outputs:
        yield from value.consumers()


def _new_beside(nodes: Iterable[ir.Node], known: Collection[str]) -> list[ir.Node]:
    """The neighbours of ``nodes`` that the original does not have."""
    beside = (neighbour for node in nodes for neighbour in _neighbours(node))
    return list(dict.fromkeys(node for node in beside if node.name not in known))


def _computed(value: ir.Value | None, shown: Collection[ir.Node]) -> bool:
    """Whether a value is an input of the graph, or made by a node that is not shown."""
    if value is None or value.is_initializer():
        return False
    producer = value.producer()
    return producer is None or (producer.op_type != "Constant" and producer not in shown)


def _weight(node: ir.Node) -> str:
    if node.op_type not in {"Conv", "ConvTranspose", "Gemm", "MatMul"} or len(node.inputs) < 2:
        return ""
    weight = node.inputs[1]
    if weight is None or weight.const_value is None:
        return ""
    shape = "×".join(str(size) for size in weight.const_value.shape)
    return f"{shape} + bias" if len(node.inputs) > 2 and node.inputs[2] is not None else shape
