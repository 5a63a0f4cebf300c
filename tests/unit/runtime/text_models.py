"""Sessions of models that are written as text."""

from pathlib import Path

import onnx
from foldserve.runtime.onnxruntime_session import OnnxRuntimeSession
from foldserve.runtime.session import Array
from foldserve.settings import ProviderChoice
from onnx import numpy_helper

TYPE_NAMES = {
    "tensor(bool)": "bool",
    "tensor(float)": "float",
    "tensor(double)": "double",
    "tensor(string)": "string",
}


def model(text: str, *, opset: int = 17, ir_version: int = 9, **weights: Array) -> bytes:
    """A serialised model from ONNX's text form, with ``weights`` as initialisers."""
    parsed = onnx.parser.parse_model(f'<ir_version: {ir_version}, opset_import: ["": {opset}]> {text}')
    parsed.graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in weights.items())
    return bytes(parsed.SerializeToString())


def cpu(source: Path | bytes, *, optimise: bool = True) -> OnnxRuntimeSession:
    return OnnxRuntimeSession(source, provider=ProviderChoice.CPU, optimise=optimise, intra_op_threads=1)


def identity(runtime_type: str) -> OnnxRuntimeSession:
    element = TYPE_NAMES.get(runtime_type, runtime_type.removeprefix("tensor(").removesuffix(")"))
    return cpu(model(f"g ({element}[n, 2] x) => ({element}[n, 2] y) {{ y = Identity(x) }}"))
