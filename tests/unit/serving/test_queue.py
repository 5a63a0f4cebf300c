import threading
import time

import pytest
from foldserve.errors import DeadlineExpired, QueueFull
from foldserve.serving.queue import ExecutionQueue


class Holder:
    """A thread that has or waits for a turn until it is told to let go."""

    def __init__(self, queue: ExecutionQueue, order: list[str], name: str) -> None:
        self.entered = threading.Event()
        self._let_go = threading.Event()
        self._queue, self._order, self._name = queue, order, name
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        with self._queue.turn(None):
            self._order.append(self._name)
            self.entered.set()
            self._let_go.wait()

    def finish(self) -> None:
        self._let_go.set()
        self._thread.join()


def _wait_until_queued(queue: ExecutionQueue, count: int) -> None:
    while queue.waiting < count:
        time.sleep(0.001)


def test_an_idle_engine_admits_at_once_and_one_at_a_time_in_order() -> None:
    queue, order = ExecutionQueue(capacity=8), list[str]()
    holders = []
    for index, name in enumerate("abc"):
        holders.append(Holder(queue, order, name))
        if index == 0:
            holders[0].entered.wait()
        else:
            _wait_until_queued(queue, index)
    assert order == ["a"]
    for holder, then in zip(holders, (["a", "b"], ["a", "b", "c"], ["a", "b", "c"]), strict=True):
        holder.finish()
        if len(then) > len(order):
            holders[len(then) - 1].entered.wait()
        assert order == then


def test_a_full_queue_refuses() -> None:
    queue = ExecutionQueue(capacity=0)
    with queue.turn(None), pytest.raises(QueueFull, match="retry later"), queue.turn(None):
        pytest.fail("admitted")
    with queue.turn(None):
        pass


def test_an_expired_request_leaves_and_the_next_still_gets_its_turn() -> None:
    queue, order = ExecutionQueue(capacity=8), list[str]()
    with queue.turn(None):
        with (
            pytest.raises(DeadlineExpired, match="nothing was computed"),
            queue.turn(time.monotonic() + 0.01),
        ):
            pytest.fail("admitted")
        waiting = Holder(queue, order, "next")
        _wait_until_queued(queue, 1)
    waiting.entered.wait()
    waiting.finish()
    assert order == ["next"]
    with queue.turn(None):
        pass


def test_a_failing_execution_passes_its_turn_on() -> None:
    queue = ExecutionQueue(capacity=0)
    with pytest.raises(RuntimeError, match="engine"), queue.turn(None):
        raise RuntimeError("engine")
    with queue.turn(None):
        pass
