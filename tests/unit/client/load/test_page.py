"""The page, the terminal and the files of a report."""

import csv
import io
import re
from dataclasses import replace
from pathlib import Path

import pytest
from browser import browsing, needs_chromium
from foldserve_client.load import display, files, words
from foldserve_client.load.capacity import Bounds
from foldserve_client.load.comparison import ratio
from foldserve_client.load.levels import Loop
from foldserve_client.load.mix import Share
from foldserve_client.load.page import page
from foldserve_client.load.report import Capacity, Comparison, Metric, Report
from foldserve_client.load.runs import metrics
from foldserve_client.load.scrape import Parity, ServerView, Stage
from rich.console import Console
from unit.client.load.outcomes import result

STAGES = tuple(Stage(f"compute {name}", 0.5) for name in ("a", "input", "infer", "output"))
SERVER = ServerView(400, 3.0, 2.5, 9.0, STAGES, 2.0)
PARITY = Parity("digits", "1", "folded", {"ok": 7, "breach": 0}, 1e-7, 2e-7, 1.0, fallback=False)


def _report(**values: object) -> Report:
    known = {
        "kind": "run",
        "created": "2026-01-01T00:00:00+00:00",
        "addresses": ("localhost:8001",),
        "servers": ("foldserve 1",),
        "shares": (Share("digits"),),
        "rows": 1,
        "data": "random",
        "generator": "foldserve-client 1",
        "steps": (
            result(level=1, server=SERVER, parity=(PARITY,)),
            result(level=8, latency_s=0.01, failed=9, server=SERVER, cpu_share=0.95),
        ),
    }
    return Report.model_validate(known | values)


RUN = _report()
OPEN = _report(steps=(result(Loop.POISSON, 10, 100),))
CAPACITY = _report(
    kind="capacity",
    steps=tuple(result(Loop.CONSTANT, rate, latency_s=rate / 1e4) for rate in (50, 100, 200)),
    capacity=Capacity(target_p99_ms=20, most_failed_share=0.001, bounds=Bounds(100, 200), limited_by=None),
)
SLOW, FAST = (9, 10, 11), (19, 20, 22)
COMPARISON = _report(
    kind="comparison",
    steps=tuple(result(latency_s=latency) for latency in (0.01, 0.02, 0.02, 0.01, 0.01, 0.02)),
    comparison=Comparison(
        sides=("localhost:8001", "<other>:1"),
        rounds=3,
        metrics=(
            Metric(name="answers per second", higher_is_better=True, a=SLOW, b=FAST, ratio=ratio(SLOW, FAST)),
            Metric(name="p99 latency, ms", higher_is_better=False, a=SLOW, b=FAST, ratio=None),
        ),
    ),
)
INTERRUPTED = _report(
    kind="capacity",
    steps=(result(Loop.CONSTANT, 50, failed=400),),
    capacity=Capacity(
        target_p99_ms=20, most_failed_share=0.001, bounds=Bounds(0, None), limited_by=None, interrupted=True
    ),
)
SILENT = _report(
    kind="comparison",
    steps=(result(), result(failed=400)),
    comparison=Comparison(sides=("a", "b"), rounds=1, metrics=metrics([result()], [result(failed=400)])),
)
TARGET = "p99 within 20 ms and at most 0.1 % failed"
REPORTS = {"run": RUN, "open": OPEN, "capacity": CAPACITY, "comparison": COMPARISON}


def _printed(report: Report, width: int = 120) -> str:
    console = Console(file=io.StringIO(), width=width)
    console.print(display.report(report))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


@pytest.mark.parametrize("report", REPORTS.values(), ids=REPORTS)
def test_json_keeps_everything(report: Report, tmp_path: Path) -> None:
    files.write_json(report, tmp_path / "report.json")
    assert Report.model_validate_json((tmp_path / "report.json").read_text()) == report


def test_csv_has_a_row_for_each_step(tmp_path: Path) -> None:
    files.write_csv(RUN, tmp_path / "report.csv")
    first, second = csv.DictReader((tmp_path / "report.csv").read_text().splitlines())
    assert (first["level_end"], second["level_end"]) == ("1", "8")
    assert float(first["p99_ms"]) == RUN.steps[0].p99_ms
    assert (first["server_mean_ms"], first["failed_share"]) == ("3.0", "0.0")


@pytest.mark.parametrize("report", REPORTS.values(), ids=REPORTS)
def test_the_page_needs_nothing_else_and_escapes_everything(report: Report) -> None:
    text = page(report)
    assert not re.search(r"<script|<link|<img|@import|url\(|https?://", text)
    assert "<no>" not in text
    assert "<other>" not in text
    assert text.count("<svg") >= 3


