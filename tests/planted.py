"""A fold that is wrong, planted behind the gate."""

import onnx
from foldserve.runtime.onnxruntime_session import OnnxRuntimeSession
from foldserve.server import Server
from foldserve.settings import ProviderChoice
from onnx import numpy_helper
from running import EXAMPLE_MODELS


def plant_a_wrong_fold(server: Server, factor: float = 1.02) -> None:
    """Have the bundled model answer with one wrong channel, as a fold that the gate let through would."""
    model = onnx.load(EXAMPLE_MODELS / "digits" / "1" / "model.onnx")
    weight = next(tensor for tensor in model.graph.initializer if len(tensor.dims) == 4)
    values = numpy_helper.to_array(weight).copy()
    values[0] *= factor
    weight.CopyFrom(numpy_helper.from_array(values, weight.name))
    wrong = OnnxRuntimeSession(model.SerializeToString(), provider=ProviderChoice.CPU)
    server._manager.servable("digits")._batcher.use(wrong)
