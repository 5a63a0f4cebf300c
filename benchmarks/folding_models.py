"""Published architectures at their full size, with random weights: what the folding benchmarks run on.

From the packages pytorchcv and transformers, and RepVGG from the tests' zoo.
"""

import importlib
from collections.abc import Callable
from functools import partial
from typing import Any

import transformers
from torch import nn
from zoo import residual
from zoo.architecture import Architecture
from zoo.blocks import classifier, seq
from zoo.published import Logits

LEFT_UNKNOWN = (0, 0, 0, 0)
"""These benchmarks count; the tables of expected counts belong to the tests."""


def pytorchcv(module: str, function: str, **options: Any) -> nn.Module:
    """A network of pytorchcv, without its trained weights."""
    built: nn.Module = getattr(importlib.import_module(f"pytorchcv.models.{module}"), function)(**options)
    return built


def huggingface(kind: str, **options: Any) -> nn.Module:
    """An image classifier of transformers in its published configuration."""
    config = getattr(transformers, f"{kind}Config")(**options)
    return Logits(getattr(transformers, f"{kind}ForImageClassification")(config))


def repvgg_a0() -> nn.Module:
    """RepVGG-A0 as it is trained: 22 blocks, 61 BatchNorms."""
    layers: list[nn.Module] = [residual.repvgg(3, 48, 2)]
    inputs = 48
    for outputs, depth in ((48, 2), (96, 4), (192, 14), (1280, 1)):
        for index in range(depth):
            layers.append(residual.repvgg(inputs, outputs, 1 if index else 2))
            inputs = outputs
    return seq(*layers, classifier(1280, classes=1000))


IMAGE = (3, 224, 224)

PYTORCHCV = {
    "resnet18": "resnet",
    "resnet50": "resnet",
    "preresnet18": "preresnet",
    "preresnet50": "preresnet",
    "resnext50_32x4d": "resnext",
    "seresnet18": "seresnet",
    "ibn_resnet50": "ibnresnet",
    "sknet50": "sknet",
    "bagnet9": "bagnet",
    "regnetx002": "regnet",
    "regnety002": "regnet",
    "densenet121": "densenet",
    "condensenet74_c4_g4": "condensenet",
    "peleenet": "peleenet",
    "dpn68": "dpn",
    "bn_vgg16": "vgg",
    "bninception": "bninception",
    "darknet53": "darknet53",
    "vovnet39": "vovnet",
    "hardnet68": "hardnet",
    "dla34": "dla",
    "mobilenet_w1": "mobilenet",
    "mobilenetv2_w1": "mobilenetv2",
    "mobilenetv3_large_w1": "mobilenetv3",
    "mnasnet_b1": "mnasnet",
    "efficientnet_b0": "efficientnet",
    "mixnet_s": "mixnet",
    "ghostnet": "ghostnet",
    "proxylessnas_cpu": "proxylessnas",
    "shufflenet_g3_w1": "shufflenet",
    "shufflenetv2_w1": "shufflenetv2",
    "hrnet_w18_small_v1": "hrnet",
}
"""Function and module of each classifier."""

SPECIAL: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "inceptionv3": (partial(pytorchcv, "inceptionv3", "inceptionv3"), (3, 299, 299)),
    "xception": (partial(pytorchcv, "xception", "xception"), (3, 299, 299)),
    "preresnet110_cifar10": (partial(pytorchcv, "preresnet_cifar", "preresnet110_cifar10"), (3, 32, 32)),
    "densenet40_k12_cifar10": (partial(pytorchcv, "densenet_cifar", "densenet40_k12_cifar10"), (3, 32, 32)),
    "pyramidnet110_a48_cifar10": (
        partial(pytorchcv, "pyramidnet_cifar", "pyramidnet110_a48_cifar10"),
        (3, 32, 32),
    ),
    "wrn16_10_cifar10": (partial(pytorchcv, "wrn_cifar", "wrn16_10_cifar10"), (3, 32, 32)),
    "fastscnn": (partial(pytorchcv, "fastscnn", "fastscnn_cityscapes", in_size=(256, 256)), (3, 256, 256)),
    "erfnet": (partial(pytorchcv, "erfnet", "erfnet_cityscapes", in_size=(256, 256)), (3, 256, 256)),
    "dabnet": (partial(pytorchcv, "dabnet", "dabnet_cityscapes", in_size=(256, 256)), (3, 256, 256)),
    "repvgg_a0": (repvgg_a0, IMAGE),
    "levit_128s": (partial(huggingface, "Levit"), IMAGE),
    "swiftformer_xs": (partial(huggingface, "SwiftFormer"), IMAGE),
    "cvt_13": (partial(huggingface, "Cvt"), IMAGE),
    "mobilevit_s": (partial(huggingface, "MobileViT"), (3, 256, 256)),
}


def resnet152() -> nn.Module:
    """60 million parameters: 241 MB."""
    return huggingface("ResNet", depths=[3, 8, 36, 3])


def published() -> list[Architecture]:
    """All architectures of this module."""
    plain = {
        name: (partial(pytorchcv, module, name), IMAGE)
        for name, module in PYTORCHCV.items()
        if name not in SPECIAL
    }
    return [
        Architecture(name, build, shape, 0, LEFT_UNKNOWN)
        for name, (build, shape) in (SPECIAL | plain).items()
    ]
