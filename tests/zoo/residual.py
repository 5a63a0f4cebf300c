"""Networks of residual blocks."""

from collections.abc import Callable
from typing import Any

from torch import nn

from zoo.architecture import Architecture
from zoo.blocks import (
    Channels,
    Concat,
    Sum,
    classifier,
    conv,
    conv_norm,
    norm,
    norm_conv,
    seq,
    squeeze_excite,
    unit,
)

Block = Callable[[int, int, int], nn.Module]
"""Input channels, output channels, stride."""


def shortcut(inputs: int, outputs: int, stride: int, **options: Any) -> nn.Module:
    plain = inputs == outputs and stride == 1
    return nn.Identity() if plain else conv_norm(inputs, outputs, 1, stride, **options)


def basic(inputs: int, outputs: int, stride: int) -> nn.Module:
    body = seq(unit(inputs, outputs, 3, stride), conv_norm(outputs, outputs))
    return seq(Sum(body, shortcut(inputs, outputs, stride)), nn.ReLU())


def bottleneck(inputs: int, outputs: int, stride: int, groups: int = 1) -> nn.Module:
    inner = outputs // 2
    body = seq(
        unit(inputs, inner, 1), unit(inner, inner, 3, stride, groups=groups), conv_norm(inner, outputs, 1)
    )
    return seq(Sum(body, shortcut(inputs, outputs, stride)), nn.ReLU())


def aggregated(inputs: int, outputs: int, stride: int) -> nn.Module:
    """ResNeXt: a grouped convolution in the middle."""
    return bottleneck(inputs, outputs, stride, groups=4)


def excited(inputs: int, outputs: int, stride: int) -> nn.Module:
    """SE-ResNet."""
    body = seq(unit(inputs, outputs, 3, stride), conv_norm(outputs, outputs), squeeze_excite(outputs))
    return seq(Sum(body, shortcut(inputs, outputs, stride)), nn.ReLU())


def preactivated(inputs: int, outputs: int, stride: int) -> nn.Module:
    """He et al. 2016: BatchNorm and Relu come before each convolution; the trunk carries no activation."""
    body = seq(norm(inputs), nn.ReLU(), conv(inputs, outputs, 3, stride), norm_conv(outputs, outputs))
    plain = inputs == outputs and stride == 1
    return Sum(body, nn.Identity() if plain else conv(inputs, outputs, 1, stride))


def preactivated_shared(inputs: int, outputs: int, stride: int) -> nn.Module:
    """WideResNet, PreResNet: where the size changes, the shortcut also reads the activated trunk."""
    body = seq(conv(inputs, outputs, 3, stride), norm_conv(outputs, outputs))
    if inputs == outputs and stride == 1:
        return Sum(seq(norm(inputs), nn.ReLU(), body), nn.Identity())
    return seq(norm(inputs), nn.ReLU(), Sum(body, conv(inputs, outputs, 1, stride)))


def res2net(inputs: int, outputs: int, stride: int) -> nn.Module:
    """Res2Net: the channels between the 1×1 convolutions are split into scales."""
    half = outputs // 2
    scales = Concat(
        Channels(0, half),
        seq(Channels(half, outputs), unit(half, half)),
        seq(Channels(half, outputs), unit(half, half, 5)),
    )
    body = seq(unit(inputs, outputs, 1, stride), scales, conv_norm(half * 3, outputs, 1))
    return seq(Sum(body, shortcut(inputs, outputs, stride)), nn.ReLU())


def instance_batch(inputs: int, outputs: int, stride: int) -> nn.Module:
    """IBN-Net: half of the channels are normalised per instance, half by the batch's statistics."""
    half = outputs // 2
    mixed = Concat(
        seq(Channels(0, half), nn.InstanceNorm2d(half, affine=True)), seq(Channels(half, outputs), norm(half))
    )
    body = seq(conv(inputs, outputs, 3, stride), mixed, nn.ReLU(), conv_norm(outputs, outputs))
    return seq(Sum(body, shortcut(inputs, outputs, stride)), nn.ReLU())


def regnet_y(inputs: int, outputs: int, stride: int) -> nn.Module:
    body = seq(
        unit(inputs, outputs, 1),
        unit(outputs, outputs, 3, stride, groups=outputs // 8),
        squeeze_excite(outputs),
        conv_norm(outputs, outputs, 1),
    )
    return seq(Sum(body, shortcut(inputs, outputs, stride)), nn.ReLU())


def repvgg(inputs: int, outputs: int, stride: int) -> nn.Module:
    """RepVGG as it is trained: 3×3, 1×1 and, where the shape allows, a bare BatchNorm side by side."""
    branches: list[nn.Module] = [conv_norm(inputs, outputs, 3, stride), conv_norm(inputs, outputs, 1, stride)]
    if inputs == outputs and stride == 1:
        branches.append(norm(inputs))
    return seq(Sum(*branches), nn.ReLU())


def stages(block: Block, widths: tuple[int, ...], depth: int, stem: nn.Module) -> nn.Sequential:
    """``depth`` blocks per width, halving the size from the second width on."""
    layers = [stem]
    inputs = widths[0]
    for stage, outputs in enumerate(widths):
        for index in range(depth):
            layers.append(block(inputs, outputs, 2 if stage and not index else 1))
            inputs = outputs
    return seq(*layers)


def network(block: Block, widths: tuple[int, ...] = (16, 32), depth: int = 2) -> Callable[[], nn.Module]:
    """The usual network: a normalised stem, the stages, a classifier."""
    return lambda: seq(stages(block, widths, depth, unit(3, widths[0])), classifier(widths[-1]))


def preactivation_network(block: Block, widths: tuple[int, ...], depth: int) -> Callable[[], nn.Module]:
    """A bare stem, and one more BatchNorm after the last block."""
    return lambda: seq(
        stages(block, widths, depth, conv(3, widths[0])), norm(widths[-1]), nn.ReLU(), classifier(widths[-1])
    )


IMAGE = (3, 16, 16)
ARCHITECTURES = (
    Architecture("resnet_18", network(basic, (8, 16, 24, 32)), IMAGE, 20, (0, 0, 0, 0)),
    Architecture("resnet_50", network(bottleneck), IMAGE, 14, (0, 0, 0, 0)),
    Architecture("resnext", network(aggregated), IMAGE, 14, (0, 0, 0, 0)),
    Architecture("se_resnet", network(excited), IMAGE, 10, (0, 0, 0, 0)),
    Architecture("res2net", network(res2net, depth=1), IMAGE, 10, (0, 0, 0, 0)),
    Architecture("ibn_resnet", network(instance_batch, depth=1), IMAGE, 6, (2, 2, 0, 0)),
    Architecture("regnet_y", network(regnet_y), IMAGE, 14, (0, 0, 0, 0)),
    Architecture("repvgg", network(repvgg, (8, 16)), IMAGE, 12, (3, 0, 0, 0)),
    Architecture(
        "preact_resnet_18",
        preactivation_network(preactivated, (8, 16, 24, 32), 2),
        IMAGE,
        17,
        (9, 8, 0, 0),
        (9, 9, 0, 0),
    ),
    Architecture(
        "wide_resnet",
        preactivation_network(preactivated_shared, (16, 32), 2),
        IMAGE,
        9,
        (5, 3, 0, 0),
        (5, 5, 0, 0),
    ),
)
