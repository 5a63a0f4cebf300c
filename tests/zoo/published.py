"""Architectures of the package transformers, thin: code that we did not write."""

from typing import Any

import transformers
from torch import Tensor, nn

from zoo.architecture import Architecture


class Logits(nn.Module):
    """A model of transformers that returns one tensor."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.model(x).logits
        return logits


def classifier(kind: str, **options: Any) -> Logits:
    config = getattr(transformers, f"{kind}Config")(num_labels=5, **options)
    return Logits(getattr(transformers, f"{kind}ForImageClassification")(config))


def resnet() -> nn.Module:
    return classifier("ResNet", embedding_size=8, hidden_sizes=[16, 32], depths=[1, 2])


def efficientnet() -> nn.Module:
    return classifier(
        "EfficientNet",
        image_size=32,
        width_coefficient=1.0,
        depth_coefficient=1.0,
        hidden_dim=1280,
        kernel_sizes=[3, 5],
        in_channels=[32, 16],
        out_channels=[16, 24],
        depthwise_padding=[],
        strides=[1, 2],
        num_block_repeats=[1, 2],
        expand_ratios=[1, 4],
    )


def levit() -> nn.Module:
    return classifier(
        "Levit",
        image_size=32,
        hidden_sizes=[32, 32],
        num_attention_heads=[2, 2],
        depths=[1, 1],
        key_dim=[8, 8],
        down_ops=[["Subsample", 8, 4, 4, 2, 2]],
    )


def swiftformer() -> nn.Module:
    return classifier(
        "SwiftFormer", image_size=32, depths=[1, 1, 1, 1], embed_dims=[16, 16, 16, 16], down_patch_size=3
    )


IMAGE = (3, 32, 32)
ARCHITECTURES = (
    Architecture("transformers_resnet", resnet, IMAGE, 12, (0, 0, 0, 0)),
    Architecture("transformers_efficientnet", efficientnet, IMAGE, 10, (0, 0, 0, 0)),
    Architecture("transformers_levit", levit, IMAGE, 18, (14, 0, 0, 0)),
    Architecture("transformers_swiftformer", swiftformer, IMAGE, 14, (5, 0, 0, 0)),
)
