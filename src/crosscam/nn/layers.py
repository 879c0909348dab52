"""Pooling, normalization and initialization that methods and backbones share.

Shapes: B batch, C channels, h w cells of a map.  Pooling returns float32 (float64 for float64
input) also inside autocast, because what follows is a metric.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor, nn

from crosscam.errors import InputError, RecipeError

__all__ = [
    "IBN",
    "BNNeck",
    "GeM",
    "InstanceNorm",
    "conv3x3",
    "global_avg_pool",
    "global_max_pool",
    "init_kaiming",
    "init_norm",
    "init_normal",
    "init_xavier",
    "narrow_in_float32",
    "running_statistics_untouched",
]

ModuleT = TypeVar("ModuleT", bound=nn.Module)


def global_avg_pool(maps: Tensor) -> Tensor:
    """Mean over all cells: [B, C, h, w] -> [B, C]."""
    _require_map(maps)
    if maps.requires_grad and not torch.compiler.is_compiling():
        mean: Tensor = _Mean.apply(maps)  # type: ignore[no-untyped-call]
        return mean
    return _mean(maps)


def global_max_pool(maps: Tensor) -> Tensor:
    """Maximum over all cells: [B, C, h, w] -> [B, C].  Equal maxima share the gradient."""
    _require_map(maps)
    return maps.amax((2, 3)).to(torch.promote_types(maps.dtype, torch.float32))


class _Mean(torch.autograd.Function):
    """The mean over cells; its gradient is one number a channel and is never written out.

    PyTorch's own writes it to every cell, in float32 and then in the type of the map, and in an
    order of memory that slows down what comes next.  The values are the same, bit by bit.
    """

    @staticmethod
    def forward(ctx: Any, maps: Tensor) -> Tensor:
        ctx.shape, ctx.type = maps.shape, maps.dtype
        return _mean(maps)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        cells = ctx.shape[2] * ctx.shape[3]
        mean: Tensor = (g / cells).to(ctx.type)
        return mean[:, :, None, None].expand(ctx.shape)


def _mean(maps: Tensor) -> Tensor:
    wide = torch.promote_types(maps.dtype, torch.float32)
    if maps.device.type != "cpu" or maps.dtype == wide or torch.compiler.is_compiling():
        return maps.mean((2, 3), dtype=wide)
    # A processor makes a float32 copy first, which for a few pictures at a time stays in its cache.
    pictures = max(1, 2**19 // max(1, maps[0].numel())) if len(maps) else 1
    return torch.cat([some.mean((2, 3), dtype=wide) for some in torch.split(maps, pictures)])


class GeM(nn.Module):
    """Generalized-mean pooling, [B, C, h, w] -> [B, C] (Radenovic et al., TPAMI 2019, eq. 4).

    y = (mean over cells of max(x, eps)^p)^(1/p); p = 1 is average pooling, p -> inf is max
    pooling.  One exponent serves all channels and is learned unless ``learnable=False``.

    Args:
        p: initial exponent, > 0.
        eps: floor on the activations, > 0; x^p has no derivative in p at 0.
        learnable: whether p is trained.
    """

    def __init__(self, p: float = 3.0, *, eps: float = 1e-6, learnable: bool = True) -> None:
        super().__init__()
        if p <= 0 or eps <= 0:
            raise InputError(f"GeM needs p > 0 and eps > 0, got p={p}, eps={eps}.")
        self.p = nn.Parameter(torch.tensor(float(p)), requires_grad=learnable)
        self.eps = eps

    def forward(self, maps: Tensor) -> Tensor:
        _require_map(maps)
        with torch.autocast(maps.device.type, enabled=False):
            x = maps.to(torch.promote_types(maps.dtype, torch.float32)).clamp(min=self.eps)
            p = self.p.to(x.dtype)
            return x.pow(p).mean((2, 3)).pow(1 / p)

    def extra_repr(self) -> str:
        return f"p={self.p.item():.4g}, eps={self.eps}"


def conv3x3(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
    """A padded 3x3 convolution without bias, batch normalization and ReLU.

    [B, inputs, h, w] -> [B, outputs, h / stride, w / stride], rounded up.
    """
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(),
    )


class BNNeck(nn.BatchNorm1d):
    """Batch normalization between metric feature and identity loss, its bias frozen at zero.

    [B, D] -> [B, D].  Luo et al., CVPRW 2019, section 3.5: the hyperplanes of a bias-free
    classifier behind it pass through the origin.
    """

    def __init__(self, dim: int) -> None:
        super().__init__(dim)
        self.bias.requires_grad_(False)


class InstanceNorm(nn.InstanceNorm2d):
    """Instance normalization with weights: [B, C, h, w] -> [B, C, h, w], in the same memory order.

    On a CPU PyTorch's own comes back channel by channel, whatever it was given, and every
    convolution behind it, forward and backward, then puts its maps in order first.

    Raises ``RecipeError`` for maps of one cell, whose own mean would leave nothing of them.
    """

    def __init__(self, channels: int) -> None:
        super().__init__(channels, affine=True)

    def forward(self, maps: Tensor) -> Tensor:
        if maps.shape[2] * maps.shape[3] == 1:
            raise RecipeError(
                "the pictures are too small for a network with instance normalization: its map of "
                "them has one cell, and needs two or more. preprocess.size=[32,16] is enough."
            )
        normalized: Tensor = super().forward(maps)
        return normalized.contiguous(memory_format=_order(maps))


def _order(maps: Tensor) -> torch.memory_format:
    last = maps.is_contiguous(memory_format=torch.channels_last)
    return torch.channels_last if last else torch.contiguous_format


class IBN(nn.Module):
    """Instance normalization on the first half of the channels, batch normalization on the rest.

    [B, C, h, w] -> [B, C, h, w].  Pan et al., "Two at Once", ECCV 2018, the IBN-a block.  State
    names ``IN`` and ``BN`` are those of the published weights.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        if channels < 2:
            raise InputError(
                f"IBN splits the channels in two and needs at least 2, got {channels}."
            )
        self.instances = channels // 2
        self.IN = InstanceNorm(self.instances)
        self.BN = nn.BatchNorm2d(channels - self.instances)

    def forward(self, maps: Tensor) -> Tensor:
        order = _order(maps)  # which half the channels do not show
        by_picture = maps[:, : self.instances].contiguous(memory_format=order)
        by_batch = maps[:, self.instances :].contiguous(memory_format=order)
        return torch.cat([self.IN(by_picture), self.BN(by_batch)], dim=1)


