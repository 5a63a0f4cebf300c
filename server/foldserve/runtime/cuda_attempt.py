"""Runs one convolution on CUDA: exit status 0 if it ran there, else 1 and why not on stderr."""

import sys

import numpy as np
from onnx import TensorProto, helper

from foldserve.runtime.onnxruntime_module import CUDA_PROVIDER, LOG_ERRORS, onnxruntime
from foldserve.runtime.onnxruntime_session import create_inference_session
from foldserve.runtime.session import Provider


def convolution() -> bytes:
    """A serialised model of one convolution: float32 [1, 1, 8, 8] → [1, 1, 6, 6]."""
    graph = helper.make_graph(
        [helper.make_node("Conv", ["image", "weight"], ["features"])],
        "convolution",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, 1, 8, 8])],
        [helper.make_tensor_value_info("features", TensorProto.FLOAT, [1, 1, 6, 6])],
        [helper.make_tensor("weight", TensorProto.FLOAT, [1, 1, 3, 3], [1.0] * 9)],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return bytes(model.SerializeToString())


def main() -> int:
    """Exit status of the attempt."""
    onnxruntime.set_default_logger_severity(LOG_ERRORS)
    session = create_inference_session(convolution(), Provider.CUDA)
    if CUDA_PROVIDER not in session.get_providers():
        return 1
    (features,) = session.run(None, {"image": np.ones((1, 1, 8, 8), np.float32)})
    return 0 if np.array_equal(features, np.full((1, 1, 6, 6), 9.0, np.float32)) else 1


if __name__ == "__main__":
    sys.exit(main())
