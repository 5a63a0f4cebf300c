"""Comparing answers in the background: what is compared, what is dropped, and what is let go of."""

import os
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from foldserve.errors import ExecutionFailed, InvalidModel
from foldserve.observability.parity import ParityMetrics
from foldserve.parity import shadow, shadow_worker
from foldserve.parity.breach import worst_row
from foldserve.parity.breach_folder import BreachFolder
from foldserve.parity.cpu_budget import BURST_S
from foldserve.parity.sample import Sample
from foldserve.parity.shadow import LARGEST_CHECK_ROWS, Shadow
from foldserve.parity.shadow_worker import LESS_PRIORITY, MOST_WAITING, ShadowWorker
from foldserve.parity.statistics import Statistics
from foldserve.runtime.session import Array
from foldserve.settings import ParityBudget, ReferenceMode, ShadowSettings

BUDGETS = {"y": ParityBudget()}


class Doubling:
    """A reference that answers y = 2x; while ``gate`` is closed it waits."""

    statistics: Statistics | None = None

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.gate.set()
        self.rows: list[int] = []
        self.is_open = False
        self.failure: Exception | None = None
        self.drifts_by = 0.0
        self.answers = 0

    def open(self) -> None:
        if self.failure is not None:
            raise self.failure
        self.is_open = True

    def run(self, inputs: Mapping[str, Array], outputs: Sequence[str]) -> list[Array]:
        self.open()
        assert self.gate.wait(30)
        x = inputs["x"]
        self.rows.append(len(x))
        self.answers += 1
        with np.errstate(over="ignore"):
            taps = [x.mean(axis=0), np.square(x).mean(axis=0)] if len(outputs) > 1 else []
        assert outputs == ["y", *(self.statistics.outputs if self.statistics and taps else ())]
        return [np.multiply(x, np.float32(2 + self.answers * self.drifts_by)), *taps]

    def rest(self) -> None:
        self.is_open = False

    def close(self) -> None:
        self.rest()


class Watched:
    """A shadow with all that it needs."""

    def __init__(self, **settings: Any) -> None:
        self.reference = Doubling()
        self.worker = ShadowWorker(cpu_share=1.0)
        self.metrics = ParityMetrics("m", "1", lambda: 7)
        self.trips: list[Sequence[Any]] = []
        self.shadow = Shadow(
            ShadowSettings.model_validate({"sample_rate": 1.0, "window": 4, "breaches": 2} | settings),
            BUDGETS,
            self.reference,
            self.worker,
            self.metrics,
            on_trip=self.trips.append,
        )

    def answer(self, factor: float = 2.0, rows: int = 1) -> None:
        x = np.ones((rows, 3), np.float32)
        self.shadow.offer({"x": x}, [("y", x * np.float32(factor))], rows, self.shadow.generation)

    def settled(self) -> dict[str, int]:
        """The checks so far, once nothing waits."""
        done = threading.Event()
        self.worker.submit(done.set)
        assert done.wait(30)
        return {result: count for result, count in self.metrics.checks.items() if count}


@pytest.fixture
def watch() -> Iterator[Callable[..., Watched]]:
    made: list[Watched] = []

    def make(**settings: Any) -> Watched:
        made.append(Watched(**settings))
        return made[-1]

    yield make
    for one in made:
        one.reference.gate.set()
        one.shadow.close()
        one.worker.close(timeout_s=5)


Watch = Callable[..., Watched]


def test_breaches_trip_once_with_the_input_and_both_answers(watch: Watch) -> None:
    watched = watch()
    for factor in (2, 2.1, 2, 2.1, 2.1):
        watched.answer(factor)
    assert watched.settled() == {"ok": 2, "breach": 3}
    ((first, breach),) = watched.trips
    assert first.at_s <= breach.at_s
    np.testing.assert_allclose(np.divide(breach.sample.outputs["y"], breach.expected["y"]), 1.05, rtol=1e-6)
    assert "'y': relative L2 0.05 (budget 1e-05)" in breach.evidence
    report = watched.shadow.report()
    assert (report.window_checks, report.window_breaches, report.most_breaches) == (4, 3, 2)
    assert report.last_breach is not None
    assert report.last_breach.evidence == breach.evidence
    assert report.reference_bytes == 7


def test_a_busy_worker_drops_and_counts_and_keeps_nobody_waiting(watch: Watch) -> None:
    watched = watch()
    watched.settled()
    watched.reference.gate.clear()
    for _ in range(MOST_WAITING + 5):
        watched.answer()
    assert watched.metrics.checks["dropped"] == 5
    watched.reference.gate.set()
    assert watched.settled() == {"ok": MOST_WAITING, "dropped": 5}
    watched.answer()
    assert watched.settled()["ok"] == MOST_WAITING + 1


