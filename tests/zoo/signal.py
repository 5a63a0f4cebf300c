"""Networks for sound, video, points, tables and games."""

import torch
from torch import Tensor, nn

from zoo.architecture import Architecture
from zoo.blocks import Many, Max, Sum, Transpose, classifier, conv, conv_norm, norm, seq, unit


def audio() -> nn.Module:
    """M5: a wide first kernel on the raw wave."""
    return seq(
        unit(1, 16, 9, 4, rank=1, bias=True),
        nn.MaxPool1d(2),
        unit(16, 16, rank=1, bias=True),
        nn.MaxPool1d(2),
        unit(16, 32, rank=1, bias=True),
        classifier(32, rank=1),
    )


def quartznet() -> nn.Module:
    """Separable 1-D convolutions with one BatchNorm each."""

    def separable(kernel: int) -> nn.Module:
        return seq(conv(16, 16, kernel, rank=1, groups=16), conv_norm(16, 16, 1, rank=1))

    block = seq(Sum(seq(separable(5), nn.ReLU(), separable(7)), conv_norm(16, 16, 1, rank=1)), nn.ReLU())
    return seq(unit(4, 16, 5, 2, rank=1), block, conv(16, 6, 1, rank=1, bias=True))


class TakeOutput(nn.Module):
    """A recurrent layer without its final state."""

    def __init__(self, layer: nn.LSTM | nn.GRU) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        output: Tensor = self.layer(x)[0]
        return output


def recurrent() -> nn.Module:
    """CRNN: convolutions over the spectrogram, BatchNorm, then a recurrence over time."""
    return seq(
        unit(1, 8, 3, (2, 1)),
        unit(8, 16, 3, (2, 1)),
        nn.Flatten(1, 2),
        norm(64, 1),
        Transpose(1, 2),
        TakeOutput(nn.LSTM(64, 12, batch_first=True)),
        nn.Linear(12, 5),
    )


class Causal(nn.Module):
    """Drop the last samples, so that a padded convolution sees only the past."""

    def __init__(self, drop: int) -> None:
        super().__init__()
        self.drop = drop

    def forward(self, x: Tensor) -> Tensor:
        return x[..., : -self.drop]


def temporal() -> nn.Module:
    """TCN: causal convolutions that dilate."""

    def block(dilation: int) -> nn.Module:
        causal = nn.Conv1d(16, 16, 3, padding=2 * dilation, dilation=dilation)
        body = seq(causal, Causal(2 * dilation), norm(16, 1), nn.ReLU(), conv_norm(16, 16, 1, rank=1))
        return seq(Sum(nn.Identity(), body), nn.ReLU())

    return seq(unit(3, 16, 1, rank=1), block(1), block(2), conv(16, 2, 1, rank=1))


def voxels(factorised: bool) -> nn.Module:
    """R3D and R(2+1)D: convolutions over space and time, at once or one after the other."""

    def over(inputs: int, outputs: int, stride: int = 1) -> nn.Module:
        if not factorised:
            return conv_norm(inputs, outputs, 3, stride, rank=3)
        space = unit(inputs, outputs, (1, 3, 3), (1, stride, stride), rank=3)
        return seq(*space, conv_norm(outputs, outputs, (3, 1, 1), (stride, 1, 1), rank=3))

    def block(inputs: int, outputs: int, stride: int = 1) -> nn.Module:
        side = nn.Identity() if stride == 1 else conv_norm(inputs, outputs, 1, stride, rank=3)
        return seq(
            Sum(seq(over(inputs, outputs, stride), nn.ReLU(), over(outputs, outputs)), side), nn.ReLU()
        )

    return seq(over(3, 8), nn.ReLU(), block(8, 8), block(8, 16, 2), classifier(16, rank=3))


