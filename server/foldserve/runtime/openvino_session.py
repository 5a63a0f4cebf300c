"""OpenVINO on the CPU behind the :class:`~foldserve.runtime.session.Session` protocol.

OpenVINO checks next to nothing of what a run is given: to a shape that does not fit it answers with what
happens to lie in memory. So everything is checked before it gets there.
"""

import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
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
from foldserve.runtime.cpus import available_cpus
from foldserve.runtime.messages import useful_part
from foldserve.runtime.no_rows import answer_to_no_rows, have_no_rows, rows_are_open
from foldserve.runtime.onnx_tensors import Specs, declared_tensors
from foldserve.runtime.openvino_module import core, cpu_capabilities, installed, openvino
from foldserve.runtime.openvino_shapes import ShapeCheck
from foldserve.runtime.session import Array, Execution, Provider
from foldserve.runtime.tensors import BFLOAT16, TensorSpec
from foldserve.settings import Precision

DEVICE = "CPU"

HINTS = {Precision.FLOAT32: "f32", Precision.BFLOAT16: "bf16", Precision.FLOAT16: "f16"}
"""OpenVINO's name of each precision that it may be told to compute in."""

INTEGERS = frozenset({"i8", "u8"})
"""OpenVINO's name of the precisions of layers that multiply integers, as a quantised model has them."""

CAPABILITIES = {Precision.FLOAT32: "FP32", Precision.BFLOAT16: "BF16", Precision.FLOAT16: "FP16"}
"""OpenVINO's name of the units that a CPU needs for it: without, it silently computes in float32."""

NARROWED = frozenset({"uint32", "uint64", "int64", "float64"})
"""Element types that OpenVINO computes in 32 bits, whatever they hold."""

COUNTED_ON = frozenset({"int64"})
"""Those of them that are sound as outputs: classes and counts are no larger."""

UNREADABLE = "Loading input model"
"""What OpenVINO says of damaged files; all else that it says at load is of what it does not support."""

NOT_COMPUTED = frozenset({"Const", "Input", "Output"})
"""Layers of a compiled model in which nothing is computed."""

NO_KERNEL = "unknown"
"""What the kernel's name begins with in layers that only give another shape to what there is."""

WARM_S = 2.0
"""For making kernels, about: where it takes longer, so do runs, and further kernels matter little."""


def openvino_missing(precision: Precision) -> str:
    """Why OpenVINO cannot compute in ``precision`` here, and what to do; empty if it can.

    Imports OpenVINO where it is installed.
    """
    if precision not in HINTS:
        return f"OpenVINO computes in {', '.join(HINTS)} on CPUs, not in {precision}"
    if not installed():
        return "OpenVINO is not installed: pip install 'foldserve[openvino]'"
    try:
        capabilities = cpu_capabilities()
    except Exception as error:  # whatever a broken installation raises
        return f"OpenVINO cannot be loaded: {error}"
    if CAPABILITIES[precision] not in capabilities:
        return f"this CPU has no {precision} units"
    return ""


