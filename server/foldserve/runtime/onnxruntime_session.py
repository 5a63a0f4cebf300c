"""ONNX Runtime behind the :class:`~foldserve.runtime.session.Session` protocol."""

import contextlib
import io
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from foldserve.errors import (
    ExecutionFailed,
    InputRefused,
    InvalidModel,
    LoadFailed,
    ProviderUnavailable,
    UnsupportedModel,
)
from foldserve.runtime.cpus import available_cpus, cpu_model
from foldserve.runtime.cuda import device_name
from foldserve.runtime.in_memory import PLACEHOLDER, InMemoryModel
from foldserve.runtime.messages import useful_part
from foldserve.runtime.no_rows import answer_to_no_rows, have_no_rows, rows_are_open
from foldserve.runtime.onnxruntime_module import CPU_PROVIDER, CUDA_PROVIDER, LOG_NOTHING, onnxruntime
from foldserve.runtime.onnxruntime_values import as_bytes, as_strings, ort_value, run_bound, run_ort_values
from foldserve.runtime.providers import resolve_provider
from foldserve.runtime.session import Array, Execution, Provider
from foldserve.runtime.tensors import BFLOAT16, TensorSpec
from foldserve.settings import Precision, ProviderChoice

DTYPES: dict[str, np.dtype[np.generic]] = {
    "tensor(bool)": np.dtype(np.bool_),
    "tensor(uint8)": np.dtype(np.uint8),
    "tensor(uint16)": np.dtype(np.uint16),
    "tensor(uint32)": np.dtype(np.uint32),
    "tensor(uint64)": np.dtype(np.uint64),
    "tensor(int8)": np.dtype(np.int8),
    "tensor(int16)": np.dtype(np.int16),
    "tensor(int32)": np.dtype(np.int32),
    "tensor(int64)": np.dtype(np.int64),
    "tensor(float16)": np.dtype(np.float16),
    "tensor(float)": np.dtype(np.float32),
    "tensor(double)": np.dtype(np.float64),
    "tensor(bfloat16)": BFLOAT16,
    "tensor(string)": np.dtype(np.object_),
}
"""The runtime's name of each element type that a model's inputs and outputs may have."""

UNSUPPORTED = (
    "No Op registered",
    "is not a registered function/op",
    "Unsupported model IR version",
    "official released onnx opset versions",
)
"""What the runtime says (beside NotImplemented) of sound models that it is too old or too small for."""

UNSOUND_OPTIMISERS = ("Pad_Fusion",)
"""Optimisers that change what some models compute: zero padding ahead of a MaxPool becomes padding with −∞.

Elsewhere they are right and pay, so they are left out only where a proof fails with them.
"""

IMPRECISE_OPTIMISERS = ("NchwcTransformer",)
"""Optimisers that bring in kernels with larger errors: average pooling in the blocked layout adds up a whole
feature map in float32. They are left out as the unsound ones are.
"""

EXTERNAL_FOLDER = "session.model_external_initializers_file_folder_path"
"""The runtime's setting of where a model that comes as bytes has the files of its weights."""

NO_OPTIONS: Mapping[str, str] = MappingProxyType({})
NO_WEIGHTS: Mapping[str, Any] = MappingProxyType({})


