"""Made-up outcomes of requests."""

import numpy as np
from foldserve_client.load.generator import CODES
from foldserve_client.load.levels import Level, Loop, Step
from foldserve_client.load.mix import Share
from foldserve_client.load.recording import Outcomes, Recorder, interval_s
from foldserve_client.load.report import StepResult, step_result
from foldserve_client.load.scrape import Parity, ServerView

Row = tuple[float, float, float, int, int]
"""Due, sent, done, model, code."""


def outcomes(*rows: Row) -> Outcomes:
    flat = [(due, sent, done, model * CODES + code) for due, sent, done, model, code in rows]
    return Outcomes.read(np.array(flat, np.float64).tobytes())


def result(
    loop: Loop = Loop.CLOSED,
    level: float = 4,
    end: float | None = None,
    *,
    count: int = 400,
    latency_s: float = 0.005,
    failed: int = 0,
    server: ServerView | None = None,
    parity: tuple[Parity, ...] = (),
    cpu_share: float = 0.2,
) -> StepResult:
    """A step of four seconds after one of warm-up, whose requests take ever longer."""
    step = Step(loop, Level(level, level if end is None else end), 1.0, 4.0)
    recorder = Recorder(step, 1, 1, interval_s(step.end_s))
    due = np.linspace(0, 4.99, count)
    rows: list[Row] = [
        (moment, moment, moment + latency_s * (1 + number / count), 0, 14 if number >= count - failed else 0)
        for number, moment in enumerate(due.tolist())
    ]
    recorder.add(0, 1.0, cpu_share, outcomes(*rows[: count // 2]))
    recorder.add(0, 5.0, 5 * cpu_share, outcomes(*rows[count // 2 :]))
    recorder.finish()
    return step_result(recorder, [(Share("digits"), 300.0)], {14: "<no> server"}, server, list(parity))
