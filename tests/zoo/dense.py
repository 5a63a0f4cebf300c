"""Plain, dense and many-branched classifiers."""

import torch
from torch import Tensor, nn

from zoo.architecture import Architecture
from zoo.blocks import (
    Concat,
    Sum,
    classifier,
    conv,
    conv_norm,
    depthwise,
    norm,
    norm_conv,
    seq,
    unit,
)


def vgg() -> nn.Module:
    return seq(
        unit(3, 16, bias=True),
        unit(16, 16, bias=True),
        nn.MaxPool2d(2),
        unit(16, 32, bias=True),
        unit(32, 32, bias=True),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(512, 24),
        nn.BatchNorm1d(24),
        nn.ReLU(),
        nn.Dropout(),
        nn.Linear(24, 5),
    )


def dense_layer(inputs: int, growth: int) -> nn.Module:
    return Concat(nn.Identity(), seq(norm_conv(inputs, 4 * growth, 1), norm_conv(4 * growth, growth)))


def densenet(blocks: tuple[int, ...] = (3, 3), growth: int = 8) -> nn.Module:
    """DenseNet-BC: every layer reads all before it; a transition halves channels and size."""
    channels = 2 * growth
    layers: list[nn.Module] = [unit(3, channels), nn.MaxPool2d(3, 2, 1)]
    for index, depth in enumerate(blocks):
        if index:
            layers += [norm_conv(channels, channels // 2, 1), nn.AvgPool2d(2)]
            channels //= 2
        for _ in range(depth):
            layers.append(dense_layer(channels, growth))
            channels += growth
    return seq(*layers, norm(channels), nn.ReLU(), classifier(channels))


class TwoPaths(nn.Module):
    """Add the first channels of the body's result to the input's, concatenate the rest."""

    def __init__(self, body: nn.Module, residual: int) -> None:
        super().__init__()
        self.body = body
        self.residual = residual

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.body(x)
        added = x[:, : self.residual] + y[:, : self.residual]
        return torch.cat([added, x[:, self.residual :], y[:, self.residual :]], dim=1)


def dual_path() -> nn.Module:
    """DPN, pre-activated: the first 16 channels are a residual path, the others a dense path that grows."""

    def block(inputs: int) -> nn.Module:
        body = seq(norm_conv(inputs, 16, 1), norm_conv(16, 16, groups=4), norm_conv(16, 24, 1))
        return TwoPaths(body, residual=16)

    return seq(unit(3, 24), block(24), block(32), norm(40), nn.ReLU(), classifier(40))


def squeezenet() -> nn.Module:
    def fire(inputs: int, squeezed: int, expanded: int) -> nn.Module:
        return seq(
            unit(inputs, squeezed, 1, bias=True),
            Concat(unit(squeezed, expanded, 1, bias=True), unit(squeezed, expanded, 3, bias=True)),
        )

    return seq(
        unit(3, 16, 3, 2, bias=True),
        fire(16, 8, 16),
        nn.MaxPool2d(3, 2),
        fire(32, 8, 16),
        conv(32, 5, 1, bias=True),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
    )


def googlenet() -> nn.Module:
    def inception(inputs: int) -> nn.Module:
        return Concat(
            unit(inputs, 8, 1),
            seq(unit(inputs, 8, 1), unit(8, 16)),
            seq(unit(inputs, 4, 1), unit(4, 8, 5)),
            seq(nn.MaxPool2d(3, 1, 1), unit(inputs, 8, 1)),
        )

    return seq(unit(3, 16, 3, 2), nn.MaxPool2d(3, 2, 1), inception(16), inception(40), classifier(40))


def inception_v3() -> nn.Module:
    """Asymmetric kernels, branches that branch again, and averaging before a 1×1 convolution."""
    branching = Concat(
        unit(16, 8, 1),
        seq(unit(16, 8, 1), Concat(unit(8, 8, (1, 3)), unit(8, 8, (3, 1)))),
        seq(unit(16, 8, 1), unit(8, 8, (1, 7)), unit(8, 8, (7, 1))),
        seq(nn.AvgPool2d(3, 1, 1), unit(16, 8, 1)),
    )
    reduction = Concat(unit(40, 16, 3, 2), nn.MaxPool2d(3, 2, 1))
    return seq(unit(3, 16, 3, 2, padding=0), branching, reduction, classifier(56))


def xception() -> nn.Module:
    """Depthwise separable convolutions, the Relu before them, BatchNorm after."""

    def separable(inputs: int, outputs: int) -> nn.Module:
        return seq(conv(inputs, inputs, groups=inputs), conv_norm(inputs, outputs, 1))

    def entry(inputs: int, outputs: int) -> nn.Module:
        body = seq(
            nn.ReLU(),
            separable(inputs, outputs),
            nn.ReLU(),
            separable(outputs, outputs),
            nn.MaxPool2d(3, 2, 1),
        )
        return Sum(body, conv_norm(inputs, outputs, 1, 2))

    middle = Sum(nn.Identity(), seq(nn.ReLU(), separable(24, 24), nn.ReLU(), separable(24, 24)))
    return seq(unit(3, 16), entry(16, 24), middle, nn.ReLU(), classifier(24))


def csp_darknet() -> nn.Module:
    """YOLOv4's backbone: half of the channels pass by the residual blocks."""

    def residual(channels: int) -> nn.Module:
        return Sum(
            nn.Identity(),
            seq(
                unit(channels, channels, 1, activation=nn.Mish), unit(channels, channels, activation=nn.Mish)
            ),
        )

    def stage(inputs: int, outputs: int) -> nn.Module:
        half = outputs // 2
        through = seq(
            unit(outputs, half, 1, activation=nn.Mish),
            residual(half),
            unit(half, half, 1, activation=nn.Mish),
        )
        by = unit(outputs, half, 1, activation=nn.Mish)
        return seq(
            unit(inputs, outputs, 3, 2, nn.Mish),
            Concat(by, through),
            unit(outputs, outputs, 1, activation=nn.Mish),
        )

    return seq(unit(3, 8, activation=nn.Mish), stage(8, 16), stage(16, 32), classifier(32))


def convmixer() -> nn.Module:
    """BatchNorm after the activation, and then a depthwise convolution padded with zeros."""

    def block() -> nn.Module:
        mixed = seq(nn.Conv2d(24, 24, 5, padding=2, groups=24), nn.GELU(), norm(24))
        return seq(Sum(nn.Identity(), mixed), nn.Conv2d(24, 24, 1), nn.GELU(), norm(24))

    return seq(nn.Conv2d(3, 24, 4, 4), nn.GELU(), norm(24), block(), block(), classifier(24))


def relu_before_norm() -> nn.Module:
    """BatchNorm after the activation, ahead of unpadded convolutions, pools and the classifier."""
    return seq(
        conv(3, 16, padding=0, bias=True),
        nn.ReLU(),
        norm(16),
        conv(16, 24, 3, 2, padding=0, bias=True),
        nn.ReLU(),
        norm(24),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(216, 16),
        nn.ReLU(),
        nn.BatchNorm1d(16),
        nn.Linear(16, 5),
    )


def peleenet() -> nn.Module:
    """Dense layers with two ways, after a stem that pools and convolves side by side."""
    stem = seq(
        unit(3, 16, 3, 2), Concat(seq(unit(16, 8, 1), unit(8, 16, 3, 2)), nn.MaxPool2d(2)), unit(32, 16, 1)
    )

    def layer(inputs: int) -> nn.Module:
        near = seq(unit(inputs, 8, 1), unit(8, 8))
        far = seq(unit(inputs, 8, 1), unit(8, 8), unit(8, 8))
        return Concat(nn.Identity(), near, far)

    return seq(stem, layer(16), layer(32), unit(48, 48, 1), depthwise(48), classifier(48))


IMAGE = (3, 16, 16)
ARCHITECTURES = (
    Architecture("vgg", vgg, IMAGE, 5, (0, 0, 0, 0)),
    Architecture("densenet", densenet, IMAGE, 15, (8, 8, 7, 0), (8, 8, 7, 4)),
    Architecture("dual_path_network", dual_path, IMAGE, 8, (3, 3, 3, 0), (3, 3, 3, 3)),
    Architecture("squeezenet", squeezenet, (3, 32, 32), 7, (0, 0, 0, 0)),
    Architecture("googlenet", googlenet, IMAGE, 13, (0, 0, 0, 0)),
    Architecture("inception_v3", inception_v3, IMAGE, 10, (0, 0, 0, 0)),
    Architecture("xception", xception, IMAGE, 6, (0, 0, 0, 0)),
    Architecture("csp_darknet", csp_darknet, IMAGE, 15, (0, 0, 0, 0)),
    Architecture("convmixer", convmixer, IMAGE, 5, (5, 4, 2, 2)),
    Architecture("relu_before_norm", relu_before_norm, IMAGE, 3, (3, 0, 0, 0), (3, 1, 1, 1)),
    Architecture("peleenet", peleenet, IMAGE, 16, (0, 0, 0, 0)),
)