class OnnxRuntimeSession:
    """A model in ONNX Runtime; implements :class:`~foldserve.runtime.session.Session`."""

    def __init__(
        self,
        source: Path | bytes | InMemoryModel,
        *,
        provider: ProviderChoice = ProviderChoice.AUTO,
        cuda: Mapping[str, str] = NO_OPTIONS,
        optimise: bool = True,
        disabled_optimisers: Collection[str] = (),
        intra_op_threads: int | None = None,
        keeps_memory: bool = True,
        precision: Precision = Precision.FLOAT32,
        name: str | None = None,
    ) -> None:
        """Load ``source``: a file, external data beside it, the bytes of a whole model, or one in memory.

        ``cuda`` are options of the CUDA provider. ``optimise=False`` turns all graph optimisation off: the
        parity reference; ``disabled_optimisers`` turns single ones off, by the runtime's names.
        ``intra_op_threads`` is the number of threads within one operator, None for one per processor that
        this process may use. ``keeps_memory=False`` gives back after each run what the values took, which
        costs time. ``precision`` is the lowest that the model's own operators have. ``name`` stands for the
        model in errors.

        Raises :class:`InvalidModel`, :class:`UnsupportedModel` or :class:`ProviderUnavailable`.
        """
        self._name = name or (str(source) if isinstance(source, Path) else "the model")
        chosen = resolve_provider(provider)
        # The runtime reads them where they lie, and does not keep them from going away.
        self._weights: Mapping[str, Any] = NO_WEIGHTS
        if isinstance(source, InMemoryModel):
            self._weights = {name: ort_value(array) for name, array in source.weights.items()}
            source = source.graph
        try:
            session = create_inference_session(
                source,
                chosen,
                weights=self._weights,
                cuda=cuda,
                optimise=optimise,
                disabled_optimisers=disabled_optimisers,
                intra_op_threads=intra_op_threads,
                keeps_memory=keeps_memory,
            )
        except Exception as error:  # the runtime's exceptions have no base of their own
            raise _load_error(self._name, error) from error
        self._provider = Provider.CUDA if CUDA_PROVIDER in session.get_providers() else Provider.CPU
        if provider is ProviderChoice.CUDA and self._provider is not Provider.CUDA:
            raise ProviderUnavailable(
                f"{self._name}: provider 'cuda' was requested, but the runtime took the CPU; "
                "free memory on the GPU, or choose provider 'auto' or 'cpu'"
            )
        self._inputs = tuple(_spec(argument, self._name) for argument in session.get_inputs())
        self._outputs = tuple(_spec(argument, self._name) for argument in session.get_outputs())
        self._has_bfloat16 = any(spec.dtype == BFLOAT16 for spec in (*self._inputs, *self._outputs))
        self._rows_are_open = rows_are_open((*self._inputs, *self._outputs))
        self._has_strings = any(spec.dtype == np.object_ for spec in (*self._inputs, *self._outputs))
        self._session: Any = session
        self._keeps_memory = keeps_memory
        self._execution = _execution(session, self._provider, precision)

    @property
    def provider(self) -> Provider:
        """Where the model really runs."""
        return self._provider

    @property
    def execution(self) -> Execution:
        """How the model is really run; the runtime does not tell the precision of single layers."""
        return self._execution

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        """What the model takes."""
        return self._inputs

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        """What the model gives."""
        return self._outputs

    def run(self, inputs: Mapping[str, Array], outputs: Sequence[str] | None = None) -> list[Array]:
        """See :meth:`Session.run`; strings that are not UTF-8 raise :class:`InvalidRequest`."""
        if self._rows_are_open and have_no_rows(inputs):
            nothing = answer_to_no_rows(inputs, lambda one: self._run(one, outputs))
            if nothing is not None:
                return nothing
        return self._run(inputs, outputs)

    def shrink(self, inputs: Mapping[str, Array]) -> None:
        """See :meth:`Shrinking.shrink`; ``keeps_memory=False`` leaves nothing to do, a GPU's memory stays."""
        if self._keeps_memory and self._provider is Provider.CPU:
            options = onnxruntime.RunOptions()
            options.add_run_config_entry("memory.enable_memory_arena_shrinkage", "cpu:0")
            self._run(inputs, None, options)
            self._run(inputs, None)  # the runtime gave back what this one needs as well

    def _run(
        self, inputs: Mapping[str, Array], outputs: Sequence[str] | None, options: Any = None
    ) -> list[Array]:
        session = self._session
        if session is None:
            raise ExecutionFailed(f"{self._name} is closed")
        names = list(outputs or (spec.name for spec in self._outputs))
        feed = {name: as_strings(name, array) for name, array in inputs.items()}
        try:
            if self._has_bfloat16:
                return run_ort_values(session, names, feed, options)
            if self._provider is Provider.CUDA and not self._has_strings:
                return run_bound(session, names, feed)
            return [as_bytes(array) for array in session.run(names, feed, options)]
        except Exception as error:
            reason = useful_part(str(error))
            if (
                type(error).__name__ != "InvalidArgument"
            ):  # the runtime's exceptions have no base of their own
                raise ExecutionFailed(f"{self._name} failed: {reason}") from error
            shapes = ", ".join(f"'{name}' {list(array.shape)}" for name, array in inputs.items())
            raise InputRefused(f"{self._name} does not take {shapes}: {reason}") from error

    def close(self) -> None:
        """Release the model's memory."""
        self._session = None
        self._weights = NO_WEIGHTS


