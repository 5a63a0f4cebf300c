"""Triton: a model of its Python backend; PyTriton's wheel has no ONNX Runtime backend."""

import os
import sys

# The backend starts Python without looking at PYTHONPATH.
sys.path[:0] = os.environ["PYTHONPATH"].split(":")

import numpy as np  # noqa: E402
import triton_python_backend_utils as triton  # noqa: E402
from engine import Engine  # noqa: E402


class TritonPythonModel:
    """Runs together what the dynamic batcher hands over."""

    def initialize(self, args: dict[str, str]) -> None:
        """Open the model."""
        self._engine = Engine()

    def execute(self, requests: list) -> list:
        """Scores of each request."""
        images = [triton.get_input_tensor_by_name(request, "x").as_numpy() for request in requests]
        scores = self._engine.run(np.concatenate(images) if len(images) > 1 else images[0])
        ends = np.cumsum([len(rows) for rows in images])[:-1]
        return [
            triton.InferenceResponse([triton.Tensor(self._engine.output, part)])
            for part in np.split(scores, ends)
        ]
