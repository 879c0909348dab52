"""The reference of the data and training benchmarks: one picture at a time, with Pillow.

What most re-identification code does to every picture of every epoch.
"""

from __future__ import annotations

import math
import random
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from crosscam.data.augment import Augment
from crosscam.image import Preprocess


class PerImage:
    """Open, resize, mirror, pad and crop, to a float tensor [3, H, W], normalize, erase."""

    def __init__(self, augment: Augment, preprocess: Preprocess) -> None:
        self.augment, self.size = augment, preprocess.size
        self.mean = torch.tensor(preprocess.mean)[:, None, None]
        self.std = torch.tensor(preprocess.std)[:, None, None]
        self.fill = torch.tensor(augment.erase_fill)[:, None, None]

    def picture(self, path: Path) -> torch.Tensor:
        height, width = self.size
        pad = self.augment.pad
        with Image.open(path) as file:
            image = file.convert("RGB").resize((width, height), Image.Resampling.BILINEAR)
        if random.random() < self.augment.flip:
            image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        padded = Image.new("RGB", (width + 2 * pad, height + 2 * pad))
        padded.paste(image, (pad, pad))
        left, top = random.randint(0, 2 * pad), random.randint(0, 2 * pad)
        image = padded.crop((left, top, left + width, top + height))
        x = torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous().float().div_(255)
        x.sub_(self.mean).div_(self.std)
        if random.random() < self.augment.erase:
            self.erase(x)
        return x

    def erase(self, x: torch.Tensor) -> None:
        height, width = self.size
        for _ in range(100):
            area = random.uniform(*self.augment.erase_area) * height * width
            aspect = random.uniform(*self.augment.erase_aspect)
            h, w = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
            if h < height and w < width:
                top, left = random.randint(0, height - h), random.randint(0, width - w)
                x[:, top : top + h, left : left + w] = self.fill
                return
