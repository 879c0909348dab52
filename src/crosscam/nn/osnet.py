"""OSNet, a small network with several receptive fields in every block.

Zhou, Yang, Cavallaro, Xiang: "Omni-Scale Feature Learning for Person Re-Identification", ICCV
2019 (table 1 for the layout, figure 4 for the block), with the state names of the authors'
release, so that their weights load once converted to safetensors.  ``ibn`` is OSNet-IBN of the
same authors: instance normalization in the stem and behind each residual of conv2.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from crosscam.errors import RecipeError
from crosscam.nn.layers import InstanceNorm, init_kaiming, init_normal
from crosscam.nn.stages import Backbone

__all__ = ["WIDTHS", "OSBlock", "OSNet"]

WIDTHS: dict[str, float] = {
    "osnet_x1_0": 1.0,
    "osnet_x0_75": 0.75,
    "osnet_x0_5": 0.5,
    "osnet_x0_25": 0.25,
}
"""Channel factor of each published network."""


class ConvNorm(nn.Module):
    """Convolution, normalization and, unless ``linear``, ReLU."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: int = 1,
        stride: int = 1,
        *,
        linear: bool = False,
        instance: bool = False,
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2, bias=False)
        self.bn = InstanceNorm(outputs) if instance else nn.BatchNorm2d(outputs)
        self.linear = linear

    def forward(self, x: Tensor) -> Tensor:
        x = self.bn(self.conv(x))
        return x if self.linear else F.relu(x)


class Lite3x3(nn.Module):
    """A 3x3 convolution factored into pointwise, then depthwise (the paper's order, eq. 2)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 1, bias=False)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, groups=channels, bias=False)
        self.bn = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.bn(self.conv2(self.conv1(x))))


class Gate(nn.Module):
    """The aggregation gate G of eq. 4: pooled channels [B, C, 1, 1] to weights in (0, 1)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        hidden = max(1, channels // 16)
        self.fc1 = nn.Conv2d(channels, hidden, 1)
        self.fc2 = nn.Conv2d(hidden, channels, 1)

    def forward(self, pooled: Tensor) -> Tensor:
        return torch.sigmoid(self.fc2(F.relu(self.fc1(pooled))))


class OSBlock(nn.Module):
    """Residual block of four streams, 1 to 4 Lite 3x3 deep, summed under one shared gate."""

    def __init__(self, inputs: int, outputs: int, instance: bool = False) -> None:
        super().__init__()
        mid = outputs // 4
        self.conv1 = ConvNorm(inputs, mid)
        self.conv2a = Lite3x3(mid)
        self.conv2b = nn.Sequential(*(Lite3x3(mid) for _ in range(2)))
        self.conv2c = nn.Sequential(*(Lite3x3(mid) for _ in range(3)))
        self.conv2d = nn.Sequential(*(Lite3x3(mid) for _ in range(4)))
        self.gate = Gate(mid)
        self.conv3 = ConvNorm(mid, outputs, linear=True)
        self.downsample = ConvNorm(inputs, outputs, linear=True) if inputs != outputs else None
        self.IN = InstanceNorm(outputs) if instance else None

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv1(x)
        streams = [self.conv2a(y), self.conv2b(y), self.conv2c(y), self.conv2d(y)]
        # The gate has no statistics over the batch, so one call serves the four streams.
        pooled = torch.stack([s.mean((2, 3), keepdim=True) for s in streams])  # [4, B, mid, 1, 1]
        # No chunk(4): tracing for export would tie it to one batch size.
        gates = self.gate(pooled.flatten(0, 1)).unflatten(0, (4, -1))
        y = gates[0] * streams[0]
        for gate, stream in zip(gates[1:], streams[1:], strict=True):
            y = y + gate * stream
        y = self.conv3(y) + (x if self.downsample is None else self.downsample(x))
        return F.relu(y if self.IN is None else self.IN(y))


class OSNet(Backbone):
    """OSNet without pooling and classifier.

    The halving layers that the release puts at the end of conv2 and conv3 are the beginning of
    the next stage here, so that the maps have the strides 4, 8, 16, 16 of a ResNet with last
    stride 1: C1 the blocks of conv2, C2 those of conv3, C3 those of conv4, C4 conv5.
    """

    def __init__(
        self, name: str, *, ibn: bool = False, width: float = 1.0, embedding: bool = False
    ) -> None:
        super().__init__()
        if name not in WIDTHS:
            raise RecipeError(f"unknown OSNet '{name}', known: {', '.join(WIDTHS)}.")
        factor = WIDTHS[name] * width
        # Multiples of 32 keep a whole number of channels, at least 8, inside a block.
        c0 = max(8, 8 * round(64 * factor / 8))
        c1, c2, c3 = (max(32, 32 * round(c * factor / 32)) for c in (256, 384, 512))
        self.conv1 = ConvNorm(3, c0, 7, 2, instance=ibn)
        self.maxpool = nn.MaxPool2d(3, 2, padding=1)
        self.conv2 = nn.Sequential(OSBlock(c0, c1, ibn), OSBlock(c1, c1, ibn), _halve(c1))
        self.conv3 = nn.Sequential(OSBlock(c1, c2), OSBlock(c2, c2), _halve(c2))
        self.conv4 = nn.Sequential(OSBlock(c2, c3), OSBlock(c3, c3))
        self.conv5 = ConvNorm(c3, c3)
        self.fc: nn.Sequential | None = None
        init_kaiming(self)
        if embedding:
            linear = init_normal(nn.Linear(c3, 512), 0.01)
            self.fc = nn.Sequential(linear, nn.BatchNorm1d(512), nn.ReLU())
        self.channels = (c1, c2, c3, c3)
        self.strides = (4, 8, 16, 16)
        # Held in a tuple, which registers nothing: the state names stay the release's.
        self._stages = (
            self.conv2[:2],
            nn.Sequential(self.conv2[2], self.conv3[0], self.conv3[1]),
            nn.Sequential(self.conv3[2], self.conv4[0], self.conv4[1]),
            self.conv5,
        )

    def stem(self, images: Tensor) -> Tensor:
        x: Tensor = self.maxpool(self.conv1(images))
        return x

    def stage(self, number: int) -> nn.Module:
        return self._stages[number - 1]


def _halve(channels: int) -> nn.Sequential:
    return nn.Sequential(ConvNorm(channels, channels), nn.AvgPool2d(2, 2))
