"""What the benchmark of the engines makes of its measurements."""

from itertools import count
from math import inf
from typing import Any

import numpy as np
import pytest
from running import ROOT


@pytest.fixture(autouse=True)
def _benchmarks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(ROOT / "benchmarks")


@pytest.mark.parametrize(
    ("longest_s", "calls"),
    [pytest.param(inf, 9, id="as many as wanted"), pytest.param(0.0, 4, id="no time, but a few")],
)
def test_after_the_first_call_come_as_many_as_there_is_time_for(longest_s: float, calls: int) -> None:
    from engine_sessions import first_and_next

    asked = count()
    found = first_and_next(lambda: next(asked), most=8, fewest=3, longest_s=longest_s)
    assert next(asked) == calls
    assert found["count"] == calls - 1


def test_a_batch_repeats_the_images_in_their_order() -> None:
    from engine_sessions import repeated

    images = np.arange(3, dtype=np.float32)[:, np.newaxis]
    assert repeated(images, 5).ravel().tolist() == [0, 1, 2, 0, 1]
    assert repeated(images, 2).ravel().tolist() == [0, 1]


def test_first_requests_are_compared_start_by_start() -> None:
    from engine_first import first_of

    starts = [{"first_s": first, "next_s": after, "count": 50} for first, after in ((2, 1), (9, 3), (8, 2))]
    assert first_of(starts) == {"first_s": 8, "next_s": 2, "count": 50, "ratio": 3}


def test_what_the_echo_server_adds_to_its_own_first_answer_is_left_out() -> None:
    from engine_first import first_of

    start = {"first_s": 8.0, "next_s": 2.0, "count": 50, "echo_first_s": 5.0, "echo_next_s": 1.0}
    found = first_of([start])
    assert (found["ratio"], found["echo_ratio"], found["beyond_echo"]) == (4, 5, 2)


def test_servers_are_compared_round_by_round() -> None:
    from engine_comparison import beside

    default = [{"rows": 8.0, "served": served, "bare": 10.0} for served in (1.0, 2.0, 4.0)]
    wide = [{"rows": 4.0, "served": served, "bare": 20.0} for served in (4.0, 6.0, 20.0)]
    found = beside(wide, default)
    assert found["relative_to_default"] == 4  # of 4, 3 and 5; the medians' own would be 3
    assert found["relative_to_bare"] == pytest.approx(0.3)
    assert found["rows"] == 4


def _trial(engine: str, **known: object) -> dict[str, Any]:
    unknown = dict.fromkeys(
        ("speedup", "rows_per_s", "row_seconds", "relative_l2", "top1_agreement", "memory_bytes")
    )
    return {"engine": engine, **unknown, **known}


@pytest.fixture
def result() -> dict[str, Any]:
    """One model and two engines, of which one is missing."""
    report = {
        "engine": "here",
        "trials": [_trial("here", speedup=1.0, top1_agreement=1.0), _trial("elsewhere")],
        "why_not": {"elsewhere": "this CPU has no such units"},
    }
    first = {"engine": "here", "through_server": True, "rows": 1, "first_s": 3e-3, "next_s": 2e-3}
    served = {"engine": "here", "rows": 2.0, "served": 9.0, "bare": 10.0}
    served |= {"relative_to_bare": 0.9, "relative_to_default": 5.0}
    return {
        "models": {
            "resnet50": {
                "engines": report,
                "served": {"5e-2, int8": served},
                "layouts": {"1": 1.25, "4": 2.0},
                "first": [first | {"ratio": 1.5}, first | {"ratio": 2.0, "beyond_echo": 1.2}],
            }
        }
    }


def test_an_unavailable_engine_is_in_the_table_with_the_reason(result: dict[str, Any]) -> None:
    from engine_tables import tried

    here, elsewhere = tried(result).splitlines()[2:]
    assert here == "| resnet50 | **here** | 1.00 × | – | – | – | 100 % | – | – |  |"
    assert elsewhere == "| resnet50 | elsewhere | – | – | – | – | – | – | – | this CPU has no such units |"


def test_the_aims_stand_beside_what_was_measured(result: dict[str, Any]) -> None:
    from engine_tables import aims

    faster, share, requests, beyond_echo = aims(result).splitlines()[2:]
    assert faster.endswith("| 5.00 × (here) |")
    assert share.endswith("| 0.90 × |")
    assert requests.endswith("| 1 of 2, largest 2.00 × |")
    assert beyond_echo.endswith("| 2 of 2, largest 1.50 × |")


def test_layouts_stand_by_their_rows(result: dict[str, Any]) -> None:
    from engine_tables import layouts

    assert layouts(result).splitlines()[2:] == ["| resnet50 | 1 at a time: 1.25 ×, 4 at a time: 2.00 × |"]
