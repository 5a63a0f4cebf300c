"""The models that the serving benchmarks serve, each in a repository of its own under ``build/``.

They are exported when they are first needed, by ``serving_export.py``: nobody who measures needs torch.
"""

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from foldserve_proto import grpc_service_pb2 as pb

HERE = Path(__file__).parent
BUILD = HERE / "build"
INPUT = "x"


@dataclass(frozen=True)
class Model:
    """A model of the benchmarks; ``shape`` is that of one input without the batch."""

    name: str
    shape: tuple[int, ...]

    @property
    def repository(self) -> Path:
        """The repository that holds this model alone."""
        return BUILD / self.name

    @property
    def file(self) -> Path:
        """The exported model."""
        return self.repository / self.name / "1" / "model.onnx"

    def exported(self) -> "Model":
        """This model, exported if it was not before."""
        if not self.file.exists():
            subprocess.run(
                [sys.executable, str(HERE / "serving_export.py"), self.name],
                check=True,
                env=os.environ | {"PYTHONPATH": str(HERE.parent / "tests")},
            )
        return self

    def request(self) -> pb.ModelInferRequest:
        """A request for one random image, in raw contents."""
        image = np.random.default_rng(0).standard_normal((1, *self.shape), np.float32)
        tensor = pb.ModelInferRequest.InferInputTensor(name=INPUT, datatype="FP32", shape=image.shape)
        return pb.ModelInferRequest(
            model_name=self.name, inputs=[tensor], raw_input_contents=[image.tobytes()]
        )


IMAGE = (3, 224, 224)
TINY = Model("tiny", (1, 28, 28))
PATCHES = Model("patches", IMAGE)
MOBILENET = Model("mobilenet_v2", IMAGE)
RESNET = Model("resnet50", IMAGE)
MODELS = {model.name: model for model in (TINY, PATCHES, MOBILENET, RESNET)}
