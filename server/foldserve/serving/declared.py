"""Is the model what its configuration says it is? Answered at load, naming both sides."""

from collections.abc import Collection, Sequence

from foldserve.errors import ConfigurationError
from foldserve.runtime.tensors import TensorSpec
from foldserve.serving.datatypes import datatype_name
from foldserve.serving.validation import describe
from foldserve.settings import DeclaredTensor, ModelSettings


def check_declared(
    inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec], settings: ModelSettings
) -> None:
    """Raise :class:`ConfigurationError` where the model differs from the inputs and outputs declared for it.

    Inputs are declared all or not at all, outputs one by one. A size that the model leaves open may be
    declared; one that it fixes may not be declared open, since requests of other sizes would fail. Labels
    belong to outputs that there are.
    """
    if settings.inputs:
        undeclared = {spec.name for spec in inputs} - {tensor.name for tensor in settings.inputs}
        if undeclared:
            raise ConfigurationError(
                f"the configuration declares inputs, but not {_names(undeclared)}, which the model takes "
                f"too; declare every input, or none"
            )
    for kind, specs, declared in (("input", inputs, settings.inputs), ("output", outputs, settings.outputs)):
        known = {spec.name: spec for spec in specs}
        for tensor in declared:
            if tensor.name not in known:
                raise _unknown(kind, tensor.name, known)
            if not _fits(tensor, known[tensor.name]):
                raise ConfigurationError(
                    f"{kind} '{tensor.name}' is {describe(known[tensor.name])} in the model, but the "
                    f"configuration declares {_declaration(tensor)}; declare what the model has"
                )
    for name in settings.labels:
        if name not in {spec.name for spec in outputs}:
            raise _unknown("output", name, [spec.name for spec in outputs])


def _fits(tensor: DeclaredTensor, spec: TensorSpec) -> bool:
    if tensor.datatype not in (None, datatype_name(spec.dtype)):
        return False
    shape = tensor.shape if tensor.reshape is None else tensor.reshape
    if shape is None or spec.shape is None:
        return True
    return len(shape) == len(spec.shape) and all(
        size == declared for declared, size in zip(shape, spec.shape, strict=True) if isinstance(size, int)
    )


def _declaration(tensor: DeclaredTensor) -> str:
    sizes = tensor.shape if tensor.reshape is None else tensor.reshape
    shape = "of any shape" if sizes is None else f"[{', '.join(map(str, sizes))}]"
    return f"{tensor.datatype or 'any type'} {shape}"


def _unknown(kind: str, name: str, known: Collection[str]) -> ConfigurationError:
    return ConfigurationError(
        f"the configuration names {kind} '{name}', but the model's {kind}s are {_names(known)}; "
        f"use the model's own names"
    )


def _names(names: Collection[str]) -> str:
    return ", ".join(f"'{name}'" for name in sorted(names)) or "none"
