"""Stage maps to a texture: the decoder of SAN and SAN-PG, and the error of what it paints.

Jin, Lan, Zeng, Wei, Chen: "Semantics-Aligned Representation Learning for Person
Re-identification", AAAI 2020, arXiv 1905.13143, SA-Dec, layer by layer as in its release.

A texture is a picture of the whole body's surface, [3, T, T] in [-1, 1], in which every texel has
a fixed place on the body.  A texel that is not known is NaN; a picture without a texture has
nothing but NaN.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from crosscam.errors import InputError, RecipeError
from crosscam.nn import layers

__all__ = ["Decoded", "TextureDecoder", "texture_loss"]

_STRIDES = (4, 8, 16, 16)
_WIDTHS = (512, 256, 64, 32, 16)  # channels of the reduced map and of d1 to d4


class Decoded(NamedTuple):
    """What the decoder makes of a batch."""

    texture: Tensor  # [B, 3, T, T], around [-1, 1] (no squashing), T the height of the picture
    maps: tuple[Tensor, Tensor, Tensor, Tensor]  # d1 to d4, at 1/8, 1/4, 1/2 and 1 of the picture


class TextureDecoder(nn.Module):
    """SA-Dec: four residual blocks that each double the map, then a 7x7 convolution.

    Maps at 256x128 with a ResNet-50 and ``width`` 1 (every size halves with the picture's):

        C4          2048 x  16 x   8    1x1 convolution, BN, ReLU
        reduced      512 x  16 x   8    + skip of C3 (1024 x 16 x 8)
        d1           256 x  32 x  16    + skip of C2 ( 512 x 32 x 16)
        d2            64 x  64 x  32    + skip of C1 ( 256 x 64 x 32)
        d3            32 x 128 x  64
        d4            16 x 256 x 128
        painted        3 x 256 x 128    no tanh
        texture        3 x 256 x 256    made square by linear interpolation

    A skip is a 1x1 convolution, BN and ReLU.  9,071,075 parameters, 674,240 of them in skips.
    Convolutions start Xavier-normal with gain 0.02, biases at 0, BN weights from N(1, 0.02).

    Args:
        channels: of the four stage maps C1 to C4 of the backbone.
        strides: input pixels per cell of those maps: 4, 8, 16 and 16.
        width: factor on the channels inside the decoder (rounded to multiples of 8, at least 8).
            They do not follow the backbone's, so that a thin encoder can have a thick decoder.
        skips: add the maps C3, C2 and C1 (the release does; the paper, from memory, does not).

    Raises:
        RecipeError: a backbone with other strides, or a width out of range.
    """

    def __init__(
        self,
        channels: Sequence[int],
        strides: Sequence[int],
        *,
        width: float = 1.0,
        skips: bool = True,
    ) -> None:
        super().__init__()
        if tuple(strides) != _STRIDES:
            raise RecipeError(
                f"the texture decoder needs stage maps of strides {_STRIDES}, and this backbone "
                f"has {tuple(strides)}. Set method.backbone.last_stride=1, or take a ResNet."
            )
        if not 0.0 < width <= 4.0:
            raise RecipeError(
                "the width of the texture decoder (method.decoder_width, method.texture_width) "
                f"must be in (0, 4], got {width}."
            )
        c1, c2, c3, c4 = channels
        reduced, d1, d2, d3, d4 = (max(8, 8 * round(c * width / 8)) for c in _WIDTHS)
        self.reduce = _adapt(c4, reduced)
        self.skip3 = _adapt(c3, reduced) if skips else None
        self.skip2 = _adapt(c2, d1) if skips else None
        self.skip1 = _adapt(c1, d2) if skips else None
        self.up1 = UpBlock(reduced, d1)
        self.up2 = UpBlock(d1, d2)
        self.up3 = UpBlock(d2, d3)
        self.up4 = UpBlock(d3, d4)
        self.paint = nn.Sequential(_Mirror(3), _FewOutputs(d4, 3, 7))
        layers.init_norm(layers.init_xavier(self, 0.02), 0.02)

    def forward(self, stages: Sequence[Tensor]) -> Decoded:
        """The texture of stage maps [C1, C2, C3, C4], and the maps d1 to d4 on the way to it."""
        c1, c2, c3, c4 = stages
        cells = [tuple(c.shape[2:]) for c in stages]
        if cells[3] != cells[2] or any(
            (2 * h, 2 * w) != large
            for (h, w), large in zip(cells[2:0:-1], cells[1::-1], strict=True)
        ):
            raise InputError(
                "the texture decoder needs pictures whose height and width are multiples of 16; "
                f"it got stage maps of {', '.join(f'{h}x{w}' for h, w in cells)} cells. Change "
                "preprocess.size."
            )
        x = self.reduce(c4)
        d1 = self.up1(x if self.skip3 is None else x + self.skip3(c3))
        d2 = self.up2(d1 if self.skip2 is None else d1 + self.skip2(c2))
        d3 = self.up3(d2 if self.skip1 is None else d2 + self.skip1(c1))
        d4 = self.up4(d3)
        return Decoded(_made_square(self.paint(d4)), (d1, d2, d3, d4))


class UpBlock(nn.Module):
    """Residual block, ReLU, linear upsampling by two, 3x3 convolution to other channels.

    [B, a, h, w] -> [B, b, 2h, 2w].  Nothing normalizes or clips the result.
    """

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.residual = nn.Sequential(
            nn.Conv2d(inputs, inputs, 3, padding=1, bias=False),
            nn.BatchNorm2d(inputs),
            nn.ReLU(),
            nn.Conv2d(inputs, inputs, 3, padding=1, bias=False),
            nn.BatchNorm2d(inputs),
        )
        self.convolution = nn.Sequential(_Mirror(1), nn.Conv2d(inputs, outputs, 3))

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(x + self.residual(x))
        x = F.interpolate(x, scale_factor=2.0, mode="bilinear", align_corners=False)
        y: Tensor = self.convolution(x)
        return y


class _Mirror(nn.ReflectionPad2d):
    """Reflected borders, in the type of the map.

    Autocast on a CPU pads in float32, and two changes of type of the decoder's largest maps cost
    more than the convolution between them.
    """

    def forward(self, x: Tensor) -> Tensor:
        if x.device.type != "cpu":
            return super().forward(x)
        with torch.autocast("cpu", enabled=False):
            return super().forward(x)


class _FewOutputs(nn.Conv2d):
    """Convolution without padding whose three outputs would leave most of a vector empty.

    [B, a, h, w] -> [B, b, h - k + 1, w - k + 1].  Computed are 2x2 cells of the result at once, as
    4 b outputs of one convolution of stride 2 whose kernels are the k x k kernel at four places of
    (k + 1) x (k + 1) cells, zeros around it.  Pairs of columns lie side by side as 2 a channels,
    which in channels-last memory they do anyway.  Sums are those of a plain convolution, and
    zeros.  The sides of the kernel are odd, those of the map even.
    """

    def forward(self, x: Tensor) -> Tensor:
        b, a, k, _ = self.weight.shape
        places = [
            F.pad(self.weight, (column, 1 - column, row, 1 - row))
            for row in (0, 1)
            for column in (0, 1)
        ]
        kernel = torch.stack(places).reshape(4 * b, a, k + 1, (k + 1) // 2, 2)
        kernel = kernel.permute(0, 4, 1, 2, 3).flatten(1, 2)
        batch, _, height, width = x.shape
        pairs = x.permute(0, 2, 3, 1).reshape(batch, height, width // 2, 2 * a).permute(0, 3, 1, 2)
        bias = None if self.bias is None else self.bias.repeat(4)
        cells = F.conv2d(pairs, kernel, bias, stride=(2, 1))
        height, width = cells.shape[2:]
        cells = cells.view(batch, 2, 2, b, height, width).permute(0, 3, 4, 1, 5, 2)
        return cells.reshape(batch, b, 2 * height, 2 * width)


def _made_square(maps: Tensor) -> Tensor:
    """[B, C, T, w] -> [B, C, T, T], rows stretched by linear interpolation between their ends.

    ``F.interpolate`` with ``align_corners``, as a product with the weights [w, T]: in bfloat16 on a
    CPU that takes a seventh of the time.
    """
    height, width = maps.shape[2:]
    unit = torch.eye(
        width, dtype=torch.promote_types(maps.dtype, torch.float32), device=maps.device
    )
    weights = F.interpolate(unit[None], height, mode="linear", align_corners=True)[0]
    return maps @ weights.to(maps.dtype)


def _adapt(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(inputs, outputs, 1), nn.BatchNorm2d(outputs), nn.ReLU())


def texture_loss(painted: Tensor, texture: Tensor) -> Tensor:
    """L_Rec: mean absolute error over the texels that are known, in the type of ``texture``.

    Args:
        painted: [B, 3, T, T].
        texture: [B, 3, t, t] in [-1, 1], NaN where not known.  If t is not T, each texel of the
            output is compared with the mean of the known texels that it covers.

    Returns:
        Scalar; 0 (with a graph) if no texel is known.
    """
    if texture.ndim != 4 or painted.shape[:2] != texture.shape[:2]:
        raise InputError(
            f"a texture for {list(painted.shape)} must be [{painted.shape[0]}, 3, T, T], got "
            f"{list(texture.shape)}."
        )
    unknown = texture.isnan()
    painted = painted.to(texture.dtype)
    if texture.shape[2:] != painted.shape[2:]:
        size = (painted.shape[2], painted.shape[3])
        share = F.adaptive_avg_pool2d((~unknown).to(texture.dtype), size)
        texture = F.adaptive_avg_pool2d(texture.masked_fill(unknown, 0.0), size)
        texture, unknown = texture / share.clamp(min=1e-6), share == 0
    # A texel that is not known is compared with itself, which has no error and no gradient.
    target = torch.where(unknown, painted.detach(), texture)
    count = unknown.numel() - torch.count_nonzero(unknown)
    return (painted - target).abs().sum() / count.clamp(min=1)
