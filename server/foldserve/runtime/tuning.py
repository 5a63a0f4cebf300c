"""How to run a model on these processors: how many runs at a time, of how many threads, of how many rows.

Found by measuring, because it depends on the model: a tiny one loses more by waking threads than they save, a
large one is done soonest with all of them.
"""

import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial

from pydantic import BaseModel, ConfigDict

from foldserve.runtime.session import Provider, Session
from foldserve.settings import Objective

BUDGET_S = 1.2
"""For all measurements of one model together, making sessions left out."""

LONGEST_LOOK_S = 0.05
"""A setting is measured for so long at most, or for ``FEWEST_RUNS`` runs where these take longer."""

FEWEST_RUNS = 3

RUN_OVERHEAD_S = 2e-4
"""About what a run costs beside the engine, in threads that wake: small models want larger batches for it."""

ENOUGH = 0.95
"""A smaller batch that reaches this share of the best throughput is preferred: it answers sooner."""


class Layout(BaseModel):
    """``instances`` runs at a time, each of ``threads`` threads."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    instances: int
    """Runs at the same time."""

    threads: int
    """Threads within one run."""


class Measurement(BaseModel):
    """What one layout did with batches of one size."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    layout: Layout
    """The layout."""

    rows: int
    """Rows in each run."""

    seconds: float
    """Median duration of one run, in seconds, while ``layout.instances`` of them go on."""

    @property
    def rows_per_s(self) -> float:
        """Throughput of the layout in service."""
        return self.layout.instances * self.rows / (self.seconds + RUN_OVERHEAD_S)


class Tuning(BaseModel):
    """The choice, and what it was made from."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    layout: Layout
    """What to run."""

    most_rows: int
    """Rows beyond which a larger batch gains nothing; 1 where requests cannot share a run."""

    measurements: tuple[Measurement, ...] = ()
    """Empty where there was nothing to choose."""


def layouts(cpus: int, instances: int | None = None, threads: int | None = None) -> list[Layout]:
    """The layouts to try on ``cpus`` processors, each using all of them; what is given is kept."""
    if instances is not None or threads is not None:
        return [
            Layout(
                instances=instances or max(1, cpus // (threads or 1)),
                threads=threads or max(1, cpus // (instances or 1)),
            )
        ]
    powers = [1 << power for power in range(cpus.bit_length())]
    counts = dict.fromkeys([*powers, cpus])
    return [Layout(instances=cpus // threads, threads=threads) for threads in counts]


def batch_sizes(most_rows: int) -> list[int]:
    """The batch sizes to try: powers of two, and the most that is allowed."""
    return list(dict.fromkeys([*(1 << power for power in range(most_rows.bit_length())), most_rows]))


def best(measurements: Sequence[Measurement], objective: Objective) -> Tuning:
    """The choice among ``measurements``, of which there is one at least: a pure function.

    ``latency``: the layout whose single row is answered soonest. ``throughput``: the layout with the most
    rows per second. Either with the smallest batch that is about as good as the best one of that layout.
    """
    if objective is Objective.LATENCY:
        fewest = min(measurement.rows for measurement in measurements)
        leader = min(
            (measurement for measurement in measurements if measurement.rows == fewest),
            key=lambda measurement: measurement.seconds,
        )
    else:
        leader = max(measurements, key=lambda measurement: measurement.rows_per_s)
    same = [measurement for measurement in measurements if measurement.layout == leader.layout]
    enough = ENOUGH * max(measurement.rows_per_s for measurement in same)
    rows = min(measurement.rows for measurement in same if measurement.rows_per_s >= enough)
    return Tuning(layout=leader.layout, most_rows=rows, measurements=tuple(measurements))


def measure(
    candidates: Iterable[Layout],
    rows: Sequence[int],
    open_session: Callable[[Layout], Session],
    run: Callable[[Session, int], object],
    objective: Objective,
) -> tuple[Tuning, Session | None]:
    """Measure layouts with batches of ``rows``, ascending, as far as the time budget goes; the best one.

    ``open_session`` makes a session for a layout, ``run`` runs a session on a batch of so many
    rows. The first batch size of every layout is always measured. The session of the best layout is left
    open, unless it takes a device's memory, which may have room for one only. Raises what these raise.
    """
    candidates = list(candidates)
    found: list[Measurement] = []
    leader: Session | None = None
    with ExitStack() as unless_done:
        for layout in candidates:
            session = open_session(layout)
            unless_done.callback(session.close)
            until = time.perf_counter() + BUDGET_S / len(candidates)
            found += _measured(layout, rows, partial(run, session), until)
            loser: Session | None = session
            if best(found, objective).layout == layout:
                leader, loser = (session, leader) if session.provider is Provider.CPU else (None, session)
            if loser is not None:
                loser.close()
        unless_done.pop_all()
    return best(found, objective), leader


def look_at(
    layout: Layout, rows: int, run: Callable[[int], object], *, fewest: int, longest_s: float
) -> Measurement:
    """How long runs of ``rows`` rows take while ``layout.instances`` of them go on, for a while."""
    with ThreadPoolExecutor(layout.instances, "tuning") as pool:
        looks = [pool.submit(_look, run, rows, fewest, longest_s) for _ in range(layout.instances)]
        seconds = statistics.median(spent for look in looks for spent in look.result())
    return Measurement(layout=layout, rows=rows, seconds=seconds)


def _measured(
    layout: Layout, rows: Sequence[int], run: Callable[[int], object], until: float
) -> Iterator[Measurement]:
    # The first run allocates; of a model so slow that there is no time for another, it has to do.
    last = look_at(layout, rows[0], run, fewest=1, longest_s=0.0)
    if not _is_time(last, rows[0], until):
        yield last
        return
    for size in rows:
        if size > rows[0] and not _is_time(last, size, until):
            return
        last = look_at(layout, size, run, fewest=FEWEST_RUNS, longest_s=LONGEST_LOOK_S)
        yield last


def _is_time(last: Measurement, rows: int, until: float) -> bool:
    """Whether batches of so many rows can be measured by then, if rows take what they took last."""
    expected = last.seconds / last.rows * rows * FEWEST_RUNS
    return time.perf_counter() + expected <= until


def _look(run: Callable[[int], object], rows: int, fewest: int, longest_s: float) -> list[float]:
    """Durations of runs, for a while; every instance has its own look at the same time."""
    spent: list[float] = []
    until = time.perf_counter() + longest_s
    while len(spent) < fewest or time.perf_counter() < until:
        started = time.perf_counter()
        run(rows)
        spent.append(time.perf_counter() - started)
    return spent