def test_large_samples_are_bounded_by_their_bytes(watch: Watch, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        shadow_worker, "MOST_WAITING_BYTES", 24 * 3
    )  # an answer has 12 bytes, so has its input
    watched = watch()
    watched.settled()
    watched.reference.gate.clear()
    for _ in range(5):
        watched.answer()
    assert watched.metrics.checks["dropped"] == 2
    watched.reference.gate.set()
    assert watched.settled() == {"ok": 3, "dropped": 2}


def test_processor_time_beyond_the_share_is_not_spent(watch: Watch) -> None:
    watched = watch()
    watched.worker._budget.spend(1000.0)
    watched.answer()
    assert watched.settled() == {"dropped": 1}


def test_of_a_large_request_some_rows_stand_for_all_once_it_is_known_what_a_row_takes(watch: Watch) -> None:
    watched = watch()
    for _ in range(2):
        watched.answer(rows=32)
        watched.settled()
    assert watched.reference.rows == [1, 1, LARGEST_CHECK_ROWS]  # the first one twice: does it repeat itself?
    watched.shadow._element_s = 1.0
    watched.answer(rows=32)
    assert watched.settled() == {"ok": 3}
    assert watched.reference.rows[-1] == 1


def test_rows_that_depend_on_each_other_are_compared_together(watch: Watch) -> None:
    watched = watch()
    x = np.ones((32, 3), np.float32)
    watched.shadow.offer({"x": x}, [("y", 2 * x)], 1, 0)
    assert watched.settled() == {"ok": 1}
    assert watched.reference.rows[-1] == 32


def test_answers_of_another_shape_are_breaches(watch: Watch) -> None:
    """As those of a wrong fold whose output's size depends on its values."""
    watched = watch(breaches=1)
    watched.answer()
    watched.settled()
    x = np.ones((4, 3), np.float32)
    watched.shadow.offer({"x": x}, [("y", 2 * x[:, :2])], 4, 0)
    assert watched.settled() == {"ok": 1, "breach": 1}
    ((breach,),) = watched.trips
    assert breach.sample.rows == 4


def test_ties_of_before_a_reset_do_not_count_with_those_after_it(watch: Watch) -> None:
    watched = watch()
    comparison = watched.shadow.comparison
    right, wrong = {"y": np.array([[3]])}, {"y": np.array([[5]])}
    assert not comparison.of(right, wrong).breaching
    watched.shadow.reset()
    assert not comparison.of(right, wrong).breaching
    assert comparison.of(right, wrong).breaching


def test_the_worst_row_is_the_evidence(watch: Watch) -> None:
    watched = watch(breaches=1)
    watched.answer()
    watched.settled()
    x = np.arange(12, dtype=np.float32).reshape(4, 3)
    y = 2 * x
    y[2, 1] += 1
    watched.shadow.offer({"x": x}, [("y", y)], 4, watched.shadow.generation)
    assert watched.settled() == {"ok": 1, "breach": 1}
    ((breach,),) = watched.trips
    np.testing.assert_array_equal(breach.sample.inputs["x"], x[2:3])
    np.testing.assert_array_equal(breach.sample.outputs["y"], y[2:3])
    np.testing.assert_array_equal(breach.expected["y"], 2 * x[2:3])


def test_a_row_in_which_both_are_not_finite_is_no_evidence() -> None:
    x = np.ones((3, 2), np.float32)
    expected, answered = x.copy(), x.copy()
    expected[0], answered[0] = np.inf, np.inf
    expected[1, 0] = np.nan
    answered[2, 1] = 1.5
    sample, row = worst_row(["y"], Sample({"x": x}, {"y": answered}, 3), {"y": expected})
    np.testing.assert_array_equal(sample.outputs["y"], answered[2:])
    np.testing.assert_array_equal(row["y"], expected[2:])


def test_the_share_of_requests_is_about_the_sample_rate(watch: Watch) -> None:
    watched = watch(sample_rate=0.1)
    for _ in range(3000):
        watched.answer()
    checks = watched.settled()
    assert 200 < sum(checks.values()) < 400


def test_a_reference_that_cannot_be_opened_is_told_of_and_tried_again(watch: Watch) -> None:
    watched = watch(reference=ReferenceMode.ON_DEMAND)
    watched.reference.failure = InvalidModel("its files were changed")
    watched.answer()
    assert watched.settled() == {"error": 1}
    assert watched.shadow.report().reference_failure == "its files were changed"
    watched.reference.failure = None
    watched.answer()
    assert watched.settled() == {"error": 1, "ok": 1}
    assert watched.shadow.report().reference_failure == ""


def test_an_input_that_the_reference_refuses_is_an_error_and_no_breach(watch: Watch) -> None:
    watched = watch()
    watched.reference.failure = ExecutionFailed("no")
    watched.answer(factor=5)
    assert watched.settled() == {"error": 1}
    assert not watched.shadow.breaker.checks


