"""Networks that return an image: segmentation, detection, generation."""

from torch import nn

from zoo.architecture import Architecture
from zoo.blocks import (
    Channels,
    Concat,
    Many,
    Product,
    Sum,
    conv,
    conv_norm,
    norm,
    seq,
    squeeze_excite,
    unit,
    up,
)


def enlarge(factor: int, mode: str = "bilinear") -> nn.Module:
    return nn.Upsample(scale_factor=factor, mode=mode)


def unet(rank: int = 2) -> nn.Module:
    """Each level concatenates what it got with what came back from below."""
    pool = nn.MaxPool2d(2) if rank == 2 else nn.MaxPool3d(2)

    def double(inputs: int, outputs: int) -> nn.Module:
        return seq(unit(inputs, outputs, rank=rank, bias=True), unit(outputs, outputs, rank=rank, bias=True))

    def level(inputs: int, below: nn.Module) -> nn.Module:
        return Concat(
            nn.Identity(), seq(pool, below, up(2 * inputs, inputs, rank=rank), norm(inputs, rank), nn.ReLU())
        )

    bottom = double(16, 32)
    middle = seq(double(8, 16), level(16, bottom), double(32, 16))
    return seq(double(3, 8), level(8, middle), double(16, 8), conv(8, 2, 1, rank=rank, bias=True))


def feature_pyramid() -> nn.Module:
    """FPN: laterals are added to the enlarged level above, each sum is convolved."""
    top = unit(16, 24, 3, 2)
    merged = Sum(conv_norm(16, 16, 1), seq(top, conv_norm(24, 16, 1), enlarge(2, "nearest")))
    return seq(unit(3, 16, 3, 2), merged, Many(unit(16, 16), seq(nn.MaxPool2d(2), conv_norm(16, 16))))


def deeplab() -> nn.Module:
    """DeepLabV3+: dilated convolutions and the image's mean side by side."""
    image = seq(nn.AdaptiveAvgPool2d(1), unit(24, 16, 1), nn.Upsample(size=(8, 8), mode="bilinear"))
    pyramid = Concat(unit(24, 16, 1), unit(24, 16, dilation=2), unit(24, 16, dilation=4), image)
    return seq(
        unit(3, 24, 3, 2), pyramid, unit(64, 16, 1), nn.Dropout(), conv(16, 5, 1, bias=True), enlarge(2)
    )


def bisenet() -> nn.Module:
    """A spatial and a context path, fused by attention."""
    attention = Product(nn.Identity(), seq(nn.AdaptiveAvgPool2d(1), conv_norm(16, 16, 1), nn.Sigmoid()))
    spatial = seq(unit(3, 16, 3, 2), unit(16, 16))
    context = seq(unit(3, 16, 3, 2), unit(16, 16, 3, 2), attention, enlarge(2), unit(16, 16))
    fused = Sum(nn.Identity(), squeeze_excite(24))
    return seq(Concat(spatial, context), unit(32, 24, 1), fused, unit(24, 16), conv(16, 5, 1, bias=True))


def hrnet() -> nn.Module:
    """Two resolutions, exchanged by strided convolutions and resizing."""
    fine = seq(Channels(0, 16), unit(16, 16))
    coarse = seq(Channels(0, 16), unit(16, 16, 3, 2), unit(16, 16))
    to_fine = Sum(fine, seq(coarse, conv_norm(16, 16, 1), enlarge(2, "nearest")))
    return seq(
        unit(3, 16, 3, 2),
        to_fine,
        nn.ReLU(),
        Sum(nn.Identity(), seq(unit(16, 16), conv_norm(16, 16))),
        nn.ReLU(),
        conv(16, 5, 1, bias=True),
    )


def erfnet() -> nn.Module:
    """Factorised convolutions; downsampling concatenates a convolution and a pool, then one BatchNorm."""

    def down(inputs: int, outputs: int) -> nn.Module:
        return seq(
            Concat(conv(inputs, outputs - inputs, 3, 2, bias=True), nn.MaxPool2d(2)), norm(outputs), nn.ReLU()
        )

    def factorised(channels: int, dilation: int) -> nn.Module:
        return seq(
            conv(channels, channels, (3, 1), bias=True),
            nn.ReLU(),
            unit(channels, channels, (1, 3), bias=True),
            nn.Conv2d(channels, channels, (3, 1), padding=(dilation, 0), dilation=(dilation, 1)),
            nn.ReLU(),
            conv_norm(channels, channels, (1, 3), bias=True),
        )

    return seq(
        down(3, 16),
        Sum(nn.Identity(), factorised(16, 1)),
        nn.ReLU(),
        down(16, 24),
        Sum(nn.Identity(), factorised(24, 2)),
        nn.ReLU(),
        up(24, 5),
    )


def enet() -> nn.Module:
    """PReLU everywhere, and a BatchNorm of the concatenated stem."""
    body = seq(
        unit(16, 4, 1, activation=nn.PReLU), unit(4, 4, (1, 5), activation=nn.PReLU), conv_norm(4, 16, 1)
    )
    return seq(
        Concat(conv(3, 13, 3, 2), nn.MaxPool2d(2)),
        norm(16),
        nn.PReLU(16),
        Sum(nn.Identity(), body),
        nn.PReLU(16),
        up(16, 5),
    )


