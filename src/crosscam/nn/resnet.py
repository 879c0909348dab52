"""ResNet-18/34/50/101 with torchvision's state names.

He et al., "Deep Residual Learning", CVPR 2016, in torchvision's variant (the stride of a
bottleneck sits in its 3x3 convolution).  Options: stride of the last stage, IBN-a blocks (Pan et
al., ECCV 2018), width.  No operation works in place, so maps and gradients can be used again.
"""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn
from torch.nn import functional as F

from crosscam.errors import RecipeError
from crosscam.nn.layers import IBN, init_kaiming
from crosscam.nn.stages import Backbone

__all__ = ["DEPTHS", "BasicBlock", "Bottleneck", "ResNet"]


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut (ResNet-18/34)."""

    expansion = 1

    def __init__(self, inputs: int, planes: int, stride: int = 1, ibn: bool = False) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, planes, 3, stride, padding=1, bias=False)
        self.bn1 = IBN(planes) if ibn else nn.BatchNorm2d(planes)
        self.conv2 = nn.Conv2d(planes, planes, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(planes)
        self.downsample = _shortcut(inputs, planes, stride)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        return F.relu(y + (x if self.downsample is None else self.downsample(x)))


class Bottleneck(nn.Module):
    """1x1 reduction, 3x3, 1x1 expansion by 4, and a shortcut (ResNet-50/101)."""

    expansion = 4

    def __init__(self, inputs: int, planes: int, stride: int = 1, ibn: bool = False) -> None:
        super().__init__()
        outputs = planes * self.expansion
        self.conv1 = nn.Conv2d(inputs, planes, 1, bias=False)
        self.bn1 = IBN(planes) if ibn else nn.BatchNorm2d(planes)
        self.conv2 = nn.Conv2d(planes, planes, 3, stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(planes)
        self.conv3 = nn.Conv2d(planes, outputs, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(outputs)
        self.downsample = _shortcut(inputs, outputs, stride)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.bn1(self.conv1(x)))
        y = F.relu(self.bn2(self.conv2(y)))
        y = self.bn3(self.conv3(y))
        return F.relu(y + (x if self.downsample is None else self.downsample(x)))


DEPTHS: dict[str, tuple[type[BasicBlock] | type[Bottleneck], tuple[int, int, int, int]]] = {
    "resnet18": (BasicBlock, (2, 2, 2, 2)),
    "resnet34": (BasicBlock, (3, 4, 6, 3)),
    "resnet50": (Bottleneck, (3, 4, 6, 3)),
    "resnet101": (Bottleneck, (3, 4, 23, 3)),
}
"""Block type and blocks per stage of each network."""


Stem = Literal["standard", "no-relu", "ceil-pool"]
"""What stands before the first stage.  Published re-identification weights were trained with
others than He et al.: reid-strong-baseline leaves the ReLU out, fast-reid (from 1.0 on) pools
without padding.  The state is the same, so only the name tells."""


class ResNet(Backbone):
    """A ResNet without its pooling and classifier.

    C1..C4 are the outputs of layer1..layer4; strides 4, 8, 16 and 16 (32 with last stride 2).
    """

    def __init__(
        self,
        name: str,
        *,
        last_stride: int = 1,
        ibn: bool = False,
        width: float = 1.0,
        stem: Stem = "standard",
    ) -> None:
        super().__init__()
        if name not in DEPTHS:
            raise RecipeError(f"unknown ResNet '{name}', known: {', '.join(DEPTHS)}.")
        block, depths = DEPTHS[name]
        planes = [max(8, 8 * round(64 * 2**i * width / 8)) for i in range(4)]
        self.conv1 = nn.Conv2d(3, planes[0], 7, 2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(planes[0])
        self.relu: nn.Module = nn.Identity() if stem == "no-relu" else nn.ReLU()
        ceil = stem == "ceil-pool"
        self.maxpool = nn.MaxPool2d(3, 2, padding=0 if ceil else 1, ceil_mode=ceil)
        strides = (1, 2, 2, last_stride)
        inputs = planes[0]
        layers = []
        for i in range(4):
            early = ibn and i < 3  # IBN-a leaves layer4, which carries identity, untouched
            blocks = [block(inputs, planes[i], strides[i], early)]
            inputs = planes[i] * block.expansion
            blocks += [block(inputs, planes[i], 1, early) for _ in range(depths[i] - 1)]
            layers.append(nn.Sequential(*blocks))
        self.layer1, self.layer2, self.layer3, self.layer4 = layers
        self.channels = tuple(p * block.expansion for p in planes)
        self.strides = (4, 8, 16, 16 * last_stride)
        init_kaiming(self)

    def stem(self, images: Tensor) -> Tensor:
        x: Tensor = self.maxpool(self.relu(self.bn1(self.conv1(images))))
        return x

    def stage(self, number: int) -> nn.Module:
        return (self.layer1, self.layer2, self.layer3, self.layer4)[number - 1]


def _shortcut(inputs: int, outputs: int, stride: int) -> nn.Sequential | None:
    if stride == 1 and inputs == outputs:
        return None
    return nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))