class Align(nn.Module):
    """PointNet's T-Net: a matrix computed from the points turns them."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = size
        self.matrix = seq(
            unit(size, 16, 1, rank=1, bias=True),
            unit(16, 32, 1, rank=1, bias=True),
            Max(2),
            nn.Linear(32, 16),
            nn.BatchNorm1d(16),
            nn.ReLU(),
            nn.Linear(16, size * size),
        )

    def forward(self, x: Tensor) -> Tensor:
        matrix = self.matrix(x).unflatten(1, (self.size, self.size))
        return torch.bmm(matrix, x)


def pointnet() -> nn.Module:
    """Points as the positions of a 1-D convolution with kernel 1."""
    return seq(
        Align(3),
        unit(3, 16, 1, rank=1, bias=True),
        conv_norm(16, 32, 1, rank=1, bias=True),
        Max(2),
        nn.Linear(32, 16),
        nn.BatchNorm1d(16),
        nn.ReLU(),
        nn.Linear(16, 5),
    )


def perceptron() -> nn.Module:
    """A table's columns: BatchNorm of the input itself, then dense layers."""
    return seq(
        nn.BatchNorm1d(20),
        nn.Linear(20, 32),
        nn.BatchNorm1d(32),
        nn.ReLU(),
        nn.Dropout(),
        nn.Linear(32, 16, bias=False),
        nn.BatchNorm1d(16),
        nn.Tanh(),
        nn.Linear(16, 8),
    )


def board_game() -> nn.Module:
    """AlphaZero: residual trunk, a head for the move and a head for the value."""
    residual = seq(Sum(nn.Identity(), seq(unit(16, 16), conv_norm(16, 16))), nn.ReLU())
    move = seq(unit(16, 2, 1), nn.Flatten(), nn.Linear(2 * 64, 10))
    value = seq(unit(16, 1, 1), nn.Flatten(), nn.Linear(64, 8), nn.ReLU(), nn.Linear(8, 1), nn.Tanh())
    return seq(unit(3, 16), residual, Many(move, value))


class Twins(nn.Module):
    """One embedding applied to both halves of the input: every BatchNorm is called twice."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = seq(
            unit(3, 16, 3, 2), unit(16, 16, 3, 2), nn.Flatten(), nn.Linear(256, 8), nn.BatchNorm1d(8)
        )

    def forward(self, x: Tensor) -> Tensor:
        left: Tensor = self.embedding(x[..., :16])
        right: Tensor = self.embedding(x[..., 16:])
        return (left - right).abs().sum(1)


class TokenMlp(nn.Module):
    """Linear over [N, L, C] and a BatchNorm over L: with L = C it looks foldable and is not."""

    def __init__(self) -> None:
        super().__init__()
        self.mix = nn.Linear(16, 16)
        self.over_tokens = nn.BatchNorm1d(16)
        self.feed = nn.Linear(16, 16)
        self.over_channels = nn.BatchNorm1d(16)

    def forward(self, x: Tensor) -> Tensor:
        mixed: Tensor = torch.relu(self.over_tokens(self.mix(x)))
        return x + torch.as_tensor(self.over_channels(self.feed(mixed).transpose(1, 2))).transpose(1, 2)


ARCHITECTURES = (
    Architecture("audio_m5", audio, (1, 256), 3, (0, 0, 0, 0)),
    Architecture("quartznet", quartznet, (4, 32), 4, (0, 0, 0, 0)),
    Architecture("crnn", recurrent, (1, 16, 12), 3, (1, 0, 0, 0)),
    Architecture("tcn", temporal, (3, 24), 5, (2, 0, 0, 0)),
    Architecture("r3d", lambda: voxels(False), (3, 4, 8, 8), 6, (0, 0, 0, 0)),
    Architecture("r2plus1d", lambda: voxels(True), (3, 4, 8, 8), 11, (0, 0, 0, 0)),
    Architecture("pointnet", pointnet, (3, 24), 6, (0, 0, 0, 0)),
    Architecture("perceptron", perceptron, (20,), 3, (1, 0, 0, 0)),
    Architecture("alphazero", board_game, (3, 8, 8), 5, (0, 0, 0, 0)),
    Architecture("siamese", Twins, (3, 16, 32), 6, (0, 0, 0, 0)),
    Architecture("token_mlp", TokenMlp, (16, 16), 2, (2, 1, 1, 1)),
)
