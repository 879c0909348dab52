"""The interface of a backbone: four stage maps, whole or step by step."""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import Tensor, nn

from crosscam.nn import pretrained as weights

__all__ = ["Backbone"]


class Backbone(nn.Module, ABC):
    """Pictures to four maps C1..C4, shallow to deep.

    ``channels`` and ``strides`` give, per stage, the channels and the input pixels per cell: a map
    is H / stride x W / stride cells for sizes that are multiples of 32; others are rounded, up by
    ResNets, down by OSNets.  ``report`` says which weights were loaded, None from scratch.
    """

    channels: tuple[int, ...]
    strides: tuple[int, ...]
    report: weights.Report | None = None

    @abstractmethod
    def stem(self, images: Tensor) -> Tensor:
        """Everything before the first stage, on images [B, 3, H, W]."""

    @abstractmethod
    def stage(self, number: int) -> nn.Module:
        """The module that turns the map of stage ``number`` - 1 (0: the stem's) into its own."""

    @property
    def stage1(self) -> nn.Module:
        return self.stage(1)

    @property
    def stage2(self) -> nn.Module:
        return self.stage(2)

    @property
    def stage3(self) -> nn.Module:
        return self.stage(3)

    @property
    def stage4(self) -> nn.Module:
        return self.stage(4)

    def stages(self, images: Tensor) -> list[Tensor]:
        """The maps [C1, C2, C3, C4] of images [B, 3, H, W]."""
        c1 = self.stage1(self.stem(images))
        c2 = self.stage2(c1)
        c3 = self.stage3(c2)
        return [c1, c2, c3, self.stage4(c3)]

    def forward(self, images: Tensor) -> Tensor:
        """The last map C4 of images [B, 3, H, W]."""
        return self.stages(images)[-1]
