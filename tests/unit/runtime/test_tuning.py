"""The choice of layout and batch is a pure function of what was measured; measuring runs real sessions."""

import threading
from collections.abc import Mapping

import numpy as np
import pytest
from foldserve.errors import ExecutionFailed
from foldserve.runtime.onnxruntime_session import OnnxRuntimeSession
from foldserve.runtime.session import Session
from foldserve.runtime.tuning import BUDGET_S, Layout, Measurement, batch_sizes, best, layouts, measure
from foldserve.settings import Objective, ProviderChoice
from hypothesis import given
from hypothesis import strategies as st
from running import EXAMPLE_MODELS

WIDE, LONG = Layout(instances=4, threads=1), Layout(instances=1, threads=4)


def _measured(times: Mapping[tuple[str, int], float]) -> list[Measurement]:
    return [
        Measurement(layout=WIDE if name == "wide" else LONG, rows=rows, seconds=seconds)
        for (name, rows), seconds in times.items()
    ]


@pytest.mark.parametrize(
    ("cpus", "expected"),
    [
        (1, [(1, 1)]),
        (2, [(2, 1), (1, 2)]),
        (6, [(6, 1), (3, 2), (1, 4), (1, 6)]),
        (8, [(8, 1), (4, 2), (2, 4), (1, 8)]),
    ],
)
def test_layouts_use_all_processors(cpus: int, expected: list[tuple[int, int]]) -> None:
    assert [(layout.instances, layout.threads) for layout in layouts(cpus)] == expected


@pytest.mark.parametrize(
    ("instances", "threads", "expected"),
    [(3, None, (3, 2)), (None, 4, (2, 4)), (5, 6, (5, 6)), (20, None, (20, 1)), (None, 20, (1, 20))],
)
def test_what_is_set_is_kept(instances: int | None, threads: int | None, expected: tuple[int, int]) -> None:
    (layout,) = layouts(8, instances, threads)
    assert (layout.instances, layout.threads) == expected


@given(st.integers(1, 1000))
def test_batch_sizes_ascend_from_one_to_the_most(most: int) -> None:
    sizes = batch_sizes(most)
    assert sizes == sorted(set(sizes))
    assert (sizes[0], sizes[-1]) == (1, most)


def test_throughput_takes_the_most_rows_per_second() -> None:
    found = _measured({("wide", 1): 0.010, ("wide", 8): 0.060, ("long", 1): 0.003, ("long", 8): 0.018})
    tuning = best(found, Objective.THROUGHPUT)
    assert tuning.layout == WIDE
    assert tuning.most_rows == 8
    assert list(tuning.measurements) == found


def test_latency_takes_the_soonest_single_row() -> None:
    found = _measured({("wide", 1): 0.010, ("wide", 8): 0.060, ("long", 1): 0.003, ("long", 8): 0.018})
    assert best(found, Objective.LATENCY).layout == LONG


def test_a_batch_no_larger_than_it_pays() -> None:
    found = _measured({("wide", 1): 0.010, ("wide", 2): 0.015, ("wide", 4): 0.0299, ("wide", 8): 0.080})
    assert best(found, Objective.THROUGHPUT).most_rows == 2


@given(
    st.dictionaries(
        st.tuples(st.sampled_from(["wide", "long"]), st.integers(1, 64)), st.floats(1e-5, 10), min_size=1
    ),
    st.sampled_from(Objective),
)
def test_the_choice_was_measured(times: dict[tuple[str, int], float], objective: Objective) -> None:
    found = _measured(times)
    tuning = best(found, objective)
    assert (tuning.layout, tuning.most_rows) in [(one.layout, one.rows) for one in found]


def _digits(layout: Layout) -> Session:
    file = EXAMPLE_MODELS / "digits" / "1" / "model.onnx"
    return OnnxRuntimeSession(file, provider=ProviderChoice.CPU, intra_op_threads=layout.threads)


def test_real_sessions_are_measured_with_all_instances_busy() -> None:
    together: set[int] = set()
    running = 0
    lock = threading.Lock()

    def run(session: Session, rows: int) -> None:
        nonlocal running
        with lock:
            running += 1
            together.add(running)
        session.run({"images": np.zeros((rows, 1, 8, 8), np.float32)})
        with lock:
            running -= 1

    candidates = layouts(2)
    opened: list[Session] = []

    def open_digits(layout: Layout) -> Session:
        opened.append(_digits(layout))
        return opened[-1]

    tuning, session = measure(candidates, [1, 4], open_digits, run, Objective.THROUGHPUT)
    found = tuning.measurements
    assert session is opened[candidates.index(tuning.layout)]
    images = {"images": np.zeros((1, 1, 8, 8), np.float32)}
    assert session.run(images)
    opened.remove(session)
    with pytest.raises(ExecutionFailed, match="is closed"):
        opened[0].run(images)
    session.close()
    assert [(one.layout, one.rows) for one in found] == [
        (layout, rows) for layout in candidates for rows in (1, 4)
    ]
    assert all(0 < one.seconds < BUDGET_S for one in found)
    assert max(together) == 2


def test_batches_that_would_take_too_long_are_left_out() -> None:
    waits: list[int] = []

    def run(session: Session, rows: int) -> None:
        waits.append(rows)
        threading.Event().wait(0.05 * rows)

    found = measure(layouts(1), [1, 2, 64], _digits, run, Objective.THROUGHPUT)[0].measurements
    assert [one.rows for one in found] == [1, 2]
    assert 64 not in waits


def test_a_model_too_slow_to_measure_twice_is_run_once_in_each_layout() -> None:
    runs: list[int] = []

    def run(session: Session, rows: int) -> None:
        runs.append(rows)
        threading.Event().wait(BUDGET_S / 2)

    found = measure(layouts(1), [1, 2], _digits, run, Objective.THROUGHPUT)[0].measurements
    assert [one.rows for one in found] == [1]
    assert runs == [1]
