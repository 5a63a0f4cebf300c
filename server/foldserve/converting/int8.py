"""Static quantisation: convolutions and matrix products of 8-bit integers, what CPUs multiply fastest.

Each weight w becomes int8 with one step per output channel, each activation x uint8 with one step and one
zero: w ≈ s·q, x ≈ t·(p − z). The products are then sums of integers, rounded once for a whole output. Steps
and zeros of the activations come from the least and the greatest value that the samples cause (on the
networks tried, the library's percentiles and entropies brought no more, means over the samples much less).
The model is written with QuantizeLinear and DequantizeLinear around float operators; the runtime fuses them
into integer ones.

**BatchNorm has to be folded first.** All channels of an activation share one step, and a channel of small
variance is rounded with the step of the widest, before BatchNorm scales its error up. Besides, BatchNorm runs
in float32: the integers are widened, normalised, and rounded to 8 bits a second time.

Not quantised: the last convolution or matrix product on the way to each output, since 8 bits would be all
that the answers have, and matrix products of two computed values.
"""

import logging
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
from numpy.typing import NDArray

from foldserve.converting.prepare import prepared, weights_bytes
from foldserve.errors import LoadFailed, UnsupportedModel

Array = NDArray[np.generic]

PRODUCTS = frozenset({"Conv", "Gemm", "MatMul"})

FOLLOWERS = frozenset(
    {
        *("Relu", "LeakyRelu", "Clip", "Sigmoid", "Add", "Mul", "Concat", "MaxPool", "AveragePool"),
        *("GlobalAveragePool", "Resize", "Pad", "Split", "Slice", "Reshape", "Flatten", "Transpose"),
        *("Squeeze", "Unsqueeze"),
    }
)
"""Operators that have an integer form, so that between the products nothing is widened and rounded again."""

OLDEST_OPSET = 13
"""The first with one step per channel; models of older operator sets are converted to it."""

LARGEST_BYTES = 1_900_000_000
"""The library holds the model as one protobuf message, which ends at 2 GB."""

_FLOATS = frozenset({ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.BFLOAT16, ir.DataType.DOUBLE})


def quantise(
    model: Path, samples: Sequence[Mapping[str, Array]], destination: Path, *, reduce_range: bool
) -> None:
    """Write ``model``, a folded float32 model, to ``destination`` with its products in 8-bit integers.

    Inputs and outputs keep names, types and shapes.

    Args:
        model: an ONNX file; its weights may lie in a file beside it.
        samples: inputs as they will come, by name, one batch of any size after the other: the range of each
            activation is taken from them.
        destination: the file to write, replaced if it exists; its folder holds the temporary files.
        reduce_range: give the weights 7 bits. Needed on x86 processors without VNNI, whose sums of two
            products saturate at 16 bits; a waste elsewhere.

    Raises:
        UnsupportedModel: it has nothing to quantise, has branches or loops, is quantised already, is larger
            than 1.9 GB, or does not run on the samples.
        InvalidModel: the file is not a readable ONNX model.
        OSError: a file cannot be read or written.
    """
    if not samples:
        raise UnsupportedModel(
            f"{model.name}: int8 needs samples of real inputs to take the ranges of its activations from: "
            "put a samples.npz into the model's folder"
        )
    ready = prepared(model)
    _refuse(ready, model.name)
    try:
        ready = _modern(ready)
        chosen = _chosen(ready.graph)
        if not chosen:
            raise UnsupportedModel(
                f"{model.name}: nothing to quantise before the last layer: no Conv, Gemm or MatMul with "
                "constant float32 weights; serve it in float32"
            )
        with (
            tempfile.TemporaryDirectory(prefix=".foldserve-", dir=destination.parent) as folder,
            _quiet(),
            np.errstate(all="ignore"),
        ):
            written = _quantised(ready, chosen, samples, Path(folder), reduce_range)
            written.replace(destination)
    except (LoadFailed, OSError):
        raise
    except Exception as error:  # the library and ONNX Runtime raise anything
        raise UnsupportedModel(
            f"{model.name} cannot be quantised to int8: {error}; serve it in float32"
        ) from error


def _refuse(model: ir.Model, name: str) -> None:
    operators = {node.op_type for node in model.graph.all_nodes()}
    if operators & {"DequantizeLinear", "QLinearConv", "QLinearMatMul", "ConvInteger", "MatMulInteger"}:
        raise UnsupportedModel(f"{name} is quantised already; serve it as it is")
    if len(list(model.graphs())) > 1:
        raise UnsupportedModel(
            f"{name} has branches or loops (If, Loop, Scan), whose values cannot be calibrated; serve it in "
            "float32"
        )
    if (size := weights_bytes(model)) > LARGEST_BYTES:
        raise UnsupportedModel(
            f"{name} has {size / 1e9:.1f} GB of weights, and int8 is for models up to "
            f"{LARGEST_BYTES / 1e9:.1f} GB; serve it in float32"
        )


