"""The unfolded, unoptimised model of a servable, as the shadow runs it."""

from collections.abc import Mapping, Sequence

from foldserve.parity.statistics import Statistics
from foldserve.runtime.onnxruntime_session import OnnxRuntimeSession
from foldserve.runtime.session import Array, Session
from foldserve.serving.opening import Opening
from foldserve.serving.original import Original
from foldserve.serving.original_record import REFERENCE
from foldserve.serving.reshaped import reshaped
from foldserve.settings import ProviderChoice

THREADS = 1
"""Of a run: the shadow's own, at its low priority, whose processor time is counted."""


class LazyReference:
    """Implements :class:`~foldserve.parity.shadow.LiveReference`; opened when first needed, on the CPU."""

    def __init__(self, original: Original, opening: Opening) -> None:
        self._original = original
        self._opening = opening
        self._session: Session | None = None
        self.weights_bytes = 0
        """What its weights take while it is open."""

        self.statistics: Statistics | None = None

    def open(self) -> Session:
        """The open model; raises what :meth:`Original.files` and opening a session raise."""
        if self._session is None:
            folder, record = self._original.files()
            session = OnnxRuntimeSession(
                folder / REFERENCE,
                provider=ProviderChoice.CPU,
                optimise=False,
                intra_op_threads=THREADS,
                keeps_memory=False,
                name=self._opening.name,
            )
            self._session = reshaped(session, self._opening.settings)
            self.weights_bytes = record.weights_bytes
            self.statistics = Statistics.load(folder)
        return self._session

    def run(self, inputs: Mapping[str, Array], outputs: Sequence[str]) -> list[Array]:
        """See :class:`~foldserve.parity.shadow.LiveReference`."""
        return self.open().run(inputs, outputs)

    def rest(self) -> None:
        """Give its memory back; :meth:`run` opens it again."""
        session, self._session = self._session, None
        self.weights_bytes = 0
        if session is not None:
            session.close()

    def close(self) -> None:
        """Give back all that it holds, for good."""
        self.rest()
        self._original.close()
