"""Attention over channels and cells, each a small module that looks at a map.

    gate = ChannelGate(256, 512)         # of an earlier map, for a later one
    cells = SpatialMap(256)
    x = attend(later, gate(earlier), cells(earlier, size))

The forms are those of MGN-type networks with attention (``methods.mmga``).  Shapes: B batch, C
channels, h w cells of a map.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from crosscam.nn.layers import conv3x3, global_avg_pool, init_kaiming, init_normal

__all__ = ["ChannelGate", "SpatialMap", "attend"]


class ChannelGate(nn.Module):
    """How much each channel counts: pooled mean, Linear to C/8, ReLU, Linear, sigmoid.

    [B, inputs, h, w] -> [B, outputs] in (0, 1).  The hidden layer has at least 8 units.
    """

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        hidden = max(inputs // 8, 8)
        self.layers = nn.Sequential(
            nn.Linear(inputs, hidden), nn.ReLU(), nn.Linear(hidden, outputs)
        )

    def forward(self, maps: Tensor) -> Tensor:
        weights: Tensor = torch.sigmoid(self.layers(global_avg_pool(maps)))
        return weights


class SpatialMap(nn.Module):
    """How much each cell counts, as a logit.

    3x3 convolution to C/8, area average to the size that is asked for, 3x3 to C/64, 3x3 to one
    channel; batch normalization and ReLU behind the first two.  [B, C, h, w] -> [B, h', w'],
    whose sigmoid is the map.  The hidden layers have at least 8 and 4 channels.

    The map starts at one half everywhere (assumed): a random one would be all but 0 or 1 in many
    cells, where its gradient fades, and would scramble a trained network.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        first, second = max(channels // 8, 8), max(channels // 64, 4)
        self.squeeze = conv3x3(channels, first)
        self.refine = conv3x3(first, second)
        self.score = nn.Conv2d(second, 1, 3, padding=1)
        init_kaiming(self)
        init_normal(self.score, 0.001)

    def forward(self, maps: Tensor, size: tuple[int, int]) -> Tensor:
        x = F.adaptive_avg_pool2d(self.squeeze(maps), size)
        logits: Tensor = self.score(self.refine(x)).squeeze(1)
        return logits


def attend(maps: Tensor, gate: Tensor, cells: Tensor) -> Tensor:
    """``maps`` [B, C, h, w] times gate [B, C] times (1 + sigmoid of the logits [B, h, w])."""
    attention = gate[:, :, None, None] * (1 + torch.sigmoid(cells))[:, None]
    return maps * attention.to(maps.dtype)