def _modern(model: ir.Model) -> ir.Model:
    """``model`` in an operator set that has one step per channel."""
    if model.graph.opset_imports.get("", OLDEST_OPSET) >= OLDEST_OPSET:
        return model
    return ir.from_proto(onnx.version_converter.convert_version(ir.to_proto(model), OLDEST_OPSET))


def _chosen(graph: ir.Graph) -> list[str]:
    """The nodes to quantise; empty where there is no product among them."""
    last = _last_products(graph)
    products = [node for node in graph if _is_product(node) and node not in last]
    followers = [node for node in graph if _is_follower(node)]
    return [node.name for node in (*products, *followers) if node.name] if products else []


def _last_products(graph: ir.Graph) -> set[ir.Node]:
    """The products from which an output of the graph is reached without another one."""
    found, seen = set(), set()
    waiting = [value.producer() for value in graph.outputs]
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if node.op_type in PRODUCTS:
            found.add(node)
        else:
            waiting.extend(value.producer() for value in node.inputs if value is not None)
    return found


def _is_product(node: ir.Node) -> bool:
    weight = node.inputs[1] if node.op_type in PRODUCTS else None
    return weight is not None and weight.is_initializer() and _is_float32(node)


def _is_follower(node: ir.Node) -> bool:
    """Not average pools of partial windows: ONNX Runtime's integer one divides by the whole kernel (1.31).

    Nor dilated ones, which it refuses to load.
    """
    partial = node.attributes.get_int("ceil_mode", 0) != 0
    dilated = set(node.attributes.get_ints("dilations", ())) - {1}
    wrong = node.op_type == "AveragePool" and (partial or dilated)
    return node.op_type in FOLLOWERS and _is_float32(node) and not wrong


def _is_float32(node: ir.Node) -> bool:
    types = {value.dtype for value in (*node.inputs, *node.outputs) if value is not None}
    return node.domain == "" and types & _FLOATS == {ir.DataType.FLOAT}


def _quantised(
    model: ir.Model,
    chosen: list[str],
    samples: Sequence[Mapping[str, Array]],
    folder: Path,
    reduce_range: bool,
) -> Path:
    """The quantised model, in ``folder``."""
    os.environ["ORT_DISABLE_TELEMETRY"] = (
        "1"  # as soon as ONNX Runtime is imported it writes into the home folder
    )
    from onnxruntime import quantization  # noqa: PLC0415  # only who quantises pays for it

    class Samples(quantization.CalibrationDataReader):  # type: ignore[misc]  # the library has no types
        def __init__(self) -> None:
            self._left: Iterator[Mapping[str, Array]] = iter(samples)

        def get_next(self) -> dict[str, Array] | None:
            sample = next(self._left, None)
            return None if sample is None else dict(sample)

    source, written = folder / "float32.onnx", folder / "int8.onnx"
    ir.save(model, source)
    quantization.quantize_static(
        source,
        written,
        Samples(),
        quant_format=quantization.QuantFormat.QDQ,
        activation_type=quantization.QuantType.QUInt8,
        weight_type=quantization.QuantType.QInt8,
        per_channel=True,
        reduce_range=reduce_range,
        op_types_to_quantize=sorted(PRODUCTS | FOLLOWERS),
        nodes_to_quantize=chosen,
    )
    _check_steps(written)
    return written


def _check_steps(written: Path) -> None:
    """Raise ValueError where a sample caused values without a range: NaN or infinite ones."""
    model = ir.load(written)
    for node in model.graph:
        step = node.inputs[1].const_value if node.op_type == "QuantizeLinear" and node.inputs[1] else None
        if step is not None and not np.isfinite(step.numpy()).all():
            raise ValueError(f"the samples cause NaN or infinite values in '{node.inputs[0]}'")


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the library, which writes to the root logger and gives it a handler, out of everybody's log."""

    def is_ours(record: logging.LogRecord) -> bool:
        return f"{os.sep}onnxruntime{os.sep}" not in record.pathname

    root, silent = logging.getLogger(), logging.NullHandler()
    root.addHandler(silent)
    root.addFilter(is_ours)
    try:
        yield
    finally:
        root.removeFilter(is_ours)
        root.removeHandler(silent)
