"""A session that computes the answer to each probe once, however often it is asked."""

import threading
import time
from collections.abc import Mapping, Sequence

from foldserve.errors import ExecutionFailed
from foldserve.parity.probes import Probe
from foldserve.runtime.session import Array, Execution, Provider, Session
from foldserve.runtime.tensors import TensorSpec


class RememberingSession:
    """Implements :class:`~foldserve.runtime.session.Session` over another, which it owns.

    A probe is known by its identity: the same object must hold the same arrays for as long as this lives.
    Threads may ask at the same time: one computes, and whoever asks for what is not known yet waits for that.
    """

    def __init__(self, session: Session) -> None:
        self._session = session
        self._computing = threading.Lock()
        self._answers: dict[int, tuple[Probe, list[Array] | ExecutionFailed, float]] = {}

    @property
    def provider(self) -> Provider:
        """The other session's."""
        return self._session.provider

    @property
    def execution(self) -> Execution:
        """The other session's."""
        return self._session.execution

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        """The other session's."""
        return self._session.inputs

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        """The other session's."""
        return self._session.outputs

    def run(self, inputs: Mapping[str, Array], outputs: Sequence[str] | None = None) -> list[Array]:
        """The answer, as it was given the first time; a choice of outputs is answered anew."""
        if outputs is not None:
            return self._session.run(inputs, outputs)
        if id(inputs) not in self._answers:
            with self._computing:
                if id(inputs) not in self._answers:
                    started = time.perf_counter()
                    answer = self._answered(inputs)
                    self._answers[id(inputs)] = inputs, answer, time.perf_counter() - started
        _, answer, _ = self._answers[id(inputs)]
        if isinstance(answer, ExecutionFailed):
            raise answer
        return answer

    def seconds(self) -> list[float]:
        """What each answer took to compute, failures left out."""
        return [spent for _, answer, spent in self._answers.values() if not isinstance(answer, Exception)]

    def release(self) -> Session:
        """Forget the answers; the other session is the caller's from now on."""
        self._answers.clear()
        return self._session

    def close(self) -> None:
        """Close the other session and forget the answers."""
        self._session.close()
        self._answers.clear()

    def _answered(self, inputs: Probe) -> list[Array] | ExecutionFailed:
        try:
            return self._compute(inputs)
        except ExecutionFailed as error:
            return error

    def _compute(self, inputs: Probe) -> list[Array]:
        return self._session.run(inputs)
