"""What people see while load runs."""

import io

from foldserve_client.load.levels import Level, Loop, Step
from foldserve_client.load.live import Live, Recent
from rich.console import Console
from unit.client.load.outcomes import outcomes

STEP = Step(Loop.POISSON, Level(5, 5), 0.0, 10.0)


def test_rate_and_percentiles_are_those_of_late_and_failures_those_of_the_step() -> None:
    recent = Recent()
    recent.see(0.5, outcomes((0.1, 0.1, 0.11, 0, 0), (0.2, 0.2, 0.3, 0, 14)))
    assert recent.text() == "2/s, p50 10.00 ms, p99 10.00 ms, UNAVAILABLE 1"
    for number in range(2, 8):
        at_s = number / 2
        recent.see(at_s, outcomes(*[(at_s - 0.2, at_s - 0.2, at_s - 0.1, 0, 0)] * 10))
    assert recent.text() == "20/s, p50 100.00 ms, p99 100.00 ms, UNAVAILABLE 1"


def test_before_the_first_answer_there_is_a_rate_of_nothing() -> None:
    recent = Recent()
    assert recent.text() == "0/s"
    recent.see(0.25, outcomes())
    assert recent.text() == "0/s"


def _shown(*, terminal: bool) -> str:
    console = Console(file=io.StringIO(), force_terminal=terminal, width=100)
    with Live(console) as live:
        live.begin(STEP, "round 1 of 2, [::1]:8001")
        for number in range(1, 13):
            at_s = number / 4
            live.see(at_s, outcomes((at_s - 0.1, at_s - 0.1, at_s, 0, 0)))
        live.say("that was [bold] it")
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_without_a_terminal_there_is_a_line_for_each_second() -> None:
    assert _shown(terminal=False).splitlines() == [
        "round 1 of 2, [::1]:8001, 5/s: 1 s, 4/s, p50 100.00 ms, p99 100.00 ms",
        "round 1 of 2, [::1]:8001, 5/s: 2 s, 4/s, p50 100.00 ms, p99 100.00 ms",
        "round 1 of 2, [::1]:8001, 5/s: 3 s, 4/s, p50 100.00 ms, p99 100.00 ms",
        "that was [bold] it",
    ]


def test_on_a_terminal_there_is_a_bar() -> None:
    shown = _shown(terminal=True)
    assert "[::1]:8001, 5/s" in shown
    assert "━" in shown
    assert "that was [bold] it" in shown
