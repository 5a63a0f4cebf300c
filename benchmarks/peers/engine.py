"""What every peer runs: one ONNX Runtime session, as wide as the one core that a server has.

MODEL_NAME and MODEL_FILE in the environment say which model; all peers are started with them.
"""

import os

import numpy as np
import onnxruntime

NAME = os.environ["MODEL_NAME"]
MAX_BATCH = 64
"""Rows that may share a run, wherever a peer batches."""


class Engine:
    """The model; ``shape`` is that of one image."""

    def __init__(self) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.inter_op_num_threads = 1
        self._session = onnxruntime.InferenceSession(
            os.environ["MODEL_FILE"], options, providers=["CPUExecutionProvider"]
        )
        (self._input,) = self._session.get_inputs()
        self.output = self._session.get_outputs()[0].name
        self.shape = tuple(self._input.shape[1:])

    def run(self, images: np.ndarray) -> np.ndarray:
        """Scores float32 [n, classes] of images float32 [n, *shape]."""
        return self._session.run([self.output], {self._input.name: images})[0]

    def images(self, body: bytes) -> np.ndarray:
        """The images float32 [n, *shape] in the body of a request."""
        return np.frombuffer(body, np.float32).reshape(-1, *self.shape)
