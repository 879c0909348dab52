"""Layers whose second derivative costs little more than their first.

A loss on gradients (MSGR) differentiates batch normalization and convolutions twice.

**Batch normalization.**  PyTorch writes the second derivative out as some thirty passes over the
map, which is most of what that regularizer costs.  Here it is one call of the first derivative's
kernel and four passes.  For one channel of n values let z = (x - mean) r be the normalized input,
r one over the standard deviation, a.b sums over the channel.  The first derivative of y = w z + b
makes of a gradient g

    gx = w r (g - g.1/n - z g.z/n)      gw = g.z      gb = g.1

and a loss of these three with the gradients v, c, d has the gradients

    for g    w r (v - v.1/n - z v.z/n) + c z + d
    for w    r s                                       s = v.g - (v.1 g.1 + v.z g.z) / n
    for x    - w r^2 (g.z/n) (v - v.1/n) + (c r - w r^2 v.z/n) (g - g.1/n)
             + (w r^2 (2 v.z g.z/n - s) - c r g.z) z/n

where the first term for g, v.z and v.1 are what the kernel of the first derivative makes of v.

**Convolutions.**  Of y = w * x the first derivative makes gx = C(g, w) and gw = D(g, x) from a
gradient g, both linear in each argument.  A loss of gx with the gradient v has the gradients w * v
for g and D(g, v) for w: a convolution, and the kernel that makes gradients of weights.  PyTorch
makes the latter by a convolution whose kernel is as large as the map and whose channels are the
pictures of the batch, for which libraries have no quick way: on a GPU it may take seconds.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

__all__ = ["QuickTwice", "batch_norm", "conv2d"]


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


def conv2d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: int | Sequence[int] = 1,
    padding: int | Sequence[int] = 0,
    dilation: int | Sequence[int] = 1,
    groups: int = 1,
    *,
    maps_first: bool = False,
) -> Tensor:
    """What ``torch.nn.functional.conv2d`` gives.

    Can be differentiated twice, not three times.

    Args:
        x: [B, C, H, W].
        weight: [D, C / groups, h, w].
        bias: [D], or none.
        stride: of both axes, or of each; so ``padding`` and ``dilation``.
        groups: of channels.
        maps_first: a derivative that will be differentiated itself is asked of maps alone; weights
            get none then, which spares the making of it.  (What is asked for cannot be seen here.)
    """
    y: Tensor = _Convolve.apply(  # type: ignore[no-untyped-call]
        x, weight, bias, _pair(stride), _pair(padding), _pair(dilation), groups, maps_first
    )
    return y


class QuickTwice(TorchFunctionMode):
    """While entered, layers normalize and convolve through :func:`batch_norm` and :func:`conv2d`.

    For losses on gradients of maps: ``autograd.grad`` with ``create_graph`` gives none to the
    weights of convolutions.
    """

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        if func is F.batch_norm:
            return _normalized(*args, **kwargs)
        if func is F.conv2d and torch.is_grad_enabled():
            return _convolved(*args, **kwargs)
        return func(*args, **kwargs)


def _normalized(
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


def _convolved(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: int | Sequence[int] = 1,
    padding: str | int | Sequence[int] = 0,
    dilation: int | Sequence[int] = 1,
    groups: int = 1,
) -> Tensor:
    if isinstance(padding, str) or x.dim() != 4:
        return F.conv2d(x, weight, bias, stride, padding, dilation, groups)
    kind = x.device.type
    available = torch.amp.is_autocast_available(kind)
    if available and torch.is_autocast_enabled(kind) and x.dtype != torch.float64:
        narrow = torch.get_autocast_dtype(kind)
        x, weight = x.to(narrow), weight.to(narrow)
        bias = bias if bias is None else bias.to(narrow)
    return conv2d(x, weight, bias, stride, padding, dilation, groups, maps_first=True)


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


class _Convolve(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        stride: list[int],
        padding: list[int],
        dilation: list[int],
        groups: int,
        maps_first: bool,
    ) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.settings, ctx.maps_first = (stride, padding, dilation, groups), maps_first
        return _conv(x, weight, bias, ctx.settings)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Any:
        x, weight = ctx.saved_tensors
        of_x, of_weight, of_bias = ctx.needs_input_grad[:3]
        if ctx.maps_first and torch.is_grad_enabled():
            of_weight = of_bias = False
        wanted = (of_x, of_weight, of_bias)
        gradients = _ConvolveGradient.apply(g, x, weight, wanted, ctx.settings)  # type: ignore[no-untyped-call]
        return (*gradients, None, None, None, None, None)


class _ConvolveGradient(torch.autograd.Function):
    """The wanted gradients of x, weight and bias as a function of g, x and weight."""

    @staticmethod
    def forward(
        ctx: Any,
        g: Tensor,
        x: Tensor,
        weight: Tensor,
        wanted: tuple[bool, bool, bool],
        settings: _Settings,
    ) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        ctx.save_for_backward(g, x, weight)
        ctx.settings = settings
        ctx.set_materialize_grads(False)
        return _conv_backward(g, x, weight, wanted, settings)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, v: Tensor | None, c: Tensor | None, d: Tensor | None) -> Any:
        g, x, weight = ctx.saved_tensors
        for_g: list[Tensor] = []
        for_x = for_weight = None
        if v is not None:
            for_g.append(_conv(v, weight, None, ctx.settings))
            for_weight = _conv_backward(g, v, weight, (False, True, False), ctx.settings)[1]
        if c is not None:
            for_g.append(_conv(x, c, None, ctx.settings))
            for_x = _conv_backward(g, x, c, (True, False, False), ctx.settings)[0]
        if d is not None:
            for_g.append(d.view(1, -1, 1, 1).expand_as(g))
        return sum(for_g[1:], for_g[0]) if for_g else None, for_x, for_weight, None, None


_Settings = tuple[list[int], list[int], list[int], int]  # stride, padding, dilation, groups


def _pair(value: int | Sequence[int]) -> list[int]:
    return [value, value] if isinstance(value, int) else list(value)


def _conv(x: Tensor, weight: Tensor, bias: Tensor | None, settings: _Settings) -> Tensor:
    stride, padding, dilation, groups = settings
    y: Tensor = torch.ops.aten.convolution(
        x, weight, bias, stride, padding, dilation, False, [0, 0], groups
    )
    return y


def _conv_backward(
    g: Tensor,
    x: Tensor,
    weight: Tensor,
    wanted: tuple[bool, bool, bool],
    settings: _Settings,
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    stride, padding, dilation, groups = settings
    gx, gw, gb = torch.ops.aten.convolution_backward(
        g,
        x,
        weight,
        [len(weight)],
        stride,
        padding,
        dilation,
        False,
        [0, 0],
        groups,
        wanted,
    )
    return gx, gw, gb