def yolo() -> nn.Module:
    """SiLU, cross-stage blocks, spatial pyramid pooling, and two heads of different stride."""

    def block(channels: int) -> nn.Module:
        half = channels // 2
        body = seq(
            unit(channels, half, 1, activation=nn.SiLU),
            Sum(
                nn.Identity(),
                seq(unit(half, half, 1, activation=nn.SiLU), unit(half, half, activation=nn.SiLU)),
            ),
        )
        return seq(
            Concat(body, unit(channels, half, 1, activation=nn.SiLU)),
            unit(channels, channels, 1, activation=nn.SiLU),
        )

    def pooled(depth: int) -> nn.Module:
        tail = pooled(depth - 1) if depth > 1 else nn.MaxPool2d(3, 1, 1)
        return Concat(nn.Identity(), seq(nn.MaxPool2d(3, 1, 1), tail) if depth > 1 else tail)

    pyramid = seq(unit(16, 8, 1, activation=nn.SiLU), pooled(2), unit(24, 16, 1, activation=nn.SiLU))
    deep = seq(unit(16, 16, 3, 2, nn.SiLU), block(16), pyramid)
    heads = Many(conv(32, 6, 1, bias=True), seq(unit(32, 16, 3, 2, nn.SiLU), conv(16, 6, 1, bias=True)))
    return seq(unit(3, 16, 3, 2, nn.SiLU), Concat(nn.Identity(), seq(deep, enlarge(2, "nearest"))), heads)


def super_resolution() -> nn.Module:
    """SRGAN's generator: PReLU, a long skip, pixel shuffle."""

    def residual() -> nn.Module:
        return Sum(nn.Identity(), seq(unit(16, 16, activation=nn.PReLU), conv_norm(16, 16)))

    trunk = Sum(nn.Identity(), seq(residual(), residual(), conv_norm(16, 16)))
    grown = seq(conv(16, 64, bias=True), nn.PixelShuffle(2), norm(16), nn.PReLU())
    return seq(conv(3, 16, 5, bias=True), nn.PReLU(), trunk, grown, conv(16, 3, 5, bias=True), nn.Tanh())


def generator() -> nn.Module:
    """DCGAN's generator: Linear with BatchNorm1d, then transposed convolutions, one of them grouped."""
    return seq(
        nn.Linear(12, 512, bias=False),
        nn.BatchNorm1d(512),
        nn.ReLU(),
        nn.Unflatten(1, (32, 4, 4)),
        up(32, 32, 4, 2, padding=1, groups=4, bias=False),
        norm(32),
        nn.ReLU(),
        up(32, 16, 4, 2, padding=1, bias=False),
        norm(16),
        nn.ReLU(),
        up(16, 3, 4, 2, padding=1),
        nn.Tanh(),
    )


def discriminator() -> nn.Module:
    return seq(
        conv(3, 16, 4, 2, padding=1),
        nn.LeakyReLU(0.2),
        unit(16, 32, 4, 2, nn.LeakyReLU, padding=1),
        unit(32, 32, 4, 2, nn.LeakyReLU, padding=1),
        conv(32, 1, 2, padding=0),
        nn.Flatten(),
        nn.Sigmoid(),
    )


def style_transfer() -> nn.Module:
    """Reflected borders and InstanceNorm, which cannot see the biases ahead of it; BatchNorm at both ends."""

    def reflected(inputs: int, outputs: int) -> nn.Module:
        return seq(nn.ReflectionPad2d(1), conv(inputs, outputs, padding=0, bias=True))

    body = seq(
        reflected(16, 16),
        nn.InstanceNorm2d(16),
        nn.ReLU(),
        reflected(16, 16),
        nn.InstanceNorm2d(16, affine=True),
    )
    return seq(
        norm(3), reflected(3, 16), norm(16), nn.ReLU(), Sum(nn.Identity(), body), norm(16), reflected(16, 3)
    )


def human_pose() -> nn.Module:
    """A stacked hourglass: pre-activated, pooled and enlarged around a skip."""

    def residual() -> nn.Module:
        return Sum(
            nn.Identity(),
            seq(norm(16), nn.ReLU(), conv(16, 8, 1, bias=True), norm(8), nn.ReLU(), conv(8, 16, bias=True)),
        )

    hourglass = Sum(residual(), seq(nn.MaxPool2d(2), residual(), enlarge(2, "nearest")))
    return seq(unit(3, 16, 3, 2, bias=True), hourglass, unit(16, 16, 1, bias=True), conv(16, 4, 1, bias=True))


IMAGE = (3, 16, 16)
ARCHITECTURES = (
    Architecture("unet", unet, IMAGE, 12, (0, 0, 0, 0)),
    Architecture("unet_3d", lambda: unet(3), (3, 8, 8, 8), 12, (0, 0, 0, 0)),
    Architecture("feature_pyramid", feature_pyramid, IMAGE, 6, (0, 0, 0, 0)),
    Architecture("deeplab", deeplab, IMAGE, 6, (0, 0, 0, 0)),
    Architecture("bisenet", bisenet, IMAGE, 8, (0, 0, 0, 0)),
    Architecture("hrnet", hrnet, IMAGE, 7, (0, 0, 0, 0)),
    Architecture("erfnet", erfnet, IMAGE, 6, (2, 2, 2, 2)),
    Architecture("enet", enet, IMAGE, 4, (1, 1, 1, 1)),
    Architecture("yolo", yolo, IMAGE, 10, (0, 0, 0, 0)),
    Architecture("super_resolution", super_resolution, IMAGE, 6, (1, 0, 0, 0)),
    Architecture("dcgan_generator", generator, (12,), 3, (0, 0, 0, 0)),
    Architecture("dcgan_discriminator", discriminator, IMAGE, 2, (0, 0, 0, 0)),
    Architecture("style_transfer", style_transfer, IMAGE, 3, (2, 0, 0, 0)),
    Architecture("human_pose", human_pose, IMAGE, 6, (2, 2, 2, 0), (2, 2, 2, 2)),
)
