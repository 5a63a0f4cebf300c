"""Pictures are drawn to scale, and hold whatever numbers there may be."""

import math
import re
from xml.etree import ElementTree

import pytest
from foldserve.status.pictures import HEIGHT, WIDTH, bars, over_time

PLACE = re.compile(r"M([-0-9.]+) ([-0-9.]+)")


def _places(svg: str, name: str) -> list[tuple[float, float]]:
    """Where the paths of a class begin."""
    found = [path.get("d", "") for path in ElementTree.fromstring(svg) if path.get("class") == name]
    return [(float(x), float(y)) for steps in found for x, y in PLACE.findall(steps)]


def test_values_stand_where_the_axis_says() -> None:
    picture = over_time([(0.0, 1e-7), (50.0, 1e-3), (100.0, 1e-6)], 100.0, 1e-5, "parity")
    svg = str(picture.svg)
    assert [(tick.label, round(tick.top, 3)) for tick in picture.ticks] == [
        ("1e-7", 100),
        ("1e-5", 60),
        ("0.001", 20),
    ]
    (limit,) = _places(svg, "limit")
    assert limit[1] == 0.6 * HEIGHT
    assert _places(svg, "dot") == [(10, HEIGHT), (990, 0.8 * HEIGHT)]
    assert _places(svg, "dot broken") == [(500, 0.2 * HEIGHT)]
    assert _places(svg, "stem") == _places(svg, "dot broken")


def test_what_cannot_be_on_the_axis_sticks_to_its_ends() -> None:
    svg = str(over_time([(0.0, 0.0), (1.0, math.inf)], 1.0, 1e-5, 'a "title" & more').svg)
    assert ElementTree.fromstring(svg).get("aria-label") == 'a "title" & more'
    assert [y for _, y in _places(svg, "dot")] == [HEIGHT]
    assert [y for _, y in _places(svg, "dot broken")] == [0]


@pytest.mark.parametrize("values", [[], [0.0], [math.inf], [1e-300, 1e300], [0.01] * 300])
def test_any_values_make_a_picture(values: list[float]) -> None:
    picture = bars([(f"<{index}>", value) for index, value in enumerate(values)], None, "drift")
    drawn = ElementTree.fromstring(str(picture.svg)).findall("rect")
    assert len(drawn) == len(values)
    assert all(
        float(bar.attrib["y"]) + float(bar.attrib["height"]) == pytest.approx(HEIGHT)
        and 0 <= float(bar.attrib["x"]) <= WIDTH - float(bar.attrib["width"])
        for bar in drawn
    )
    assert 2 <= len(picture.ticks) <= 6
    assert picture.line is None
