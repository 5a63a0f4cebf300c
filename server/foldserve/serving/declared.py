"""Is the model what its configuration says it is? Answered at load, naming both sides."""

from collections.abc import Collection, Mapping, Sequence

from foldserve.errors import ConfigurationError
from foldserve.observability.logging import get_logger
from foldserve.runtime.tensors import TensorSpec
from foldserve.serving.datatypes import datatype_name
from foldserve.serving.validation import describe
from foldserve.settings import DeclaredTensor, ModelSettings

log = get_logger()


def check_declared(
    inputs: Sequence[TensorSpec],
    outputs: Sequence[TensorSpec],
    settings: ModelSettings,
    origins: Mapping[str, str],
) -> None:
    """Raise :class:`ConfigurationError` where the model differs from the inputs and outputs declared for it.

    Inputs are declared all or not at all, outputs one by one. A size that the model leaves open may be
    declared; one that it fixes may not be declared open, since requests of other sizes would fail. Labels
    belong to outputs that there are. ``origins`` tells where each setting stands.
    """
    if settings.inputs:
        taken, declared = {spec.name for spec in inputs}, {tensor.name for tensor in settings.inputs}
        if taken != declared:
            raise ConfigurationError(
                f"{_where('inputs', origins)} declares the inputs {_names(declared)}, but the model takes "
                f"{_names(taken)}; declare exactly these, or none"
            )
    outputs_known = {spec.name: spec for spec in outputs}
    for setting, names in (
        ("outputs", [tensor.name for tensor in settings.outputs]),
        ("labels", list(settings.labels)),
    ):
        for name in names:
            if name not in outputs_known:
                raise ConfigurationError(
                    f"{_where(setting, origins)} names output '{name}', but the model's outputs are "
                    f"{_names(outputs_known)}; use the model's own names"
                )
    _check_kinds("inputs", {spec.name: spec for spec in inputs}, settings.inputs, origins)
    _check_kinds("outputs", outputs_known, settings.outputs, origins)


def warn_of_batching_in_vain(model: str, settings: ModelSettings, origins: Mapping[str, str]) -> None:
    """Log what is configured for batches, for a model whose requests never share a run."""
    batching = settings.batching
    for setting, field, value in (
        ("max_batch_size", "max_batch_size", settings.max_batch_size),
        ("batching", "preferred_batch_sizes", batching.preferred_batch_sizes),
        ("batching", "max_queue_delay_us", batching.max_queue_delay_us),
    ):
        if value and setting in origins:
            log.warning(
                "configuration has no effect here",
                model=model,
                field=field,
                reason="the model's first axis is fixed or missing, or its rows depend on each other: each "
                "request runs by itself",
                file=origins[setting],
            )


def _check_kinds(
    setting: str,
    known: Mapping[str, TensorSpec],
    declared: Sequence[DeclaredTensor],
    origins: Mapping[str, str],
) -> None:
    for tensor in declared:
        if not _fits(tensor, known[tensor.name]):
            raise ConfigurationError(
                f"{_where(setting, origins)} declares {setting[:-1]} '{tensor.name}' as "
                f"{_declaration(tensor)}, but in the model it is {describe(known[tensor.name])}; "
                f"{_what_to_do(tensor, known[tensor.name])}"
            )


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


def _what_to_do(tensor: DeclaredTensor, spec: TensorSpec) -> str:
    if tensor.shape is not None and spec.shape is not None and len(tensor.shape) + 1 == len(spec.shape):
        return "declare its first axis too, or in config.pbtxt a max_batch_size, which adds it to the dims"
    return "declare what the model has"


def _where(setting: str, origins: Mapping[str, str]) -> str:
    return origins.get(setting, "the configuration")


def _names(names: Collection[str]) -> str:
    return ", ".join(f"'{name}'" for name in sorted(names)) or "none"
