"""Batch normalization whose second derivative costs little more than its first.

A loss on gradients (MSGR) differentiates batch normalization twice.  PyTorch writes the second
derivative out as some thirty passes over the map, which is most of what that regularizer costs.
Here it is one call of the first derivative's kernel and four passes.

For one channel of n values let z = (x - mean) r be the normalized input, r one over the standard
deviation, a.b sums over the channel.  The first derivative of y = w z + b makes of a gradient g

    gx = w r (g - g.1/n - z g.z/n)      gw = g.z      gb = g.1

and a loss of these three with the gradients v, c, d has the gradients

    for g    w r (v - v.1/n - z v.z/n) + c z + d
    for w    r s                                       s = v.g - (v.1 g.1 + v.z g.z) / n
    for x    - w r^2 (g.z/n) (v - v.1/n) + (c r - w r^2 v.z/n) (g - g.1/n)
             + (w r^2 (2 v.z g.z/n - s) - c r g.z) z/n

where the first term for g, v.z and v.1 are what the kernel of the first derivative makes of v.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

__all__ = ["QuickBatchNorm", "batch_norm"]


def batch_norm(
    x: Tensor,
    mean: Tensor | None,
    var: Tensor | None,
    weight: Tensor,
    bias: Tensor,
    momentum: float,
    eps: float,
) -> Tensor:
    """What ``torch.nn.functional.batch_norm`` gives in training, and the same running statistics.

    Can be differentiated twice, not three times.

    Args:
        x: [B, C, ...].
        mean: running mean [C], or none.
        var: running variance [C], or none.
        weight: [C].
        bias: [C].
        momentum: of the running statistics.
        eps: added to the variance.
    """
    y: Tensor = _Normalize.apply(x, mean, var, weight, bias, momentum, eps)  # type: ignore[no-untyped-call]
    return y


class QuickBatchNorm(TorchFunctionMode):
    """While entered, layers normalize by a batch's statistics through :func:`batch_norm`."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        if func is F.batch_norm:
            return _of_functional(*args, **kwargs)
        return func(*args, **kwargs)


def _of_functional(
    x: Tensor,
    mean: Tensor | None,
    var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    if not training or weight is None or bias is None or x.numel() == x.shape[1]:
        return F.batch_norm(x, mean, var, weight, bias, training, momentum, eps)
    return batch_norm(x, mean, var, weight, bias, momentum, eps)


class _Normalize(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        mean: Tensor | None,
        var: Tensor | None,
        weight: Tensor,
        bias: Tensor,
        momentum: float,
        eps: float,
    ) -> Tensor:
        y, center, r = torch.ops.aten.native_batch_norm(
            x, weight, bias, mean, var, True, momentum, eps
        )
        ctx.save_for_backward(x, weight, center, r)
        ctx.eps = eps
        result: Tensor = y
        return result

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Any:
        x, weight, center, r = ctx.saved_tensors
        gx, gw, gb = _Gradient.apply(g, x, weight, center, r, ctx.eps)  # type: ignore[no-untyped-call]
        return gx, None, None, gw, gb, None, None


class _Gradient(torch.autograd.Function):
    """The gradients of x, weight and bias as a function of g, x and weight."""

    @staticmethod
    def forward(
        ctx: Any, g: Tensor, x: Tensor, weight: Tensor, center: Tensor, r: Tensor, eps: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        gx, gz, g1 = _kernel(g, x, weight, center, r, eps)
        ctx.save_for_backward(g, x, weight, center, r, gz, g1)
        ctx.eps = eps
        ctx.set_materialize_grads(False)
        return gx, gz, g1

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, v: Tensor | None, c: Tensor | None, d: Tensor | None) -> Any:
        g, x, w, center, r, gz, g1 = ctx.saved_tensors
        n = x.numel() // x.shape[1]

        def column(values: Tensor) -> Tensor:
            return values.view(-1, *[1] * (x.dim() - 2))

        v = torch.zeros_like(g) if v is None else v
        for_g, vz, v1 = _kernel(v, x, w, center, r, ctx.eps)
        s = (v * g).sum([0, *range(2, x.dim())], dtype=r.dtype) - (v1 * g1 + vz * gz) / n
        wrr = w * r * r
        of_v, of_g = -wrr * gz / n, -wrr * vz / n
        of_x = wrr * (2 * vz * gz / n - s) * r / n
        if c is not None:
            of_g = of_g + c * r
            of_x = of_x - c * r * gz * r / n
            for_g = for_g + ((x - column(center)) * column(c * r)).to(g.dtype)
        if d is not None:
            for_g = for_g + column(d).to(g.dtype)
        alone = -(of_v * v1 + of_g * g1) / n - of_x * center
        for_x = torch.addcmul(column(alone), v, column(of_v))
        for_x = for_x.addcmul_(g, column(of_g)).addcmul_(x, column(of_x)).to(x.dtype)
        return for_g, for_x, r * s, None, None, None


def _kernel(
    g: Tensor, x: Tensor, weight: Tensor, center: Tensor, r: Tensor, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    """gx [B, C, ...], g.z [C] and g.1 [C]."""
    gx, gz, g1 = torch.ops.aten.native_batch_norm_backward(
        g, x, weight, None, None, center, r, True, eps, [True, True, True]
    )
    return gx, gz, g1
