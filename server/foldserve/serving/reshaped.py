"""Sessions that take and give tensors in the shapes that a configuration declares for callers.

Triton's ``reshape``: a model with a fixed batch of one is offered without that axis, say. Reshaping moves no
data.
"""

from collections.abc import Mapping, Sequence
from typing import TypeVar

from foldserve.runtime.session import Array, Provider, Session
from foldserve.runtime.tensors import TensorSpec
from foldserve.settings import DeclaredTensor, ModelSettings

Size = TypeVar("Size")


def keeps_rows(settings: ModelSettings) -> bool:
    """Whether the rows of every tensor are the same to callers as to the model: its first axis, and open."""
    return all(
        tensor.shape[:1] == tensor.reshape[:1] == (-1,)
        for tensor in (*settings.inputs, *settings.outputs)
        if tensor.shape is not None and tensor.reshape is not None
    )


def reshaped(session: Session, settings: ModelSettings) -> Session:
    """``session`` in the declared shapes; itself where none differs from the model's."""
    differing = {
        tensor.name: tensor for tensor in (*settings.inputs, *settings.outputs) if tensor.reshape is not None
    }
    return ReshapedSession(session, differing) if differing else session


class ReshapedSession:
    """Implements :class:`~foldserve.runtime.session.Session` over another, which it owns."""

    def __init__(self, session: Session, declared: Mapping[str, DeclaredTensor]) -> None:
        self._session = session
        self._declared = declared
        self._inputs = tuple(self._offered(spec) for spec in session.inputs)
        self._outputs = tuple(self._offered(spec) for spec in session.outputs)

    @property
    def provider(self) -> Provider:
        """The other session's."""
        return self._session.provider

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        """What callers send."""
        return self._inputs

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        """What callers get."""
        return self._outputs

    def run(self, inputs: Mapping[str, Array], outputs: Sequence[str] | None = None) -> list[Array]:
        """See :meth:`Session.run`."""
        names = list(outputs or (spec.name for spec in self._outputs))
        feed = {name: self._to_model(name, array) for name, array in inputs.items()}
        return [
            self._to_caller(name, array)
            for name, array in zip(names, self._session.run(feed, names), strict=True)
        ]

    def close(self) -> None:
        """Close the other session."""
        self._session.close()

    def _offered(self, spec: TensorSpec) -> TensorSpec:
        tensor = self._declared.get(spec.name)
        if tensor is None or tensor.shape is None or tensor.reshape is None:
            return spec
        sizes = [None] * len(tensor.reshape) if spec.shape is None else spec.shape
        return TensorSpec(spec.name, spec.dtype, tuple(_filled(tensor.shape, tensor.reshape, sizes)))

    def _to_model(self, name: str, array: Array) -> Array:
        tensor = self._declared.get(name)
        if tensor is None or tensor.shape is None or tensor.reshape is None:
            return array
        return array.reshape(_filled(tensor.reshape, tensor.shape, array.shape))

    def _to_caller(self, name: str, array: Array) -> Array:
        tensor = self._declared.get(name)
        if tensor is None or tensor.shape is None or tensor.reshape is None:
            return array
        return array.reshape(_filled(tensor.shape, tensor.reshape, array.shape))


def _filled(wanted: Sequence[int], given: Sequence[int], sizes: Sequence[Size]) -> list[int | Size]:
    """``wanted`` with its open sizes taken, in order, from those of a tensor declared as ``given``."""
    open_sizes = (size for declared, size in zip(given, sizes, strict=True) if declared == -1)
    return [next(open_sizes) if size == -1 else size for size in wanted]
