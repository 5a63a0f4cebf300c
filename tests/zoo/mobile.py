"""Networks for small devices: depthwise convolutions, gates, shuffles."""

from torch import nn

from zoo.architecture import Architecture
from zoo.blocks import (
    Channels,
    Concat,
    Shuffle,
    Sum,
    classifier,
    conv_norm,
    depthwise,
    norm,
    seq,
    squeeze_excite,
    unit,
)


def mobilenet_v1() -> nn.Module:
    def separable(inputs: int, outputs: int, stride: int = 1) -> nn.Module:
        return seq(depthwise(inputs, 3, stride), unit(inputs, outputs, 1))

    return seq(unit(3, 16, 3, 2), separable(16, 32), separable(32, 32, 2), separable(32, 48), classifier(48))


def inverted(
    inputs: int,
    outputs: int,
    stride: int = 1,
    kernel: int = 3,
    *,
    activation: type[nn.Module] = nn.ReLU6,
    gate: type[nn.Module] | None = None,
) -> nn.Module:
    """The inverted residual of MobileNetV2 and its heirs."""
    inner = 3 * inputs
    body = seq(
        unit(inputs, inner, 1, activation=activation),
        depthwise(inner, kernel, stride, activation),
        squeeze_excite(inner, gate) if gate else nn.Identity(),
        conv_norm(inner, outputs, 1),
    )
    return Sum(nn.Identity(), body) if inputs == outputs and stride == 1 else body


def mobilenet_v2() -> nn.Module:
    return seq(
        unit(3, 8, 3, 2, nn.ReLU6),
        inverted(8, 8),
        inverted(8, 16, 2),
        inverted(16, 16),
        unit(16, 32, 1, activation=nn.ReLU6),
        classifier(32),
    )


def mobilenet_v3() -> nn.Module:
    return seq(
        unit(3, 8, 3, 2, nn.Hardswish),
        inverted(8, 8, activation=nn.ReLU, gate=nn.Hardsigmoid),
        inverted(8, 16, 2, 5, activation=nn.Hardswish),
        inverted(16, 16, 1, 5, activation=nn.Hardswish, gate=nn.Hardsigmoid),
        unit(16, 32, 1, activation=nn.Hardswish),
        nn.AdaptiveAvgPool2d(1),
        nn.Conv2d(32, 24, 1),
        nn.Hardswish(),
        nn.Flatten(),
        nn.Linear(24, 5),
    )


def mnasnet() -> nn.Module:
    return seq(
        unit(3, 8, 3, 2),
        inverted(8, 16, 2, 3, activation=nn.ReLU),
        inverted(16, 16, 1, 5, activation=nn.ReLU),
        inverted(16, 16, 1, 5, activation=nn.ReLU, gate=nn.Sigmoid),
        classifier(16),
    )


def efficientnet() -> nn.Module:
    return seq(
        unit(3, 8, 3, 2, nn.SiLU),
        inverted(8, 16, 2, 3, activation=nn.SiLU, gate=nn.Sigmoid),
        inverted(16, 16, 1, 5, activation=nn.SiLU, gate=nn.Sigmoid),
        unit(16, 32, 1, activation=nn.SiLU),
        classifier(32),
    )


def shufflenet_v1() -> nn.Module:
    def body(inputs: int, outputs: int, stride: int) -> nn.Module:
        return seq(
            unit(inputs, 24, 1, groups=3),
            Shuffle(3),
            conv_norm(24, 24, 3, stride, groups=24),
            conv_norm(24, outputs, 1, groups=3),
        )

    def plain() -> nn.Module:
        return seq(Sum(nn.Identity(), body(48, 48, 1)), nn.ReLU())

    halving = seq(Concat(nn.AvgPool2d(3, 2, 1), body(24, 24, 2)), nn.ReLU())
    return seq(unit(3, 24, 3, 2), halving, plain(), plain(), classifier(48))


