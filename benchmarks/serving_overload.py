"""Three times as many requests as a server can answer: what it still answers, and what becomes of the rest.

Once where a refusal costs nothing beside an answer (MobileNetV2), once where it costs nearly as much (a tiny
model). The server has one core, the generator another.
"""

import argparse
from collections import Counter
from typing import Any

import numpy as np
from serving_harness import (
    LOAD_CORES,
    SERVER_CORE,
    foldserve,
    record_answer,
    running,
    warn_of_escapes,
    write_result,
)
from serving_load import closed_loop
from serving_models import MOBILENET, TINY, Model
from serving_open_loop import Outcome, open_loop

OVERLOAD = 3
CONNECTIONS = 16
CALLERS = {TINY: 64, MOBILENET: 16}
"""How many callers it takes to know what the server can do."""


def overload(model: Model, seconds: float) -> dict[str, Any]:
    """Goodput, refusals and memory at three times the capacity."""
    record_answer(model.exported())
    request = model.request()
    with running([foldserve(model.repository)], SERVER_CORE) as (server,):
        response = server.answer(request)
        warn_of_escapes([server])
        capacity = closed_loop(
            server, request, response, callers=CALLERS[model], seconds=min(seconds, 10), cores=LOAD_CORES
        ).steady_rate
        before = server.rss_bytes()
        server.reset_peak()
        outcomes = open_loop(
            server.port,
            request,
            rate=OVERLOAD * capacity,
            seconds=seconds,
            connections=CONNECTIONS,
            cores=LOAD_CORES,
        )
        peak = server.peak_rss_bytes()
    answered = [one for one in outcomes if one.code == "OK" and one.due_s + one.latency_s <= seconds]
    return {
        "capacity": capacity,
        "offered_relative_to_capacity": OVERLOAD,
        "seconds": seconds,
        "goodput_relative_to_capacity": len(answered) / seconds / capacity,
        "codes": Counter(outcome.code for outcome in outcomes),
        "latency_ms": {
            code: _percentiles([one for one in outcomes if one.code == code])
            for code in sorted({one.code for one in outcomes} - {"UNANSWERED"})
        },
        "generator_late_p99_ms": 1e3 * float(np.percentile([one.late_s for one in outcomes], 99)),
        "rss_before_mb": before / 1e6,
        "rss_peak_mb": peak / 1e6,
    }


def _percentiles(outcomes: list[Outcome]) -> dict[str, float]:
    latencies = [1e3 * outcome.latency_s for outcome in outcomes]
    return {f"p{percent}": float(np.percentile(latencies, percent)) for percent in (50, 99)}


def main() -> None:
    """Measure and write the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=30)
    seconds = parser.parse_args().seconds
    models = {model.name: overload(model, seconds) for model in CALLERS}
    write_result("serving_overload", {"models": models})


if __name__ == "__main__":
    main()