@contextlib.contextmanager
def running_statistics_untouched(module: nn.Module) -> Iterator[None]:
    """Batch normalization below ``module`` goes by its batch and leaves its running statistics.

    For a pass whose pictures, or whose place in training, are not those that will be deployed.
    """
    norms: list[Any] = [m for m in module.modules() if hasattr(m, "running_mean")]
    kept = [norm.momentum for norm in norms]
    try:
        for norm in norms:
            norm.momentum = 0.0
        yield
    finally:
        for norm, momentum in zip(norms, kept, strict=True):
            norm.momentum = momentum


def narrow_in_float32(module: nn.Module) -> None:
    """Convolutions below ``module`` that stride to maps one cell wide compute in float32.

    Their output keeps its type.  For bfloat16 on a CPU: there oneDNN (3.12) takes memory that
    nobody wrote for a part of such a map with AMX, and for a part of the gradient of the weights
    with AVX-512 too, if the input is one cell wide as well.  Values then differ from run to run,
    and now and then one is not finite.  Strides of 16 make such maps of pictures up to 16 pixels
    wide, strides of 32 of pictures up to 32.
    """
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d) and layer.stride[1] > 1 and not isinstance(layer, _Narrow):
            # Also of a class that pads by itself: then the width is at most underrated.
            kind = type(layer)
            layer.__class__ = type(f"Narrow{kind.__name__}", (_Narrow, kind), {})


class _Narrow(nn.Conv2d):
    """See ``narrow_in_float32``."""

    def forward(self, x: Tensor) -> Tensor:
        kind = x.device.type
        if not torch.is_autocast_enabled(kind) or self._width(x.shape[3]) > 1:
            return super().forward(x)
        with torch.autocast(kind, enabled=False):
            return super().forward(x.float()).to(torch.get_autocast_dtype(kind))

    def _width(self, width: int) -> int:
        """Of the output, for an input of ``width``."""
        padding = 0 if isinstance(self.padding, str) else self.padding[1]  # "same" has no stride
        reach = self.dilation[1] * (self.kernel_size[1] - 1)
        return (width + 2 * padding - reach - 1) // self.stride[1] + 1


def init_normal(module: ModuleT, std: float = 0.001) -> ModuleT:
    """Weights of all convolutions and linear layers from N(0, std), biases 0; returns ``module``.

    Known values: 0.001 classifiers (Luo et al.; MPN), 0.01 the 512-d layer of SAN's encoder.
    """
    for layer in _linear_layers(module):
        nn.init.normal_(layer.weight, std=std)
        _zero_bias(layer)
    return module


def init_kaiming(module: ModuleT, mode: Literal["fan_in", "fan_out"] = "fan_out") -> ModuleT:
    """Weights of all convolutions and linear layers from N(0, 2 / fan) (He et al., 2015).

    Biases 0; returns ``module``.  Known values: "fan_out" backbones and the IDE embedding layer,
    "fan_in" the reduction layers of MGN-type heads.
    """
    for layer in _linear_layers(module):
        nn.init.kaiming_normal_(layer.weight, mode=mode, nonlinearity="relu")
        _zero_bias(layer)
    return module


def init_xavier(module: ModuleT, gain: float = 0.02) -> ModuleT:
    """Xavier-normal weights of all convolutions and linear layers, biases 0; returns ``module``.

    Known value: gain 0.02 for SAN's decoder.
    """
    for layer in _linear_layers(module):
        nn.init.xavier_normal_(layer.weight, gain=gain)
        _zero_bias(layer)
    return module


def init_norm(module: ModuleT, std: float = 0.0) -> ModuleT:
    """Weights of all normalization layers from N(1, std), biases 0; returns ``module``.

    Known values: 0.02 in SAN's decoder, the IDE head and MGN-type reductions; 0 elsewhere.
    """
    for layer in module.modules():
        if isinstance(layer, nn.modules.batchnorm._NormBase) and layer.affine:
            nn.init.normal_(layer.weight, mean=1.0, std=std)
            nn.init.zeros_(layer.bias)
    return module


def _linear_layers(module: nn.Module) -> Iterator[nn.Conv2d | nn.ConvTranspose2d | nn.Linear]:
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
            yield layer


def _zero_bias(layer: nn.Conv2d | nn.ConvTranspose2d | nn.Linear) -> None:
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)


def _require_map(maps: Tensor) -> None:
    if maps.ndim != 4:
        raise InputError(f"pooling needs a map [B, C, h, w], got {list(maps.shape)}.")
