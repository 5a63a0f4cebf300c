"""What an architecture of the zoo is, and how it gets weights as training leaves them."""

import zlib
from collections.abc import Callable
from dataclasses import dataclass
from itertools import zip_longest

import torch
from torch import Tensor, nn

TINY = 1e-3
"""Factor on the weights of the channels that hardly vary in training."""

HARDLY_VARYING = slice(5, None, 16)
"""These channels of every convolution and Linear."""


@dataclass(frozen=True)
class Architecture:
    """A published topology, thin and small enough for a test."""

    name: str
    build: Callable[[], nn.Module]
    shape: tuple[int, ...]
    """Shape of the input without the batch."""

    batch_norms: int
    left: tuple[int, int, int, int]
    """Number of BatchNormalizations that stay when folding with a ``max_tier`` of 0, 1, 2 and 3."""

    left_mixed: tuple[int, int, int, int] | None = None
    """The same where some γ are negative; None where that changes nothing."""

    @property
    def seed(self) -> int:
        """Seed of its weights and inputs."""
        return zlib.crc32(self.name.encode())

    def inputs(self, seed: int, batch: int = 2) -> Tensor:
        """A batch of random inputs, float32 ``[batch, *shape]``."""
        return torch.randn(batch, *self.shape, generator=torch.Generator().manual_seed(seed))


def trained(architecture: Architecture, *, mixed_signs: bool = False, batches: int = 3) -> nn.Module:
    """The module with random weights and with the BatchNorm statistics that these weights cause.

    Every sixteenth channel hardly varies, so that its variance is tiny; where a BatchNorm follows directly,
    its mean sits in the bias. γ is positive, as in nearly all trained networks, or, with ``mixed_signs``,
    negative for a quarter of the channels.
    """
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(architecture.seed)
        module = architecture.build()
        parts = list(module.modules())
        for part, following in zip_longest(parts, parts[1:]):
            _draw_weights(part, following, mixed_signs)
        _collect_statistics(module, architecture, batches)
    return module.eval()


def batch_norms(module: nn.Module) -> dict[str, nn.modules.batchnorm._BatchNorm]:
    """All BatchNorms of ``module`` by name."""
    return {
        name: part
        for name, part in module.named_modules()
        if isinstance(part, nn.modules.batchnorm._BatchNorm)
    }


def _draw_weights(part: nn.Module, following: nn.Module | None, mixed_signs: bool) -> None:
    # The same random numbers are drawn with and without mixed signs: the weights differ in nothing else.
    if isinstance(part, nn.modules.batchnorm._BatchNorm):
        if part.affine:
            part.weight.uniform_(0.3, 1.2)
            part.bias.normal_(0, 0.5)
            if mixed_signs:
                part.weight[1::4] *= -1
    elif isinstance(part, nn.modules.conv._ConvNd | nn.Linear):
        transposed = isinstance(part, nn.modules.conv._ConvTransposeNd)
        part.weight[(slice(None), HARDLY_VARYING) if transposed else HARDLY_VARYING] *= TINY
        if part.bias is not None:
            part.bias.normal_(0, 0.2)
            if not isinstance(following, nn.modules.batchnorm._BatchNorm):
                part.bias[HARDLY_VARYING] *= TINY  # behind an activation, such a channel is a silent one


def _collect_statistics(module: nn.Module, architecture: Architecture, batches: int) -> None:
    """Run the module in training mode and keep, with some noise, the mean of the statistics."""
    norms = batch_norms(module).values()
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # a plain mean over all batches
    module.train()
    for part in module.modules():
        if isinstance(part, nn.Dropout):
            part.eval()
    for batch in range(batches):
        module(architecture.inputs(architecture.seed + 1000 + batch, batch=4))
    for norm in norms:
        assert norm.running_mean is not None
        assert norm.running_var is not None
        norm.running_mean += norm.running_var.sqrt() * torch.randn_like(norm.running_mean) * 0.1
        norm.running_var *= torch.rand_like(norm.running_var) + 0.5
