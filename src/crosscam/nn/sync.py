"""Batch normalization over all processes of a distributed run, on any device, and their number.

PyTorch's own SyncBatchNorm runs on GPUs only and cannot be differentiated twice.  This one is
the definition, written with all-reduces that autograd knows, so it runs on CPUs too, and
gradient penalties work through it.
"""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor, nn

__all__ = ["SyncBatchNorm", "convert", "world_size"]


def world_size() -> int:
    """Number of processes that learn together."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


class _AllReduceSum(torch.autograd.Function):
    """Sum over processes; its gradient is the sum of the gradients over processes."""

    @staticmethod
    def forward(_ctx: object, value: Tensor) -> Tensor:
        total = value.contiguous().clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(_ctx: object, gradient: Tensor) -> Tensor:
        return _all_reduce_sum(gradient)


def _all_reduce_sum(value: Tensor) -> Tensor:
    result: Tensor = _AllReduceSum.apply(value)  # type: ignore[no-untyped-call]
    return result


class SyncBatchNorm(nn.Module):
    """Stands in for a BatchNorm1d or BatchNorm2d, with its parameters and buffers.

    In training mode mean and (biased) variance are taken over the batches of all processes, and
    the running variance is the unbiased one over all of them, as in one process with the whole
    batch.
    """

    running_mean: Tensor
    running_var: Tensor
    num_batches_tracked: Tensor

    def __init__(self, norm: nn.BatchNorm1d | nn.BatchNorm2d) -> None:
        super().__init__()
        self.eps, self.momentum, self.affine = norm.eps, norm.momentum, norm.affine
        self.weight, self.bias = norm.weight, norm.bias
        for name in ("running_mean", "running_var", "num_batches_tracked"):
            self.register_buffer(name, getattr(norm, name))

    def forward(self, x: Tensor) -> Tensor:
        """Normalized maps, [B, C, ...] to the same shape and type."""
        if not self.training:
            return nn.functional.batch_norm(
                x, self.running_mean, self.running_var, self.weight, self.bias, False, 0.0, self.eps
            )
        over = [d for d in range(x.ndim) if d != 1]
        shape = [1, -1] + [1] * (x.ndim - 2)
        # Sums of bfloat16 maps lose the mean.
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        # Filled on the device: a number sent there would have the host wait for it.
        count = _all_reduce_sum(wide.new_full((), x.numel() // x.shape[1]))
        mean = _all_reduce_sum(wide.sum(over)) / count
        centered = wide - mean.view(shape)
        variance = _all_reduce_sum((centered * centered).sum(over)) / count
        with torch.no_grad():
            self.num_batches_tracked += 1
            momentum = self.momentum if self.momentum is not None else 1 / self.num_batches_tracked
            unbiased = variance * (count / (count - 1).clamp(min=1))
            self.running_mean.lerp_(mean.detach(), float(momentum))
            self.running_var.lerp_(unbiased.detach(), float(momentum))
        scale = torch.rsqrt(variance + self.eps)
        if not self.affine:
            return (centered * scale.view(shape)).to(x.dtype)
        scale = scale * self.weight
        return (centered * scale.view(shape) + self.bias.view(shape)).to(x.dtype)


def convert(module: nn.Module) -> None:
    """Replace every BatchNorm1d and BatchNorm2d below ``module``, in place."""
    for name, child in list(module.named_children()):
        if isinstance(child, (nn.BatchNorm1d, nn.BatchNorm2d)):
            setattr(module, name, SyncBatchNorm(child))
        else:
            convert(child)
