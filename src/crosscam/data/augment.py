"""Augmentation of whole batches on their device, pictures and priors by the same draw.

The draws of a batch are a function of (seed, epoch, step) and are made for the global batch; a
process takes its slice.  So they are the same on one process or many.  Applying them is tensor
arithmetic on the batch; nothing loops over pictures.

Order: resize-crop, flip, pad-crop, color jitter, normalization, with random erasing before or
after the last.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as F

from crosscam.errors import InputError, RecipeError
from crosscam.image import IMAGENET_MEAN, Preprocess
from crosscam.types import Prior

__all__ = ["Augment", "Draws"]

_TRIES = 100

FlipPairs = Mapping[Prior, Sequence[tuple[int, int]]]


@dataclass(frozen=True)
class Draws:
    """What was drawn for a batch of B pictures."""

    zoomed: npt.NDArray[np.bool_]  # [B] resize-crop happens
    zoom_at: npt.NDArray[np.int64]  # [B, 2] top and left of that crop in the enlarged picture
    flip: npt.NDArray[np.bool_]  # [B]
    crop_at: npt.NDArray[np.int64]  # [B, 2] top and left of the crop in the padded picture
    jitter: npt.NDArray[np.float32]  # [B, 4] brightness, contrast, saturation factors; hue shift
    erase: npt.NDArray[np.int64]  # [B, 4] top, left, height, width; height 0 erases nothing

    def __len__(self) -> int:
        return len(self.flip)

    def part(self, start: int, stop: int) -> Draws:
        """The draws of pictures start..stop-1."""
        return Draws(**{f.name: getattr(self, f.name)[start:stop] for f in fields(self)})


@dataclass(frozen=True)
class Augment:
    """What may happen to a training picture.

    Args:
        flip: probability of mirroring left and right.
        pad: pixels of black on every side, before a random crop of the original size; 0 is none.
        resize_crop: probability of enlarging by ``zoom`` and cropping (Random2DTranslation).
        zoom: that factor.
        jitter: probability of color jitter.
        brightness: largest change of brightness; the factor is drawn from [1 - b, 1 + b].
        contrast: largest change of contrast around the picture's mean gray.
        saturation: largest change of saturation.
        hue: largest shift of hue, as a share of the color circle, at most 0.5.
        erase: probability of random erasing.
        erase_area: smallest and largest erased share of the picture.
        erase_aspect: smallest and largest height : width of the erased box.
        erase_fill: what an erased pixel becomes, R G B: of the normalized picture if
            erase_order is after, else in [0, 1].
        erase_order: erase before or after normalization.
        erase_priors: also clear masks and hide keypoints inside the erased box.
    """

    flip: float = 0.5
    pad: int = 10
    resize_crop: float = 0.0
    zoom: float = 1.125
    jitter: float = 0.0
    brightness: float = 0.2
    contrast: float = 0.15
    saturation: float = 0.0
    hue: float = 0.0
    erase: float = 0.5
    erase_area: tuple[float, float] = (0.02, 0.4)
    erase_aspect: tuple[float, float] = (0.3, 1 / 0.3)
    erase_fill: tuple[float, float, float] = IMAGENET_MEAN
    erase_order: Literal["before", "after"] = "after"
    erase_priors: bool = False

    def __post_init__(self) -> None:
        for key in ("flip", "resize_crop", "jitter", "erase"):
            if not 0.0 <= getattr(self, key) <= 1.0:
                raise RecipeError(
                    f"augment.{key} is a probability, in [0, 1]; got {getattr(self, key)}."
                )
        if self.pad < 0:
            raise RecipeError(f"augment.pad must be 0 or more pixels, got {self.pad}.")
        if self.zoom < 1.0:
            raise RecipeError(f"augment.zoom must be 1 or more, got {self.zoom}.")
        if not 0.0 <= self.hue <= 0.5:
            raise RecipeError(f"augment.hue must be in [0, 0.5], got {self.hue}.")
        for key in ("brightness", "contrast", "saturation"):
            if not 0.0 <= getattr(self, key) <= 1.0:
                raise RecipeError(f"augment.{key} must be in [0, 1], got {getattr(self, key)}.")
        low, high = self.erase_area
        if not 0.0 < low <= high < 1.0:
            raise RecipeError(f"augment.erase_area must be 0 < low <= high < 1, got {low}, {high}.")
        low, high = self.erase_aspect
        if not 0.0 < low <= high:
            raise RecipeError(f"augment.erase_aspect must be 0 < low <= high, got {low}, {high}.")

    def enlarged(self, size: tuple[int, int]) -> tuple[int, int]:
        """Height and width that resize-crop enlarges ``size`` to."""
        return round(size[0] * self.zoom), round(size[1] * self.zoom)

    def draw(self, seed: int, epoch: int, step: int, batch: int, size: tuple[int, int]) -> Draws:
        """The draws of a global batch of ``batch`` pictures of ``size`` (height, width)."""
        # A counter-based generator: its stream is named by the key, so no state travels.
        random = np.random.Generator(np.random.Philox(np.random.SeedSequence([seed, epoch, step])))
        height, width = size
        big = self.enlarged(size)
        factors = np.ones((batch, 4), np.float32)
        factors[:, 3] = 0.0
        spread = np.array([self.brightness, self.contrast, self.saturation, self.hue])
        on = random.random(batch) < self.jitter
        change = random.uniform(-1, 1, (batch, 4)) * spread
        factors[on] += change[on].astype(np.float32)
        zoomed = random.random(batch) < self.resize_crop
        return Draws(
            zoomed=zoomed,
            zoom_at=random.integers(0, [big[0] - height + 1, big[1] - width + 1], (batch, 2)),
            flip=random.random(batch) < self.flip,
            crop_at=random.integers(0, 2 * self.pad + 1, (batch, 2)),
            jitter=factors,
            erase=self._draw_boxes(random, batch, height, width),
        )

    def _draw_boxes(
        self, random: np.random.Generator, batch: int, height: int, width: int
    ) -> npt.NDArray[np.int64]:
        """Zhong et al., AAAI 2020, algorithm 1: draw until the box fits, 100 times at most."""
        on = random.random(batch) < self.erase
        area = random.uniform(*self.erase_area, (batch, _TRIES)) * height * width
        aspect = random.uniform(*self.erase_aspect, (batch, _TRIES))
        h = np.rint(np.sqrt(area * aspect)).astype(np.int64)
        w = np.rint(np.sqrt(area / aspect)).astype(np.int64)
        fits = (h < height) & (w < width) & (h > 0) & (w > 0)
        first = fits.argmax(1)  # 0 if none fits
        rows = np.arange(batch)
        h, w, on = h[rows, first], w[rows, first], on & fits[rows, first]
        place = random.random((batch, 2))
        top = np.minimum((place[:, 0] * (height - h + 1)).astype(np.int64), height - h)
        left = np.minimum((place[:, 1] * (width - w + 1)).astype(np.int64), width - w)
        boxes: npt.NDArray[np.int64] = np.stack([top, left, h, w], 1) * on[:, None]
        return boxes

    def apply(self, pictures: Tensor, draws: Draws, preprocess: Preprocess) -> Tensor:
        """Pictures as drawn: uint8 [B, H, W, 3] to normalized float32 [B, 3, H, W].

        The result is in channels-last memory order, on the device of ``pictures``.
        """
        _require_match(pictures, draws)
        x = self._move(pictures.permute(0, 3, 1, 2), draws).permute(0, 2, 3, 1)
        if self.jitter:
            x = _jitter(x, torch.from_numpy(draws.jitter).to(x.device))
        if self.erase and self.erase_order == "before":
            fill = torch.tensor(self.erase_fill, device=x.device).mul(255).round().to(torch.uint8)
            x = torch.where(_inside(draws, x.shape[1], x.shape[2], x.device)[..., None], fill, x)
        out = preprocess.normalize_tensor(x)
        if self.erase and self.erase_order == "after":
            inside = _inside(draws, x.shape[1], x.shape[2], x.device)[..., None]
            nhwc = out.permute(0, 2, 3, 1)
            if len(set(self.erase_fill)) == 1:
                nhwc.masked_fill_(inside, self.erase_fill[0])
            else:
                out = torch.where(inside, nhwc.new_tensor(self.erase_fill), nhwc)
                out = out.permute(0, 3, 1, 2)
        return out

    def apply_priors(
        self,
        priors: Mapping[Prior, Tensor],
        draws: Draws,
        size: tuple[int, int],
        flip_pairs: FlipPairs | None = None,
    ) -> dict[Prior, Tensor]:
        """Priors moved as the pictures were.

        Args:
            priors: masks [B, K, H, W] at the pictures' size, keypoints [B, J, 3] in pixels,
                textures (which a movement of the camera leaves as they are).
            draws: what was drawn for the pictures.
            size: height and width of the pictures.
            flip_pairs: channels (masks) or joints (keypoints) that a mirror exchanges.
        """
        pairs = flip_pairs or {}
        moved: dict[Prior, Tensor] = {}
        for prior, value in priors.items():
            if prior is Prior.MASKS:
                moved[prior] = self._masks(value, draws, size, pairs.get(prior, ()))
            elif prior is Prior.KEYPOINTS:
                moved[prior] = self._keypoints(value, draws, size, pairs.get(prior, ()))
            else:
                moved[prior] = value
        return moved

    def _masks(
        self, masks: Tensor, draws: Draws, size: tuple[int, int], pairs: Sequence[tuple[int, int]]
    ) -> Tensor:
        if masks.shape[2:] != size:
            raise InputError(
                f"masks must have the pictures' size {size}, got {tuple(masks.shape[2:])}. "
                "Resize them before augmentation; methods shrink them afterwards."
            )
        order = _swapped(masks.shape[1], pairs)
        flip = torch.from_numpy(draws.flip).to(masks.device)
        masks = torch.where(flip[:, None, None, None], masks[:, order], masks)
        masks = self._move(masks, draws)
        if self.erase_priors:
            inside = _inside(draws, size[0], size[1], masks.device)
            masks = masks.masked_fill(inside[:, None], 0)
        return masks

    def _keypoints(
        self, points: Tensor, draws: Draws, size: tuple[int, int], pairs: Sequence[tuple[int, int]]
    ) -> Tensor:
        height, width = size
        device = points.device
        x, y, visible = points.float().unbind(2)  # each [B, J]
        big_h, big_w = self.enlarged(size)
        zoomed = torch.from_numpy(draws.zoomed).to(device)[:, None]
        top, left = torch.from_numpy(draws.zoom_at).to(device)[:, :, None].unbind(1)
        x = torch.where(zoomed, (x + 0.5) * (big_w / width) - 0.5 - left, x)
        y = torch.where(zoomed, (y + 0.5) * (big_h / height) - 0.5 - top, y)
        flip = torch.from_numpy(draws.flip).to(device)[:, None]
        order = _swapped(points.shape[1], pairs)
        x = torch.where(flip, width - 1 - x[:, order], x)
        y = torch.where(flip, y[:, order], y)
        visible = torch.where(flip, visible[:, order], visible)
        crop_top, crop_left = torch.from_numpy(draws.crop_at).to(device)[:, :, None].unbind(1)
        x, y = x + self.pad - crop_left, y + self.pad - crop_top
        seen = (x >= -0.5) & (x < width - 0.5) & (y >= -0.5) & (y < height - 0.5)
        if self.erase_priors:
            box = torch.from_numpy(draws.erase).to(device)[:, :, None]
            t, e, h, w = box.unbind(1)
            seen &= ~((y >= t - 0.5) & (y < t + h - 0.5) & (x >= e - 0.5) & (x < e + w - 0.5))
        return torch.stack([x, y, visible * seen], 2)

    def _move(self, maps: Tensor, draws: Draws) -> Tensor:
        """Resize-crop, flip and pad-crop of [B, C, H, W] of any type; pads with zeros."""
        if self.resize_crop and draws.zoomed.any():
            maps = self._zoom(maps, draws)
        batch, channels, height, width = maps.shape
        if not self.pad and not draws.flip.any():
            return maps
        padded = F.pad(maps.permute(0, 2, 3, 1), (0, 0, self.pad, self.pad, self.pad, self.pad))
        high, wide = height + 2 * self.pad, width + 2 * self.pad
        # One index per output pixel, from small per-picture tables of rows and columns.
        rows = np.arange(height) + draws.crop_at[:, :1]  # [B, H]
        columns = np.arange(width) + draws.crop_at[:, 1:]  # [B, W]
        columns = np.where(draws.flip[:, None], wide - 1 - columns, columns)
        device = maps.device
        row_start = torch.from_numpy((rows + np.arange(batch)[:, None] * high) * wide).to(device)
        index = row_start[:, :, None] + torch.from_numpy(columns).to(device)[:, None, :]
        flat = padded.reshape(batch * high * wide, channels)
        picked = flat.index_select(0, index.reshape(-1))
        return picked.view(batch, height, width, channels).permute(0, 3, 1, 2)

    def _zoom(self, maps: Tensor, draws: Draws) -> Tensor:
        chosen = torch.from_numpy(np.flatnonzero(draws.zoomed)).to(maps.device)
        some = maps.index_select(0, chosen)
        height, width = maps.shape[2:]
        big = F.interpolate(
            some.float(), self.enlarged((height, width)), mode="bilinear", align_corners=False
        )
        at = draws.zoom_at[draws.zoomed]
        rows = torch.from_numpy(np.arange(height) + at[:, :1]).to(maps.device)
        columns = torch.from_numpy(np.arange(width) + at[:, 1:]).to(maps.device)
        which = torch.arange(len(at), device=maps.device)[:, None, None]
        crop = big.permute(0, 2, 3, 1)[which, rows[:, :, None], columns[:, None, :]]
        crop = crop.permute(0, 3, 1, 2)
        if not maps.is_floating_point():
            crop = crop.round().clamp(0, 255)
        return maps.index_copy(0, chosen, crop.to(maps.dtype))


def _jitter(pictures: Tensor, factors: Tensor) -> Tensor:
    """Brightness, contrast, saturation, then hue, of uint8 [B, H, W, 3]; clipped and rounded."""
    brightness, contrast, saturation, hue = factors[:, :, None, None, None].unbind(1)
    x = (pictures.float() * brightness).clamp(0, 255)
    weights = x.new_tensor([0.299, 0.587, 0.114])
    mean = (x @ weights).mean((1, 2))[:, None, None, None]
    x = ((x - mean) * contrast + mean).clamp(0, 255)
    gray = (x @ weights)[..., None]
    x = ((x - gray) * saturation + gray).clamp(0, 255)
    # A turn of the color circle: a rotation about the gray axis of RGB space.
    angle = hue * (2 * np.pi)
    cos, sin = torch.cos(angle), torch.sin(angle)
    third, root = (1 - cos) / 3, sin / np.sqrt(3.0)
    r, g, b = x.unsqueeze(-2).unbind(-1)
    turned = torch.cat(
        [
            r * (cos + third) + g * (third - root) + b * (third + root),
            r * (third + root) + g * (cos + third) + b * (third - root),
            r * (third - root) + g * (third + root) + b * (cos + third),
        ],
        -1,
    )
    return torch.where(hue == 0, x, turned).round().clamp(0, 255).to(torch.uint8)


def _inside(draws: Draws, height: int, width: int, device: torch.device) -> Tensor:
    """[B, H, W] bool: the pixel is erased."""
    top, left, h, w = (v[:, None] for v in draws.erase.T)
    y, x = np.arange(height), np.arange(width)
    rows = torch.from_numpy((y >= top) & (y < top + h)).to(device)
    columns = torch.from_numpy((x >= left) & (x < left + w)).to(device)
    return rows[:, :, None] & columns[:, None, :]


def _swapped(count: int, pairs: Sequence[tuple[int, int]]) -> list[int]:
    order = list(range(count))
    for a, b in pairs:
        order[a], order[b] = b, a
    return order


def _require_match(pictures: Tensor, draws: Draws) -> None:
    if pictures.ndim != 4 or pictures.shape[3] != 3 or pictures.dtype != torch.uint8:
        raise InputError(
            f"pictures must be uint8 [B, H, W, 3], got {pictures.dtype} {list(pictures.shape)}."
        )
    if len(draws) != len(pictures):
        raise InputError(f"{len(draws)} draws do not fit {len(pictures)} pictures.")
