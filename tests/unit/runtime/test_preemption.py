"""Which threads wait for their turn when they wake."""

import os
import threading
from collections.abc import Callable

from foldserve.runtime.preemption import let_others_finish_first, polite_threads


def _policy_of_a_thread(begin: Callable[[], object] = lambda: None) -> int:
    """The scheduling policy of a new thread, after it did something."""
    found = []

    def run() -> None:
        begin()
        found.append(os.sched_getscheduler(0))

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    return found[0]


def test_threads_of_the_block_wait_for_their_turn_and_whoever_makes_them_does_not() -> None:
    with polite_threads():
        assert _policy_of_a_thread() == os.SCHED_BATCH
    assert os.sched_getscheduler(0) == os.SCHED_OTHER
    assert _policy_of_a_thread() == os.SCHED_OTHER


def test_a_thread_that_lets_others_finish_first_does_so_for_good() -> None:
    def nested() -> None:
        let_others_finish_first()
        with polite_threads():
            pass

    assert _policy_of_a_thread(nested) == os.SCHED_BATCH
    assert os.sched_getscheduler(0) == os.SCHED_OTHER