def test_whatever_else_goes_wrong_is_an_error_with_a_reason(watch: Watch) -> None:
    watched = watch(reference=ReferenceMode.ON_DEMAND)
    watched.reference.failure = OSError("the disk is full")
    watched.answer()
    assert watched.settled() == {"error": 1}
    assert watched.shadow.report().reference_failure == "the disk is full"


def test_a_model_that_does_not_repeat_itself_is_not_blamed(watch: Watch) -> None:
    watched = watch()
    watched.reference.drifts_by = 0.5
    for _ in range(4):
        watched.answer()
    assert watched.settled() == {"error": 4}
    assert watched.reference.answers == 2  # once it is known, nothing is run in vain
    assert "answers differently each time" in watched.shadow.report().reference_failure


def test_a_reset_does_not_wait_and_what_was_answered_before_counts_no_more(watch: Watch) -> None:
    watched = watch(breaches=1)
    watched.answer()
    watched.settled()
    watched.reference.gate.clear()
    watched.answer(factor=5)
    generation = watched.shadow.generation
    watched.shadow.reset()
    x = np.ones((1, 3), np.float32)
    watched.shadow.offer({"x": x}, [("y", 5 * x)], 1, generation)  # it ran on what answered before
    watched.reference.gate.set()
    assert watched.settled() == {"ok": 1, "breach": 2}
    assert (watched.trips, watched.shadow.breaker.checks) == ([], 0)


@pytest.mark.parametrize(("scale", "found"), [(1.0, "breach"), (1e30, "inconclusive")])
def test_where_the_original_overflows_inside_nothing_is_proven(
    watch: Watch, scale: float, found: str
) -> None:
    """A sigmoid or an arg-max behind it hides it from the outputs; what its BatchNorms read does not."""
    watched = watch()
    ones = np.ones(3)
    watched.reference.statistics = Statistics(("norm",), (3,), ones, 0 * ones, 0 * ones, ones, 0 * ones)
    x = np.full((1, 3), scale, np.float32)
    watched.shadow.offer({"x": x}, [("y", 3 * x)], 1, 0)
    assert watched.settled() == {found: 1}


def test_a_trip_is_told_even_if_the_input_cannot_be_kept(watch: Watch, tmp_path: Path) -> None:
    watched = watch(breaches=1)
    folder = tmp_path / "kept"
    watched.shadow._breach_folder = BreachFolder(folder, 4, 2**20)
    folder.rmdir()
    watched.answer(factor=5)
    assert watched.settled() == {"breach": 1}
    assert len(watched.trips) == 1


def test_a_resident_reference_is_open_from_the_start(watch: Watch) -> None:
    watched = watch()
    assert watched.settled() == {}
    assert watched.reference.is_open


def test_one_on_demand_is_open_from_the_first_check_to_the_next_rest(
    watch: Watch, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shadow, "REST_AFTER_S", 0.05)
    monkeypatch.setattr(shadow_worker, "LOOK_EVERY_S", 0.05)
    watched = watch(reference=ReferenceMode.ON_DEMAND)
    watched.settled()
    assert not watched.reference.is_open
    watched.answer()
    assert watched.settled() == {"ok": 1}
    deadline = time.monotonic() + 30
    while watched.reference.is_open:
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_after_close_nothing_is_compared_and_nobody_waits(watch: Watch) -> None:
    watched = watch()
    watched.answer()
    watched.settled()
    watched.reference.gate.clear()
    watched.answer()
    watched.answer()
    watched.shadow.close()
    watched.reference.gate.set()
    compared = watched.settled()["ok"]
    assert not watched.reference.is_open
    watched.answer()
    assert watched.settled()["ok"] == compared <= 2
    assert not watched.reference.is_open


def test_samples_are_let_go_of(watch: Watch) -> None:
    watched = watch(breaches=1)
    x = np.ones((1, 3), np.float32)
    gone = weakref.ref(x)
    watched.shadow.offer({"x": x}, [("y", x * np.float32(3))], 1, 0)
    del x
    watched.settled()
    watched.trips.clear()
    watched.shadow.reset()
    assert gone() is None
    assert (watched.worker._waiting, watched.worker._waiting_bytes) == (0, 0)


def test_processor_time_is_counted_and_spent(watch: Watch) -> None:
    watched = watch()
    watched.settled()
    watched.answer()
    watched.settled()
    assert 0 < watched.worker.cpu_s < 10
    assert watched.worker._budget._left_s < BURST_S


@pytest.mark.skipif(not hasattr(os, "getpriority"), reason="threads have a priority of their own in Linux")
def test_the_worker_has_a_lower_priority_but_not_the_lowest(watch: Watch) -> None:
    """At the lowest it would starve on a busy core while it holds Python's lock, and all others with it."""
    watched = watch()
    watched.settled()
    thread = watched.worker._thread.native_id
    assert thread is not None
    own = os.getpriority(os.PRIO_PROCESS, threading.get_native_id())
    assert own < os.getpriority(os.PRIO_PROCESS, thread) == own + LESS_PRIORITY < 19
