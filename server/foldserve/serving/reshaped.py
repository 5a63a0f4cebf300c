"""Sessions that take and give tensors in the shapes that a configuration declares for callers.

Triton's ``reshape``: a model with a fixed batch of one is offered without that axis, say. Reshaping moves no
data.
"""

from collections.abc import Mapping, Sequence
from typing import TypeVar

from foldserve.parity.judge import Judge
from foldserve.runtime.session import Array, Execution, Provider, Session
from foldserve.runtime.tensors import TensorSpec
from foldserve.settings import DeclaredTensor, ModelSettings

Size = TypeVar("Size")
Declared = Mapping[str, DeclaredTensor]
"""Tensors whose shape is another one for callers, by name."""


def keeps_rows(settings: ModelSettings) -> bool:
    """Whether the rows of every tensor are the same to callers as to the model: its first axis, and open."""
    return all(
        tensor.shape[:1] == tensor.reshape[:1] == (-1,)
        for tensor in (*settings.inputs, *settings.outputs)
        if tensor.shape is not None and tensor.reshape is not None
    )


def reshaped(session: Session, settings: ModelSettings) -> Session:
    """``session`` in the declared shapes; itself where none differs from the model's."""
    differing = _differing(settings)
    return ReshapedSession(session, differing) if differing else session


def reshaped_judge(judge: Judge, settings: ModelSettings, outputs: Sequence[str]) -> Judge:
    """``judge`` of the model with these ``outputs``, in the declared shapes; itself where none differs."""
    differing = _differing(settings)
    return ReshapedJudge(judge, differing, outputs) if differing else judge


class ReshapedSession:
    """Implements :class:`~foldserve.runtime.session.Session` over another, which it owns."""

    def __init__(self, session: Session, declared: Declared) -> None:
        self._session = session
        self._declared = declared
        self._inputs = tuple(self._offered(spec) for spec in session.inputs)
        self._outputs = tuple(self._offered(spec) for spec in session.outputs)

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
        """What callers send."""
        return self._inputs

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        """What callers get."""
        return self._outputs

    def run(self, inputs: Mapping[str, Array], outputs: Sequence[str] | None = None) -> list[Array]:
        """See :meth:`Session.run`."""
        names = list(outputs or (spec.name for spec in self._outputs))
        answers = self._session.run(_to_model(self._declared, inputs), names)
        return _to_caller(self._declared, names, answers)

    def close(self) -> None:
        """Close the other session."""
        self._session.close()

    def _offered(self, spec: TensorSpec) -> TensorSpec:
        tensor = self._declared.get(spec.name)
        if tensor is None or tensor.shape is None or tensor.reshape is None:
            return spec
        sizes = [None] * len(tensor.reshape) if spec.shape is None else spec.shape
        return TensorSpec(spec.name, spec.dtype, tuple(_filled(tensor.shape, tensor.reshape, sizes)))


class ReshapedJudge:
    """Implements :class:`~foldserve.parity.judge.Judge` over another."""

    def __init__(self, judge: Judge, declared: Declared, outputs: Sequence[str]) -> None:
        self._judge = judge
        self._declared = declared
        self._outputs = outputs

    def truth(self, probe: Mapping[str, Array]) -> list[Array]:
        """See :meth:`Judge.truth`."""
        return _to_caller(self._declared, self._outputs, self._judge.truth(_to_model(self._declared, probe)))


def _differing(settings: ModelSettings) -> Declared:
    return {
        tensor.name: tensor for tensor in (*settings.inputs, *settings.outputs) if tensor.reshape is not None
    }


def _to_model(declared: Declared, inputs: Mapping[str, Array]) -> dict[str, Array]:
    return {name: _in_shape(array, declared.get(name), of_caller=False) for name, array in inputs.items()}


def _to_caller(declared: Declared, names: Sequence[str], outputs: Sequence[Array]) -> list[Array]:
    return [
        _in_shape(array, declared.get(name), of_caller=True)
        for name, array in zip(names, outputs, strict=True)
    ]


def _in_shape(array: Array, tensor: DeclaredTensor | None, *, of_caller: bool) -> Array:
    """A tensor as callers see it, or as the model does."""
    if tensor is None or tensor.shape is None or tensor.reshape is None:
        return array
    there, here = (tensor.shape, tensor.reshape) if of_caller else (tensor.reshape, tensor.shape)
    return array.reshape(_filled(there, here, array.shape))


def _filled(wanted: Sequence[int], given: Sequence[int], sizes: Sequence[Size]) -> list[int | Size]:
    """``wanted`` with its open sizes taken, in order, from those of a tensor declared as ``given``."""
    open_sizes = (size for declared, size in zip(given, sizes, strict=True) if declared == -1)
    return [next(open_sizes) if size == -1 else size for size in wanted]
