"""The models of the scaling benchmark, made when they are first needed: idle ones, and many alike."""

from pathlib import Path

import numpy as np
import onnx_ir as ir
from foldserve_proto import grpc_service_pb2 as pb
from serving_models import BUILD, INPUT, TINY, Model

FOLDER = BUILD / "scaling"
PIXEL_BYTES = 4


def echoing(payload_bytes: int) -> Model:
    """A model that answers each image with one of the same size, with next to nothing to compute.

    The image is square, so ``payload_bytes`` is four times a square number.
    """
    side = round((payload_bytes / PIXEL_BYTES) ** 0.5)
    return Model(f"echoing_{payload_bytes}", (1, side, side))


def echoing_repository(sizes: tuple[int, ...]) -> Path:
    """The repository with an echoing model for each size in bytes."""
    repository = FOLDER / "echoing"
    for size in sizes:
        model = echoing(size)
        _write(_relu(model.shape), repository / model.name)
    return repository


def copies(count: int) -> tuple[Path, list[Model]]:
    """A repository of so many models like the tiny one, each with weights of its own; and these models."""
    repository = FOLDER / "copies"
    models = [Model(f"tiny_{number:03}", TINY.shape) for number in range(count)]
    for number, model in enumerate(models):
        if not (repository / model.name).exists():
            _write(_varied(number), repository / model.name)
    return repository, models


def of_rows(request: pb.ModelInferRequest, rows: int) -> pb.ModelInferRequest:
    """The same request with its only row so many times."""
    longer = pb.ModelInferRequest()
    longer.CopyFrom(request)
    longer.inputs[0].shape[0] = rows
    longer.raw_input_contents[0] = rows * request.raw_input_contents[0]
    return longer


def _relu(shape: tuple[int, ...]) -> ir.Model:
    """``x`` float32 [batch, 1, side, side] → ``y`` of the same shape."""
    x, y = (ir.val(name, ir.DataType.FLOAT, ["batch", *shape]) for name in (INPUT, "y"))
    node = ir.node("Relu", [x], outputs=[y])
    return ir.Model(ir.Graph([x], [y], nodes=[node], opset_imports={"": 18}, name="echoing"), ir_version=9)


def _varied(number: int) -> ir.Model:
    """The tiny model with slightly other weights: what is kept or mapped by content is not shared."""
    model = ir.load(TINY.exported().file)
    for value in model.graph.initializers.values():
        if value.const_value is not None and value.const_value.dtype == ir.DataType.FLOAT:
            other = value.const_value.numpy() * np.float32(1 + number / 1000)
            value.const_value = ir.tensor(other, name=value.name)
    return model


def _write(model: ir.Model, folder: Path) -> None:
    file = folder / "1" / "model.onnx"
    file.parent.mkdir(parents=True, exist_ok=True)
    ir.save(model, file)
