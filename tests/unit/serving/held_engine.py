"""A real session that tests can hold and let fail, and callers of a batcher around it."""

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from math import inf
from queue import SimpleQueue

from foldserve.errors import (
    ExecutionFailed,
)
from foldserve.parity.measures import distance
from foldserve.runtime.onnxruntime_session import OnnxRuntimeSession
from foldserve.runtime.session import Array
from foldserve.serving.batcher import Batcher, Later
from foldserve.serving.waiting import Execution, Waiting
from running import EXAMPLE_MODELS

POISON = 1e30


class HeldSession(OnnxRuntimeSession):
    """The digits model; runs wait while it is held, and fail where an image is poisoned."""

    def __init__(self) -> None:
        super().__init__(EXAMPLE_MODELS / "digits" / "1" / "model.onnx", intra_op_threads=1)
        self.free = threading.Event()
        self.free.set()
        self.batches: list[int] = []
        self.inputs_seen: list[Array] = []
        self.threads: list[threading.Thread] = []

    def run(self, inputs: Mapping[str, Array], outputs: Sequence[str] | None = None) -> list[Array]:
        self.batches.append(len(inputs["images"]))
        self.inputs_seen.append(inputs["images"])
        self.threads.append(threading.current_thread())
        self.free.wait()
        if (inputs["images"] == POISON).any():
            raise ExecutionFailed("poisoned")
        return super().run(inputs, outputs)


class Caller:
    """One request, in line or refused, and what it is told."""

    def __init__(
        self,
        batcher: Batcher,
        images: Array,
        *,
        deadline: float = inf,
        priority: int = 0,
        timeout_us: int = 0,
        outputs: tuple[str, ...] = ("logits",),
        later: Later | None = None,
    ) -> None:
        self.gone = False
        self._told: SimpleQueue[Execution | Exception] = SimpleQueue()
        request = Waiting(
            {"images": images}, outputs, len(images), lambda: self.gone, self._told.put, deadline
        )
        batcher.submit(request, priority=priority, timeout_us=timeout_us, later=later)

    def outcome(self) -> Execution | Exception:
        return self._told.get(timeout=60)

    def execution(self) -> Execution:
        outcome = self.outcome()
        assert isinstance(outcome, Execution), outcome
        assert self._told.empty()
        return outcome


MakeBatcher = Callable[..., Batcher]


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.001)


def occupy(session: HeldSession, batcher: Batcher, image: Array) -> Caller:
    """A request that has the engine and keeps it until the session is let go."""
    session.free.clear()
    started = len(session.batches)
    caller = Caller(batcher, image)
    until(lambda: len(session.batches) > started)
    return caller


def answered_alone(session: HeldSession, images: Array) -> Array:
    return OnnxRuntimeSession.run(session, {"images": images})[0]


def assert_near(actual: Array, expected: Array) -> None:
    """Equal up to what another batch size does to float32."""
    assert actual.shape == expected.shape
    assert distance(expected, actual).relative_l2 < 1e-5