def shufflenet_v2() -> nn.Module:
    def plain(channels: int) -> nn.Module:
        half = channels // 2
        right = seq(
            Channels(half, channels),
            unit(half, half, 1),
            conv_norm(half, half, 3, groups=half),
            unit(half, half, 1),
        )
        return seq(Concat(Channels(0, half), right), Shuffle(2))

    def halving(inputs: int, half: int) -> nn.Module:
        left = seq(conv_norm(inputs, inputs, 3, 2, groups=inputs), unit(inputs, half, 1))
        right = seq(unit(inputs, half, 1), conv_norm(half, half, 3, 2, groups=half), unit(half, half, 1))
        return seq(Concat(left, right), Shuffle(2))

    return seq(unit(3, 16, 3, 2), halving(16, 16), plain(32), plain(32), unit(32, 48, 1), classifier(48))


def ghostnet() -> nn.Module:
    def ghost(inputs: int, outputs: int, activation: type[nn.Module]) -> nn.Module:
        primary = unit(inputs, outputs // 2, 1, activation=activation)
        return seq(primary, Concat(nn.Identity(), depthwise(outputs // 2, 3, 1, activation)))

    def block(inputs: int, outputs: int, stride: int) -> nn.Module:
        body = seq(
            ghost(inputs, 32, nn.ReLU),
            conv_norm(32, 32, 3, stride, groups=32) if stride > 1 else nn.Identity(),
            squeeze_excite(32, nn.Hardsigmoid),
            ghost(32, outputs, nn.Identity),
        )
        if inputs == outputs and stride == 1:
            return Sum(nn.Identity(), body)
        return Sum(
            seq(conv_norm(inputs, inputs, 3, stride, groups=inputs), conv_norm(inputs, outputs, 1)), body
        )

    return seq(unit(3, 16, 3, 2), block(16, 16, 1), block(16, 24, 2), classifier(24))


def mixnet() -> nn.Module:
    """Depthwise kernels of several sizes on different channels."""
    mixed = Concat(
        *(
            seq(Channels(8 * i, 8 * i + 8), nn.Conv2d(8, 8, k, padding=k // 2, groups=8, bias=False))
            for i, k in enumerate((3, 5, 7))
        )
    )
    body = seq(unit(16, 24, 1, activation=nn.SiLU), mixed, norm(24), nn.SiLU(), conv_norm(24, 16, 1))
    return seq(unit(3, 16, 3, 2, nn.SiLU), Sum(nn.Identity(), body), classifier(16))


def mobileone() -> nn.Module:
    """MobileOne as it is trained: several convolutions and a bare BatchNorm side by side, twice."""

    def depthwise_part() -> nn.Module:
        return Sum(
            *(conv_norm(16, 16, 3, groups=16) for _ in range(2)), conv_norm(16, 16, 1, groups=16), norm(16)
        )

    def pointwise_part() -> nn.Module:
        return Sum(conv_norm(16, 16, 1), conv_norm(16, 16, 1), norm(16))

    block = seq(depthwise_part(), nn.ReLU(), pointwise_part(), nn.ReLU())
    return seq(unit(3, 16, 3, 2), block, classifier(16))


IMAGE = (3, 16, 16)
ARCHITECTURES = (
    Architecture("mobilenet_v1", mobilenet_v1, IMAGE, 7, (0, 0, 0, 0)),
    Architecture("mobilenet_v2", mobilenet_v2, IMAGE, 11, (0, 0, 0, 0)),
    Architecture("mobilenet_v3", mobilenet_v3, IMAGE, 11, (0, 0, 0, 0)),
    Architecture("mnasnet", mnasnet, IMAGE, 10, (0, 0, 0, 0)),
    Architecture("efficientnet", efficientnet, IMAGE, 8, (0, 0, 0, 0)),
    Architecture("shufflenet_v1", shufflenet_v1, IMAGE, 10, (0, 0, 0, 0)),
    Architecture("shufflenet_v2", shufflenet_v2, IMAGE, 13, (0, 0, 0, 0)),
    Architecture("ghostnet", ghostnet, IMAGE, 12, (0, 0, 0, 0)),
    Architecture("mixnet", mixnet, IMAGE, 4, (1, 0, 0, 0)),
    Architecture("mobileone", mobileone, IMAGE, 8, (2, 0, 0, 0)),
)
