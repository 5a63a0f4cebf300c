"""The web page: complete in itself, well formed, and with pictures that show what the fold did."""

import re
from collections import Counter
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from xml.etree import ElementTree

import onnx
import onnx_ir as ir
import pytest
from foldserve.commands.drawing import BOX_HEIGHT, BOX_WIDTH, draw
from foldserve.commands.neighbourhood import Box, Graphs, Neighbourhood, Role
from foldserve.folding import fold
from unit.commands.invoking import DIGITS, run
from unit.parity import networks

VOID = {"meta"}
SVG = re.compile(r"<svg.*?</svg>", re.DOTALL)


class _Balance(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert not {"src", "href", "onclick"} & {name for name, _ in attrs}, "the page must need nothing else"
        assert tag not in {"script", "link", "iframe"}
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def _page(model: Path, folder: Path) -> str:
    report = folder / "report.html"
    assert run("fold", model, "-o", folder / "folded.onnx", "--report", report).exit_code == 0
    return report.read_text()


def test_the_page_is_well_formed_and_needs_nothing_else(tmp_path: Path) -> None:
    page = _page(DIGITS, tmp_path)
    balance = _Balance()
    balance.feed(page)
    assert balance.open == []
    assert "url(" not in page
    assert "http" not in page
    assert "@import" not in page
    assert "prefers-color-scheme: dark" in page
    assert 'name="viewport"' in page


def test_the_page_tells_totals_sites_and_parity(tmp_path: Path) -> None:
    page = _page(DIGITS, tmp_path)
    for text in ("4 of 4", "17 → 13", "within budget", "features.0/Conv", "3.2 … 9.53", "parity here"):
        assert text in page
    pictures = [ElementTree.fromstring(svg) for svg in SVG.findall(page)]
    assert len(pictures) == 8
    labels = [Counter(text.text for text in picture.iter("text")) for picture in pictures]
    assert all("BatchNormalization" in before for before in labels[::2])
    assert not any("BatchNormalization" in after for after in labels[1::2])


def test_names_are_text_whatever_they_contain(tmp_path: Path) -> None:
    model = ir.load(DIGITS)
    evil = '</svg><script>alert("x")</script>'
    next(node for node in model.graph if node.op_type == "BatchNormalization").name = evil
    ir.save(model, tmp_path / "model.onnx")
    page = _page(tmp_path / "model.onnx", tmp_path)
    assert "<script" not in page
    assert "&lt;script&gt;alert" in page


def test_a_model_without_sites_has_a_page_too(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(networks.folded(networks.layers()))
    page = _page(tmp_path / "model.onnx", tmp_path)
    assert "no BatchNormalization found" in page
    assert "<svg" not in page


def _named(model: ir.Model) -> ir.Model:
    for node in model.graph:
        node.name = node.name or node.outputs[0].name
    return model


def test_a_neighbourhood_shows_the_site_its_absorber_and_who_is_beside_them() -> None:
    model = _named(ir.from_proto(onnx.load_from_string(networks.original(networks.layers()))))
    result = fold(model)
    site = result.report.sites[1]
    around = Graphs(model, result.model, result.report.sites).around(site)
    assert around is not None
    before, after = around
    assert {box.name: box.role for box in before.boxes} == {
        "r1": Role.CONTEXT,
        "c2": Role.ABSORBER,
        "n2": Role.SITE,
        "r2": Role.CONTEXT,
    }
    assert [(box.name, box.continues_up, box.continues_down) for box in before.boxes] == [
        ("r1", True, False),
        ("c2", False, False),
        ("n2", False, False),
        ("r2", False, True),
    ]
    assert before.edges == ((0, 1), (1, 2), (2, 3))
    assert [box.name for box in after.boxes] == ["r1", "c2", "r2"]
    assert after.edges == ((0, 1), (1, 2))
    assert after.boxes[1].weight == "8×8×3×3 + bias"


def test_a_site_that_no_node_is_named_after_has_no_picture() -> None:
    model = ir.from_proto(onnx.load_from_string(networks.original(networks.layers())))
    result = fold(model)
    assert Graphs(model, result.model, result.report.sites).around(result.report.sites[0]) is None


def _box(name: str) -> Box:
    return Box(name, "Op", "", Role.CONTEXT, continues_up=False, continues_down=False)


@pytest.mark.parametrize(
    "edges",
    [
        ((0, 1), (1, 2), (2, 3), (0, 3)),  # a shortcut past two layers
        ((0, 2), (1, 2), (2, 3), (2, 4), (2, 5), (0, 5)),
        (),
        ((0, 5), (1, 4), (2, 3)),  # crossings that the order can undo
    ],
    ids=str,
)
def test_boxes_do_not_overlap_and_edges_run_downwards(edges: tuple[tuple[int, int], ...]) -> None:
    picture = ElementTree.fromstring(draw(Neighbourhood(tuple(map(_box, "abcdef")), edges), "test"))
    width, height = float(picture.attrib["width"]), float(picture.attrib["height"])
    places = []
    for group in picture.iter("g"):
        rect = group.find("rect")
        assert rect is not None
        places.append((float(rect.attrib["x"]), float(rect.attrib["y"])))
    assert len(places) == 6
    assert all(0 <= x <= width - BOX_WIDTH and 0 <= y <= height - BOX_HEIGHT for x, y in places)
    for y in {y for _, y in places}:
        row = sorted(x for x, other in places if other == y)
        assert all(right - left >= BOX_WIDTH for left, right in pairwise(row))
    for source, target in edges:
        assert places[source][1] < places[target][1]
    assert len(picture.findall("path")) == len(edges)


def test_the_order_of_a_layer_undoes_crossings() -> None:
    graph = Neighbourhood(tuple(map(_box, "abcdef")), ((0, 5), (1, 4), (2, 3)))
    picture = ElementTree.fromstring(draw(graph, "test"))
    centres = []
    for group in picture.iter("g"):
        rect = group.find("rect")
        assert rect is not None
        centres.append(float(rect.attrib["x"]))
    assert [centres[5], centres[4], centres[3]] == centres[:3]