class OpenVinoSession:
    """A model in OpenVINO on the CPU; implements :class:`~foldserve.runtime.session.Session`."""

    def __init__(
        self,
        source: Path,
        *,
        precision: Precision = Precision.FLOAT32,
        threads: int | None = None,
        streams: int = 1,
        warm_rows: int = 1,
        name: str | None = None,
    ) -> None:
        """Load ``source``, an ONNX file, external data beside it, and compile it to compute in ``precision``.

        ``streams`` runs are computed side by side, each by ``threads`` threads; None for all processors that
        this process may use. More than the machine has cores are not taken: see :attr:`execution`.
        ``warm_rows``: kernels for this many rows, and for fewer, are made now where a run would be held up by
        it, so the rows of all inputs must be their first axes. ``name`` stands for the model in errors.

        Raises :class:`InvalidModel`, :class:`UnsupportedModel` or :class:`ProviderUnavailable`.
        """
        self._name = name or str(source)
        missing = openvino_missing(precision)
        if missing:
            raise ProviderUnavailable(f"{self._name}: {missing}")
        self._inputs, self._outputs = declared_tensors(source, self._name)
        _refuse_what_is_narrowed(self._name, self._inputs, self._outputs)
        self._rows_are_open = rows_are_open((*self._inputs, *self._outputs))
        threads = threads or max(1, available_cpus() // streams)
        try:
            model = core().read_model(source)
            _refuse_computed_indices(self._name, model)
            self._compiled: Any = core().compile_model(model, DEVICE, _settings(precision, threads, streams))
            self._ports = _ports(self._compiled)
            self._fits: ShapeCheck | None = ShapeCheck(model)
        except LoadFailed:
            raise
        except Exception as error:  # whatever comes out of it
            raise _load_error(self._name, error) from error
        unknown = [spec.name for spec in (*self._inputs, *self._outputs) if spec.name not in self._ports]
        if unknown:
            raise UnsupportedModel(f"{self._name}: OpenVINO has lost {', '.join(map(repr, unknown))}")
        computes = _computes_in(self._compiled)
        if computes is not precision:
            raise ProviderUnavailable(
                f"{self._name}: OpenVINO computes in {computes} here, not in {precision}"
            )
        self._execution = _execution(self._compiled)
        self._warm(warm_rows)

    @property
    def provider(self) -> Provider:
        """Where the model runs."""
        return Provider.CPU

    @property
    def execution(self) -> Execution:
        """How the model is really run."""
        return self._execution

    @property
    def inputs(self) -> Specs:
        """What the model takes."""
        return self._inputs

    @property
    def outputs(self) -> Specs:
        """What the model gives."""
        return self._outputs

    def run(self, inputs: Mapping[str, Array], outputs: Sequence[str] | None = None) -> list[Array]:
        """See :meth:`Session.run`."""
        compiled, fits = self._compiled, self._fits
        if compiled is None or fits is None:
            raise ExecutionFailed(f"{self._name} is closed")
        names = list(outputs or (spec.name for spec in self._outputs))
        self._check(inputs, names)
        if self._rows_are_open and have_no_rows(inputs):
            nothing = answer_to_no_rows(inputs, lambda one: self.run(one, names))
            if nothing is not None:
                return nothing
        try:
            fits({name: array.shape for name, array in inputs.items()})
        except RuntimeError as error:
            raise self._refused(inputs, useful_part(str(error))) from error
        try:
            # One for this run alone: another would keep these inputs until it is used again.
            request = compiled.create_infer_request()
            viewed = {name: _viewable(array) for name, array in inputs.items()}
            for name, array in viewed.items():
                request.set_input_tensor(self._ports[name], _view(array))
            request.infer(share_outputs=True)
            return [_array(request.get_output_tensor(self._ports[name])) for name in names]
        except RuntimeError as error:
            raise ExecutionFailed(f"{self._name} failed: {useful_part(str(error))}") from error

    def close(self) -> None:
        """Release the model's memory."""
        self._compiled = self._fits = None

    def _check(self, inputs: Mapping[str, Array], outputs: Sequence[str]) -> None:
        """Refuse what does not fit what the model declares."""
        known = {spec.name for spec in self._outputs}
        for name in outputs:
            if name not in known:
                raise InputRefused(f"{self._name} has no output '{name}', but {', '.join(sorted(known))}")
        expected = {spec.name: spec for spec in self._inputs}
        if inputs.keys() != expected.keys():
            raise self._refused(inputs, f"its inputs are {', '.join(map(repr, expected)) or 'none'}")
        for name, array in inputs.items():
            if not _is_of(array, expected[name]):
                spec = expected[name]
                raise self._refused(inputs, f"'{name}' must be {spec.dtype} {list(spec.shape or ())}")

    def _refused(self, inputs: Mapping[str, Array], reason: str) -> InputRefused:
        given = ", ".join(f"'{name}' {array.dtype} {list(array.shape)}" for name, array in inputs.items())
        return InputRefused(f"{self._name} does not take {given or 'no inputs'}: {reason}")

    def _warm(self, most_rows: int) -> None:
        """Have each stream make its kernels: those of batches of a power of two rows, then the others."""
        powers = [1 << power for power in range(most_rows.bit_length())]
        until = time.monotonic() + WARM_S
        streams = self._execution.streams or 1
        with ThreadPoolExecutor(streams, "warming") as pool, suppress(ExecutionFailed):
            for rows in dict.fromkeys([*powers, *range(1, most_rows + 1)]):
                zeros = _zeros(self._inputs, rows)
                if zeros is None or (rows > 1 and time.monotonic() >= until):
                    return
                list(pool.map(self.run, [zeros] * streams))


def _settings(precision: Precision, threads: int, streams: int) -> dict[str, Any]:
    return {
        # By default it takes bfloat16 where the CPU has it, and rounds what is multiplied by int8 weights.
        "INFERENCE_PRECISION_HINT": HINTS[precision],
        "DYNAMIC_QUANTIZATION_GROUP_SIZE": 0,
        "NUM_STREAMS": streams,
        "INFERENCE_NUM_THREADS": threads * streams,
        "ENABLE_HYPER_THREADING": True,  # or it would count cores where the processors are counted
        "ENABLE_CPU_PINNING": False,  # others compute here, too
    }


def _computes_in(compiled: Any) -> Precision:
    """What it multiplies floats in."""
    names = {hint: precision for precision, hint in HINTS.items()}
    return names[compiled.get_property("INFERENCE_PRECISION_HINT").to_string()]


def _execution(compiled: Any) -> Execution:
    layers = dict(sorted(Counter(_precisions(compiled)).items()))
    streams = int(compiled.get_property("NUM_STREAMS"))
    return Execution(
        runtime=f"openvino {openvino().get_version().partition('-')[0]}",
        device=core().get_property(DEVICE, "FULL_DEVICE_NAME").strip() or DEVICE,
        precision=Precision.INT8 if INTEGERS & layers.keys() else _computes_in(compiled),
        threads=int(compiled.get_property("INFERENCE_NUM_THREADS")) // streams,
        streams=streams,
        layers=layers,
    )


def _precisions(compiled: Any) -> Iterator[str]:
    """That of each layer in which something is computed."""
    for layer in compiled.get_runtime_model().get_ops():
        facts = layer.get_rt_info()
        kernel = facts["primitiveType"].astype(str)
        if facts["layerType"].astype(str) not in NOT_COMPUTED and not kernel.startswith(NO_KERNEL):
            yield facts["runtimePrecision"].astype(str)


def _ports(compiled: Any) -> dict[str, int]:
    """The number of each input among the inputs, and of each output among the outputs, by name."""
    return {
        name: index
        for ports in (compiled.inputs, compiled.outputs)
        for index, port in enumerate(ports)
        for name in port.get_names()
    }


def _refuse_what_is_narrowed(model: str, inputs: Specs, outputs: Specs) -> None:
    for spec, allowed in (
        *((spec, frozenset()) for spec in inputs),
        *((spec, COUNTED_ON) for spec in outputs),
    ):
        if spec.dtype == np.object_:
            raise UnsupportedModel(f"{model}: '{spec.name}' holds strings, which OpenVINO does not take")
        if spec.dtype.name in NARROWED - allowed:
            raise UnsupportedModel(
                f"{model}: '{spec.name}' is {spec.dtype}, which OpenVINO would compute in 32 bits"
            )


def _refuse_computed_indices(name: str, model: Any) -> None:
    """Those that are out of range it answers with zeros, where others refuse them."""
    for operator in model.get_ops():
        if operator.get_type_name().startswith("Gather"):
            indices = operator.input_value(1).get_node()
            if indices.get_type_name() != "Constant":
                raise UnsupportedModel(f"{name}: OpenVINO does not check indices that are computed")


def _load_error(model: str, error: Exception) -> LoadFailed:
    text = f"{model} cannot be loaded by OpenVINO: {useful_part(str(error))}"
    return InvalidModel(text) if UNREADABLE in str(error) else UnsupportedModel(text)


def _is_of(array: Array, spec: TensorSpec) -> bool:
    """Whether ``array`` is what ``spec`` says, as far as it says it."""
    if array.dtype != spec.dtype or spec.shape is None:
        return array.dtype == spec.dtype
    return len(spec.shape) == array.ndim and all(
        size == dim for size, dim in zip(array.shape, spec.shape, strict=True) if isinstance(dim, int)
    )


def _zeros(inputs: Specs, rows: int) -> dict[str, Array] | None:
    """So many rows; None where it is not known what they look like, or their number is fixed otherwise."""
    zeros: dict[str, Array] = {}
    for spec in inputs:
        if spec.shape is None:
            return None
        first, *others = spec.shape
        sizes = [size for size in others if isinstance(size, int)]
        if len(sizes) < len(others) or (isinstance(first, int) and first != rows):
            return None
        zeros[spec.name] = np.zeros((rows, *sizes), spec.dtype)
    return zeros


def _viewable(array: Array) -> Array:
    """``array``, or a copy where OpenVINO cannot read it where it lies; it must not be written to."""
    return np.require(array, requirements=["C", "A", "W"])


def _view(array: Array) -> Any:
    """OpenVINO's view of an array, which must be there for as long as it is read."""
    if array.dtype == BFLOAT16:
        return openvino().Tensor(array.view(np.uint16), list(array.shape), openvino().Type.bf16)
    return openvino().Tensor(array, shared_memory=True)


def _array(tensor: Any) -> Array:
    """A copy: what OpenVINO answers with is gone with the request."""
    array: Array = tensor.data.copy()
    return array.view(BFLOAT16) if tensor.element_type == openvino().Type.bf16 else array