def create_inference_session(
    source: Path | bytes,
    provider: Provider,
    *,
    weights: Mapping[str, Any] = NO_WEIGHTS,
    cuda: Mapping[str, str] = NO_OPTIONS,
    optimise: bool = True,
    disabled_optimisers: Collection[str] = (),
    intra_op_threads: int | None = None,
    keeps_memory: bool = True,
) -> Any:
    """The runtime's own session on ``provider``, or on the CPU where the runtime silently falls back to it.

    ``weights`` are those that ``source`` lacks, as the runtime's own values; they must outlive the session.
    Raises the runtime's exceptions.
    """
    options = onnxruntime.SessionOptions()
    options.log_severity_level = LOG_NOTHING
    if not optimise:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        # Weights in a second, faster layout would double the memory of a session that is run a few times.
        options.add_session_config_entry("session.disable_prepacking", "1")
    options.enable_cpu_mem_arena = keeps_memory
    # The runtime's own default counts the machine's cores, whatever this process may use of them.
    options.intra_op_num_threads = intra_op_threads or available_cpus()
    if weights and optimise:
        options.add_external_initializers(list(weights), list(weights.values()))
    elif weights:
        # No copies, but an optimiser would find nothing to compute with, and may replace some.
        options.add_session_config_entry(EXTERNAL_FOLDER, str(PLACEHOLDER.parent))
        for name, value in weights.items():
            options.add_initializer(name, value)
    providers: list[str | tuple[str, dict[str, str]]] = [CPU_PROVIDER]
    if provider is Provider.CUDA:
        # Finds CUDA in NVIDIA's Python packages. What it prints of missing ones, the session says again.
        with contextlib.redirect_stdout(io.StringIO()):
            onnxruntime.preload_dlls()
        providers.insert(0, (CUDA_PROVIDER, dict(cuda)))
    # The runtime's own fallback would print to the terminal and hide where the model runs.
    return onnxruntime.InferenceSession(
        source,
        options,
        providers=providers,
        enable_fallback=False,
        disabled_optimizers=list(disabled_optimisers),
    )


def _execution(session: Any, provider: Provider, precision: Precision) -> Execution:
    runtime = f"onnxruntime {onnxruntime.__version__}"
    if provider is Provider.CUDA:
        tf32 = session.get_provider_options()[CUDA_PROVIDER]["use_tf32"] == "1"
        return Execution(
            runtime=runtime,
            device=device_name() or "CUDA",
            precision=Precision.TF32 if tf32 else precision,
            threads=None,
            streams=None,
            layers={},
        )
    return Execution(
        runtime=runtime,
        device=cpu_model() or "CPU",
        precision=precision,
        threads=session.get_session_options().intra_op_num_threads,
        streams=None,
        layers={},
    )


def _spec(argument: Any, model: str) -> TensorSpec:
    dtype = DTYPES.get(argument.type)
    if dtype is None:
        raise UnsupportedModel(
            f"{model}: '{argument.name}' is a {argument.type}; "
            f"inputs and outputs must be one of {', '.join(DTYPES)}"
        )
    # The runtime gives [] for a scalar and for an unknown rank alike.
    return TensorSpec(argument.name, dtype, tuple(argument.shape) or None)


def _load_error(model: str, error: Exception) -> LoadFailed:
    message = str(error)
    kind = type(error).__name__
    text = f"{model} cannot be loaded: {useful_part(message)}"
    if kind == "NotImplemented" or any(part in message for part in UNSUPPORTED):
        return UnsupportedModel(f"{text}; export it again with operators and an opset that this runtime has")
    return InvalidModel(f"{text}; export it again and check it with onnx.checker")
