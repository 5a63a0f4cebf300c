"""What a proof compares with: the original as it is, with the values inside that are to be compared, too."""

import math
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress

import onnx_ir as ir

from foldserve.errors import ExecutionFailed, LoadFailed
from foldserve.parity.probes import Probe
from foldserve.parity.remembered import RememberingSession
from foldserve.parity.sections import computed_values, exposed, open_unoptimised
from foldserve.runtime.session import Array, Session
from foldserve.runtime.tensors import TensorSpec

LARGEST_FETCH_BYTES = 256 * 2**20
"""About so much is fetched or held at once: all values of a deep network need not fit into memory."""

UNKNOWN_VALUE_BYTES = 16 * 2**20
"""What a value of unknown rank counts."""


class Reference(RememberingSession):
    """The original without the runtime's optimisation, which would fold it, too.

    A run that is made for the values inside answers the probe as well. Threads may ask at the same time.
    """

    def __init__(
        self,
        model: ir.Model,
        inner: Collection[str] = (),
        open_model: Callable[[ir.Model], Session] = open_unoptimised,
    ) -> None:
        """``inner`` are names of values that will be asked for; raises what ``open_model`` raises.

        Where the runtime cannot give them out, the model is opened without.
        """
        self.model = model
        self._open_model = open_model
        known = computed_values(model)
        try:
            session = open_model(exposed(model, [name for name in inner if name in known]))
        except LoadFailed:
            session = open_model(model)
        super().__init__(session)
        self._plain: Session | None = None
        self._fetched: tuple[Probe, dict[str, Array]] | None = None
        """What was fetched ahead, until somebody asks for it."""

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        """The model's own."""
        return self._session.outputs[: len(self.model.graph.outputs)]

    def expose(self, names: Collection[str]) -> dict[str, TensorSpec]:
        """Values inside, by name, that :meth:`values` is to give; raises what opening a session raises.

        Another choice than before opens the model again.
        """
        if not {spec.name for spec in self._session.outputs}.issuperset(names):
            with self._computing:
                session = self._open_model(exposed(self.model, names))
                self._session.close()
                self._session = session
        specs = {spec.name: spec for spec in self._session.outputs}
        return {name: specs[name] for name in names}

    def fetch_ahead(self, probe: Probe) -> None:
        """Answer ``probe`` with all exposed values, which the first who asks for them need not wait for."""
        with self._computing, suppress(ExecutionFailed):
            if self._held(probe) <= LARGEST_FETCH_BYTES:
                self._fetched = probe, self._fetch(probe, [spec.name for spec in self._session.outputs])

    def values(self, probe: Probe, names: Sequence[str]) -> list[Array]:
        """Exposed values, in the order of ``names``; raises ExecutionFailed."""
        ahead, found = self._fetched or (None, {})
        if ahead is probe and found.keys() >= set(names):
            self._fetched = None
        else:
            with self._computing:
                found = self._fetch(probe, names)
        return [found[name] for name in names]

    def takes(self, probe: Probe) -> bool:
        """Whether the original answers to ``probe`` at all."""
        try:
            self.run(probe)
        except ExecutionFailed:
            return False
        return True

    def close(self) -> None:
        """See :meth:`RememberingSession.close`."""
        super().close()
        self._fetched = None
        if self._plain is not None:
            self._plain.close()

    def _fetch(self, probe: Probe, names: Sequence[str]) -> dict[str, Array]:
        """Exposed values by name, with the answer to the probe on the way."""
        own = [spec.name for spec in self.outputs]
        fetched = list(dict.fromkeys([*own, *names]))
        started = time.perf_counter()
        found = dict(zip(fetched, self._session.run(probe, fetched), strict=True))
        answer = probe, [found[name] for name in own], time.perf_counter() - started
        self._answers.setdefault(id(probe), answer)
        return found

    def _compute(self, inputs: Mapping[str, Array]) -> list[Array]:
        own = self.outputs
        if self._held(inputs) <= LARGEST_FETCH_BYTES:
            return self._session.run(inputs, [spec.name for spec in own])
        if self._plain is None:
            self._plain = self._open_model(self.model)
        return self._plain.run(inputs)

    def _held(self, probe: Probe) -> int:
        """Bytes of what is exposed: the runtime holds it until the run is over, whoever asks for it."""
        return sum(value_bytes(spec, probe) for spec in self._session.outputs[len(self.outputs) :])


def value_bytes(spec: TensorSpec, probe: Probe) -> int:
    """About the size of a value: dynamic dimensions are the batch, or as large as the largest input's."""
    if spec.shape is None:
        return UNKNOWN_VALUE_BYTES
    shapes = [array.shape for array in probe.values() if array.shape]
    rows = max((shape[0] for shape in shapes), default=1)
    largest = max((max(shape[1:], default=1) for shape in shapes), default=1)
    dims = (
        dim if isinstance(dim, int) else rows if axis == 0 else largest for axis, dim in enumerate(spec.shape)
    )
    return math.prod(dims) * spec.dtype.itemsize
