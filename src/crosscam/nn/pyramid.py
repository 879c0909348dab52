"""The feature pyramid of MSFL: CSIP passes deep maps down to shallow ones, MSFF refines each.

Wang: "Adversarial Multi-scale Feature Learning for Person Re-identification", 2020, arXiv
2012.14061.  Stage maps C_l, shallow to deep, come in; as many maps of one width go out:

    P_top = lateral_top(C_top)        P_l = lateral_l(C_l) + smooth_l(up(P_l+1))

``lateral`` is a 1x1 convolution to 512 channels, ``up`` repeats the nearest cell, and the sum is
an addition.  MSFF then puts bottleneck blocks on every level, more of them on shallow ones.

Assumed, where the paper is silent: batch normalization behind every convolution of CSIP and no
ReLU there; ``smooth``, the convolution against the artifacts of ``up``, is 1x1 (the reported cost
excludes 3x3); the blocks are 128 channels wide.  Everything can be differentiated twice.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional as F

from crosscam.errors import InputError
from crosscam.nn.layers import init_kaiming

__all__ = ["CSIP", "MSFF"]


class CSIP(nn.Module):
    """Cross-scale information propagation: a top-down path over stage maps.

    Args:
        channels: channels of the maps that come in, shallow to deep.
        width: channels of every map that goes out.
        aa_kernel: size of the convolution behind ``up``, 1 or 3; 0 leaves it out.
        lateral: add the map of each level; without, only the deepest map is passed down.
    """

    def __init__(
        self,
        channels: Sequence[int],
        width: int = 512,
        *,
        aa_kernel: int = 1,
        lateral: bool = True,
    ) -> None:
        super().__init__()
        if not channels or aa_kernel not in (0, 1, 3):
            raise InputError(
                f"CSIP needs one level or more and aa_kernel 0, 1 or 3, got {len(channels)} "
                f"levels and {aa_kernel}."
            )
        below = len(channels) - 1  # levels that something is passed down to
        used = channels if lateral else channels[-1:]
        self.lateral = nn.ModuleList(_conv_norm(c, width, 1) for c in used)
        self.smooth = nn.ModuleList(
            _conv_norm(width, width, aa_kernel) if aa_kernel else nn.Identity()
            for _ in range(below)
        )
        self.adds_lateral = lateral
        init_kaiming(self)

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """Maps [B, C_l, h_l, w_l], shallow to deep, to [B, width, h_l, w_l]."""
        levels: list[Tensor] = [self.lateral[-1](maps[-1])]
        for i in reversed(range(len(maps) - 1)):
            passed = self.smooth[i](_nearest(levels[0], maps[i]))
            levels.insert(0, self.lateral[i](maps[i]) + passed if self.adds_lateral else passed)
        return levels


class MSFF(nn.Module):
    """Multi-scale feature fusion, before the concatenation: blocks that refine every level.

    Args:
        width: channels of the maps.
        blocks: bottleneck blocks per level, shallow to deep.
        inner: channels inside a block.
    """

    def __init__(self, width: int, blocks: Sequence[int], inner: int = 128) -> None:
        super().__init__()
        self.levels = nn.ModuleList(
            nn.Sequential(*(_Refine(width, inner) for _ in range(n))) for n in blocks
        )
        init_kaiming(self)

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """Maps [B, width, h_l, w_l] to maps of the same shapes."""
        return [level(x) for level, x in zip(self.levels, maps, strict=True)]


class _Refine(nn.Module):
    """The bottleneck of a ResNet at a width of one's own: 1x1, 3x3, 1x1 and an identity."""

    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.reduce = _conv_norm(width, inner, 1)
        self.conv = _conv_norm(inner, inner, 3)
        self.expand = _conv_norm(inner, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.conv(F.relu(self.reduce(x))))
        return F.relu(x + self.expand(y))


def _conv_norm(inputs: int, outputs: int, kernel: int) -> nn.Sequential:
    conv = nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(outputs))


def _nearest(x: Tensor, like: Tensor) -> Tensor:
    """``x`` enlarged to the cells of ``like``; twice in height and width between most stages."""
    return x if x.shape[2:] == like.shape[2:] else F.interpolate(x, like.shape[2:], mode="nearest")
