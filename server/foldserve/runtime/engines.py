"""The engines that may run a model: a runtime on a device, multiplying in one precision. One row each."""

from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from foldserve.runtime.cuda import cuda_options
from foldserve.runtime.onnxruntime_session import OnnxRuntimeSession
from foldserve.runtime.openvino_session import OpenVinoSession, openvino_missing
from foldserve.runtime.session import Provider, Session
from foldserve.runtime.tuning import Layout
from foldserve.settings import CudnnSearch, Precision, ProviderChoice


@dataclass(frozen=True)
class Plan:
    """How an engine is to run a model."""

    name: str
    """Stands for the model in errors."""

    layout: Layout
    warm_rows: int = 1
    """Rows of the largest run that must not be held up by what an engine prepares for each number of rows."""

    optimise: bool = True
    disabled_optimisers: Collection[str] = ()
    cudnn_search: CudnnSearch = CudnnSearch.HEURISTIC


@dataclass(frozen=True)
class Engine:
    """One row of the table."""

    name: str
    provider: Provider
    precision: Precision
    open: Callable[[Path, Plan], Session]
    """Opens an ONNX file; raises the exceptions under :class:`~foldserve.errors.LoadFailed`."""

    missing: Callable[[], str] = str
    """Why it cannot run here; empty if it can."""

    @property
    def runs_conversion(self) -> bool:
        """Whether it runs a model that was converted to its precision first."""
        return self.precision in {Precision.INT8, Precision.FLOAT16}


def _onnxruntime(
    provider: ProviderChoice,
    file: Path,
    plan: Plan,
    *,
    tf32: bool = False,
    channels_last: bool = False,
    converted: Precision = Precision.FLOAT32,
) -> Session:
    return OnnxRuntimeSession(
        file,
        provider=provider,
        cuda=cuda_options(plan.cudnn_search, tf32=tf32, channels_last=channels_last),
        optimise=plan.optimise,
        disabled_optimisers=plan.disabled_optimisers,
        intra_op_threads=plan.layout.threads,
        precision=converted,
        name=plan.name,
    )


def _openvino(precision: Precision, file: Path, plan: Plan) -> Session:
    return OpenVinoSession(
        file,
        precision=precision,
        threads=plan.layout.threads,
        streams=plan.layout.instances,
        warm_rows=plan.warm_rows,
        name=plan.name,
    )


_cpu, _cuda = (partial(_onnxruntime, choice) for choice in (ProviderChoice.CPU, ProviderChoice.CUDA))


def _openvino_engine(precision: Precision, computes: Precision) -> Engine:
    return Engine(
        f"openvino-cpu-{precision}",
        Provider.CPU,
        precision,
        partial(_openvino, computes),
        partial(openvino_missing, computes),
    )


def _on_tensor_cores(precision: Precision, opened: "partial[Session]") -> tuple[Engine, Engine]:
    """As it comes and channels last: which is faster depends on the model and on the GPU."""
    name = f"onnxruntime-cuda-{precision}"
    return (
        Engine(name, Provider.CUDA, precision, opened),
        Engine(f"{name}-nhwc", Provider.CUDA, precision, partial(opened, channels_last=True)),
    )


ENGINES = (
    Engine("onnxruntime-cpu-float32", Provider.CPU, Precision.FLOAT32, _cpu),
    _openvino_engine(Precision.FLOAT32, computes=Precision.FLOAT32),
    _openvino_engine(Precision.BFLOAT16, computes=Precision.BFLOAT16),
    Engine("onnxruntime-cpu-int8", Provider.CPU, Precision.INT8, partial(_cpu, converted=Precision.INT8)),
    # What is quantised says so in its graph; what is not stays in float32.
    _openvino_engine(Precision.INT8, computes=Precision.FLOAT32),
    Engine("onnxruntime-cuda-float32", Provider.CUDA, Precision.FLOAT32, _cuda),
    *_on_tensor_cores(Precision.TF32, partial(_cuda, tf32=True)),
    *_on_tensor_cores(Precision.FLOAT16, partial(_cuda, converted=Precision.FLOAT16)),
)
"""Of each device the first is the baseline: what others must beat, and what takes over from them."""

BY_NAME = {engine.name: engine for engine in ENGINES}


def is_baseline(name: str) -> bool:
    """Whether the engine of this name is the baseline of its device."""
    return baseline(BY_NAME[name].provider).name == name


def baseline(provider: Provider) -> Engine:
    """The engine that is always there on a device: float32, by ONNX Runtime."""
    return next(engine for engine in ENGINES if engine.provider is provider)


def rivals(provider: Provider, precisions: Iterable[Precision]) -> list[Engine]:
    """The other engines on a device that compute in one of ``precisions``."""
    allowed = frozenset(precisions)
    first = baseline(provider)
    return [
        engine
        for engine in ENGINES
        if engine.provider is provider and engine is not first and engine.precision in allowed
    ]
