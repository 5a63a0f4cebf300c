"""BatchNorm as a fixed per-channel affine, for fine-tuning. Imports torch: for training and for the child.

Fine-tuning on few or different images ruins the statistics of a BatchNorm, so they are often held fixed. Then
nothing is left of it but

    y = γ'·x + β'        γ' = γ / √(σ² + ε)        β' = β − γ'·μ

computed here in float64 and rounded once. This is the eval mode of the BatchNorm, whatever mode the model is
in; with ``learnable=True``, γ' and β' are trained on, from these values.

A BatchNorm without running statistics has no such affine, and stays.
"""

import torch
from torch import nn


class FrozenBatchNorm(nn.Module):
    """``y = scale·x + shift`` with one number of each per channel, axis 1 of x; takes any rank from 2 up."""

    scale: torch.Tensor
    shift: torch.Tensor

    def __init__(self, scale: torch.Tensor, shift: torch.Tensor, *, learnable: bool = False) -> None:
        super().__init__()
        for name, values in (("scale", scale), ("shift", shift)):
            if learnable:
                self.register_parameter(name, nn.Parameter(values))
            else:
                self.register_buffer(name, values)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The affine of ``x``, in the dtype of ``x`` as a BatchNorm's answer is."""
        shape = (-1, *[1] * (x.ndim - 2))
        return (self.scale.view(shape) * x + self.shift.view(shape)).to(x.dtype)


def freeze_batchnorm(module: nn.Module, *, learnable: bool = False) -> nn.Module:
    """Replace every BatchNorm in ``module`` with running statistics by the :class:`FrozenBatchNorm` it is.

    Args:
        module: Changed in place, its other parameters are left alone; calls of
            ``torch.nn.functional.batch_norm`` are no modules and stay; for them there is
            :func:`~foldserve.importing.freeze_program.freeze_program`.
        learnable: Make γ' and β' parameters; otherwise they are buffers, which no optimiser touches.

    Returns:
        ``module`` itself, or what takes its place if it is a BatchNorm.
    """
    if isinstance(module, nn.modules.batchnorm._BatchNorm):
        return _frozen(module, learnable)
    frozen: dict[nn.Module, nn.Module] = {}  # a module that is used in two places stays one module
    for parent in list(module.modules()):
        for name, child in parent._modules.items():
            if isinstance(child, nn.modules.batchnorm._BatchNorm):
                if child not in frozen:
                    frozen[child] = _frozen(child, learnable)
                parent._modules[name] = frozen[child]
    return module


def _frozen(norm: nn.modules.batchnorm._BatchNorm, learnable: bool) -> nn.Module:
    if norm.running_mean is None or norm.running_var is None:
        return norm
    scale, shift = affine(norm.weight, norm.bias, norm.running_mean, norm.running_var, norm.eps)
    dtype = norm.running_mean.dtype if norm.weight is None else norm.weight.dtype
    return FrozenBatchNorm(scale.to(dtype), shift.to(dtype), learnable=learnable).train(norm.training)


def affine(
    weight: torch.Tensor | None,
    bias: torch.Tensor | None,
    mean: torch.Tensor,
    variance: torch.Tensor,
    epsilon: float,
) -> tuple[torch.Tensor, torch.Tensor]:
    """γ' and β' in float64, shape [C]; a missing γ is 1, a missing β 0."""
    with torch.no_grad():
        scale = (variance.double() + epsilon).rsqrt()
        if weight is not None:
            scale = scale * weight.double()
        shift = -scale * mean.double()
        return scale, shift if bias is None else shift + bias.double()