def test_the_page_tells_what_was_found() -> None:
    assert "a generator process used 95% of a core" in page(RUN)
    assert "&lt;no&gt; server" in page(RUN)
    assert f"100/s with {TARGET}; 200/s missed it twice" in page(CAPACITY)
    assert "B is better" in page(COMPARISON)
    assert "The server's metrics were not found" in page(OPEN)


def test_warnings_are_few() -> None:
    late = _report(steps=tuple(result(level=level, cpu_share=0.95) for level in (1, 2, 3)))
    (warning,) = words.warnings(late)
    assert warning.startswith("at 1 caller, a generator process used 95% of a core")
    assert warning.endswith("it was a limit in 3 of 3 measurements")
    fallen = replace(PARITY, fallback=True)
    assert words.warnings(_report(steps=(result(parity=(fallen,)), result(parity=(fallen,))))) == [
        "digits version 1 had fallen back to its unfolded form"
    ]


def test_latency_is_drawn_against_load_where_the_load_changed() -> None:
    assert "Latency against load (a point" in page(RUN)
    assert "Latency against load" in page(_report(steps=(result(Loop.POISSON, 10, 100, count=401),)))
    assert "target for p99" in page(CAPACITY)
    for unchanged in (COMPARISON, _report(steps=(result(),))):
        assert "Latency against load" not in page(unchanged)


def test_the_terminal_tells_the_same() -> None:
    run, capacity, comparison = map(_printed, (RUN, CAPACITY, COMPARISON))
    for text in ("1 caller", "8 callers", "UNAVAILABLE", "<no> server", "95% of a core", "7 ok"):
        assert text in run
    assert "capacity: 100/s" in capacity
    assert "2.036 [1.884, 2.201]" in comparison
    assert "B is better" in comparison


def test_what_is_not_known_is_shown_as_such() -> None:
    for text in (_printed(INTERRUPTED), page(INTERRUPTED)):
        assert f"no rate is known to keep {TARGET}; the search was interrupted" in text
    for text in (_printed(SILENT), page(SILENT)):
        assert "B answered nothing in 1 of 1 rounds" in text
        assert text.count("not comparable") == 6
    assert "0.000" not in _printed(SILENT)


def test_a_narrow_terminal_breaks_no_number() -> None:
    for line in _printed(RUN, width=80).splitlines():
        assert len(line) <= 80
    assert "…" not in _printed(RUN, width=80)
    assert "2.81 %" in _printed(RUN, width=80)  # of the last column


@pytest.mark.parametrize(
    ("bounds", "limited_by", "text"),
    [
        (Bounds(100, 104), None, f"100/s with {TARGET}; 104/s missed it twice"),
        (Bounds(0, 0.5), None, f"no rate keeps {TARGET}: 0.5/s missed it, too"),
        (Bounds(8, None), "its core", f"at least 8/s with {TARGET}; the generator is the limit: its core"),
    ],
)
def test_a_capacity_reads_as_what_is_known(bounds: Bounds, limited_by: str | None, text: str) -> None:
    found = Capacity(target_p99_ms=20, most_failed_share=0.001, bounds=bounds, limited_by=limited_by)
    assert words.capacity(found) == text


@needs_chromium
def test_browsers_show_the_page_without_complaint_on_every_screen(tmp_path: Path) -> None:
    with browsing() as browser:
        for name, report in REPORTS.items():
            files.write_html(report, tmp_path / f"{name}.html")
            for width, dark in ((1200, False), (390, True)):
                browser.show((tmp_path / f"{name}.html").as_uri(), width=width, dark=dark)
                assert browser.run("document.documentElement.scrollWidth") == width
                assert browser.run(OVERLAPS) == []
        assert not browser.complaints


OVERLAPS = """
[...document.querySelectorAll('.frame')].flatMap(frame => ['x', 'y'].flatMap(axis => {
  const labels = [...frame.querySelectorAll('.' + axis + '.tick')].filter(one => one.offsetParent);
  const boxes = labels.map(one => [one.textContent, one.getBoundingClientRect()]);
  return boxes.flatMap(([text, a], n) => boxes.slice(n + 1).filter(([_, b]) =>
    a.left < b.right && b.left < a.right && a.top < b.bottom && b.top < a.bottom)
    .map(other => [text, other[0]]));
}))
"""
"""The labels of an axis that lie over each other."""
