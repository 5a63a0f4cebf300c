"""Export models of the serving benchmarks: ``serving_export.py MODEL...``.

With random weights and the statistics that these cause, a batch axis of any size, and all their BatchNorms.
"""

import sys
from collections.abc import Callable
from functools import partial

import onnx_ir as ir
import torch
from folding_models import huggingface
from foldserve.importing.torch_program import to_onnx
from serving_models import INPUT, MODELS, Model
from torch import nn
from zoo.architecture import Architecture, trained

UNCOUNTED = (0, 0, 0, 0)
"""How many BatchNorms there are, and how many stay, is not asked here."""


def tiny() -> nn.Module:
    """A classifier of 28×28 images with 1.9 million multiplications, as small as CNNs in service get."""

    def block(inputs: int, outputs: int) -> list[nn.Module]:
        convolution = nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)
        return [convolution, nn.BatchNorm2d(outputs), nn.ReLU(), nn.MaxPool2d(2)]

    return nn.Sequential(*block(1, 16), *block(16, 32), *block(32, 64), nn.Flatten(), nn.Linear(64 * 9, 10))


def patches() -> nn.Module:
    """Next to no computation on an image of 602 kB: what is left is the cost of moving it."""
    return nn.Sequential(
        nn.Conv2d(3, 8, 16, stride=16, bias=False),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, 10),
    )


BUILDERS: dict[str, Callable[[], nn.Module]] = {
    "tiny": tiny,
    "patches": patches,
    "mobilenet_v2": partial(huggingface, "MobileNetV2", tf_padding=False),
    "resnet50": partial(huggingface, "ResNet"),
}


def export(model: Model) -> None:
    """Write the model's file."""
    architecture = Architecture(model.name, BUILDERS[model.name], model.shape, 0, UNCOUNTED)
    module = trained(architecture, batches=1)
    program = torch.export.export(
        module, (architecture.inputs(0),), dynamic_shapes=({0: torch.export.Dim.DYNAMIC},)
    )
    exported = to_onnx(program)
    exported.graph.inputs[0].name = INPUT
    model.file.parent.mkdir(parents=True, exist_ok=True)
    unfinished = model.file.with_suffix(".unfinished")
    ir.save(exported, unfinished)
    unfinished.rename(model.file)


if __name__ == "__main__":
    for name in sys.argv[1:]:
        export(MODELS[name])
