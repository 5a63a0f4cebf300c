"""The few parts of which the architectures are composed, so that each reads as its diagram."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

CONVOLUTION = (None, nn.Conv1d, nn.Conv2d, nn.Conv3d)
TRANSPOSED = (None, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
NORM = (None, nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


class Branches(nn.Module):
    """Several modules that read the same input."""

    def __init__(self, *branches: nn.Module) -> None:
        super().__init__()
        self.branches = nn.ModuleList(branches)

    def results(self, x: Tensor) -> list[Tensor]:
        return [branch(x) for branch in self.branches]


class Sum(Branches):
    """The sum of all branches."""

    def forward(self, x: Tensor) -> Tensor:
        first, *others = self.results(x)
        for other in others:
            first = first + other
        return first


class Product(Branches):
    """The product of all branches: a gate."""

    def forward(self, x: Tensor) -> Tensor:
        first, *others = self.results(x)
        for other in others:
            first = first * other
        return first


class Concat(Branches):
    """The channels of all branches, one after the other."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat(self.results(x), dim=1)


class Many(Branches):
    """All results, as a tuple."""

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        return tuple(self.results(x))


class Channels(nn.Module):
    """Some channels of the input."""

    def __init__(self, start: int, stop: int) -> None:
        super().__init__()
        self.start, self.stop = start, stop

    def forward(self, x: Tensor) -> Tensor:
        return x[:, self.start : self.stop]


class Shuffle(nn.Module):
    """ShuffleNet's channel shuffle."""

    def __init__(self, groups: int) -> None:
        super().__init__()
        self.groups = groups

    def forward(self, x: Tensor) -> Tensor:
        batch, channels, *size = x.shape
        grouped = x.reshape(batch, self.groups, channels // self.groups, *size)
        return grouped.transpose(1, 2).flatten(1, 2)


class Transpose(nn.Module):
    """Swap two axes."""

    def __init__(self, first: int, second: int) -> None:
        super().__init__()
        self.axes = first, second

    def forward(self, x: Tensor) -> Tensor:
        return x.transpose(*self.axes)


class Mean(nn.Module):
    """The mean over some axes."""

    def __init__(self, *axes: int, keepdim: bool = False) -> None:
        super().__init__()
        self.axes, self.keepdim = axes, keepdim

    def forward(self, x: Tensor) -> Tensor:
        return x.mean(self.axes, self.keepdim)


class Max(nn.Module):
    """The largest value along an axis."""

    def __init__(self, axis: int) -> None:
        super().__init__()
        self.axis = axis

    def forward(self, x: Tensor) -> Tensor:
        return x.amax(self.axis)


def seq(*layers: nn.Module) -> nn.Sequential:
    """One layer after the other."""
    return nn.Sequential(*layers)


def same(kernel: int | Sequence[int], dilation: int = 1) -> Any:
    """The padding that keeps the size."""
    return dilation * (kernel // 2) if isinstance(kernel, int) else tuple(dilation * (k // 2) for k in kernel)


def conv(
    inputs: int,
    outputs: int,
    kernel: Any = 3,
    stride: Any = 1,
    *,
    rank: int = 2,
    groups: int = 1,
    dilation: int = 1,
    bias: bool = False,
    padding: Any = None,
) -> nn.Module:
    """A convolution over ``rank`` axes that keeps the size, up to its stride."""
    padding = same(kernel, dilation) if padding is None else padding
    kind: Any = CONVOLUTION[rank]
    made: nn.Module = kind(
        inputs, outputs, kernel, stride, padding, groups=groups, dilation=dilation, bias=bias
    )
    return made


def norm(channels: int, rank: int = 2) -> nn.Module:
    """A BatchNorm over ``rank`` axes."""
    kind: Any = NORM[rank]
    made: nn.Module = kind(channels)
    return made


def conv_norm(inputs: int, outputs: int, kernel: Any = 3, stride: Any = 1, **options: Any) -> nn.Sequential:
    """Convolution, BatchNorm."""
    return seq(conv(inputs, outputs, kernel, stride, **options), norm(outputs, options.get("rank", 2)))


def unit(
    inputs: int,
    outputs: int,
    kernel: Any = 3,
    stride: Any = 1,
    activation: type[nn.Module] = nn.ReLU,
    **options: Any,
) -> nn.Sequential:
    """Convolution, BatchNorm, activation."""
    return seq(*conv_norm(inputs, outputs, kernel, stride, **options), activation())


def depthwise(
    channels: int, kernel: Any = 3, stride: Any = 1, activation: type[nn.Module] = nn.ReLU, **options: Any
) -> nn.Sequential:
    """Depthwise convolution, BatchNorm, activation."""
    return unit(channels, channels, kernel, stride, activation, groups=channels, **options)


def norm_conv(inputs: int, outputs: int, kernel: Any = 3, stride: Any = 1, **options: Any) -> nn.Sequential:
    """BatchNorm, Relu, convolution: the order of pre-activation."""
    return seq(
        norm(inputs, options.get("rank", 2)), nn.ReLU(), conv(inputs, outputs, kernel, stride, **options)
    )


def up(
    inputs: int, outputs: int, kernel: int = 2, stride: int = 2, *, rank: int = 2, **options: Any
) -> nn.Module:
    """A transposed convolution."""
    kind: Any = TRANSPOSED[rank]
    made: nn.Module = kind(inputs, outputs, kernel, stride, **options)
    return made


def squeeze_excite(channels: int, gate: type[nn.Module] = nn.Sigmoid) -> nn.Module:
    """Channel attention (SENet)."""
    return Product(
        nn.Identity(),
        seq(
            nn.AdaptiveAvgPool2d(1),
            nn.Conv2d(channels, max(channels // 4, 4), 1),
            nn.ReLU(),
            nn.Conv2d(max(channels // 4, 4), channels, 1),
            gate(),
        ),
    )


def classifier(channels: int, rank: int = 2, classes: int = 10) -> nn.Sequential:
    """Global average pool and Linear."""
    pools = (None, nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d)
    pool: Any = pools[rank]
    return seq(pool(1), nn.Flatten(), nn.Linear(channels, classes))
