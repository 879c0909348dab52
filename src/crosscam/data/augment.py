"""Augmentation of whole batches on their device, pictures and priors by the same draw.

The draws of a batch are a function of (seed, epoch, step) and are made for the global batch; a
process takes its slice.  So they are the same on one process or many.  Applying them is integer
arithmetic on uint8 up to the normalization: one compiled pass over the pixels on a CPU, a dozen
tensor operations on a GPU, or with ``engine.compile`` one kernel made of them, with the same bits.

Order: resize-crop, flip, pad-crop, color jitter, normalization, with random erasing before or
after the last.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from types import ModuleType
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from crosscam.errors import InputError, RecipeError
from crosscam.image import IMAGENET_MEAN, Preprocess
from crosscam.types import Prior

__all__ = ["Augment", "Draws"]

_TRIES = 100  # boxes drawn until one fits

FlipPairs = Mapping[Prior, Sequence[tuple[int, int]]]
Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Draws:
    """What was drawn for a batch of B pictures."""

    zoomed: npt.NDArray[np.bool_]  # [B] resize-crop happens
    zoom_at: Ints  # [B, 2] top and left of that crop in the enlarged picture
    flip: npt.NDArray[np.bool_]  # [B]
    crop_at: Ints  # [B, 2] top and left of the crop in the padded picture
    jitter: Floats  # [B, 4] factors of brightness, contrast, saturation; hue shift in turns
    erase: Ints  # [B, 4] top, left, height, width; height 0 erases nothing

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
        gray: probability of losing all color.
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
    gray: float = 0.0
    erase: float = 0.5
    erase_area: tuple[float, float] = (0.02, 0.4)
    erase_aspect: tuple[float, float] = (0.3, 1 / 0.3)
    erase_fill: tuple[float, float, float] = IMAGENET_MEAN
    erase_order: Literal["before", "after"] = "after"
    erase_priors: bool = False

    def __post_init__(self) -> None:
        for key in ("flip", "resize_crop", "jitter", "gray", "erase"):
            if not 0.0 <= getattr(self, key) <= 1.0:
                raise RecipeError(
                    f"augment.{key} is a probability, in [0, 1]; got {getattr(self, key)}."
                )
        if self.pad < 0:
            raise RecipeError(f"augment.pad must be 0 or more pixels, got {self.pad}.")
        if not 1.0 <= self.zoom <= 4.0:
            raise RecipeError(f"augment.zoom must be in [1, 4], got {self.zoom}.")
        if not 0.0 <= self.hue <= 0.5:
            raise RecipeError(f"augment.hue must be in [0, 0.5], got {self.hue}.")
        for key in ("brightness", "contrast", "saturation"):
            if not 0.0 <= getattr(self, key) <= 1.0:
                raise RecipeError(f"augment.{key} must be in [0, 1], got {getattr(self, key)}.")
        for key, most in (("erase_area", 1.0), ("erase_aspect", 1000.0)):
            low, high = getattr(self, key)
            if not 0.0 < low <= high <= most:
                raise RecipeError(
                    f"augment.{key} must be 0 < low <= high <= {most:g}, got {low}, {high}."
                )
        if len(self.erase_fill) != 3 or not np.isfinite(self.erase_fill).all():
            raise RecipeError(f"augment.erase_fill must be three numbers, got {self.erase_fill}.")
        if self.erase_order not in ("before", "after"):
            raise RecipeError(
                f"augment.erase_order must be before or after, got {self.erase_order!r}."
            )
        if self.erase_order == "before" and not all(0 <= v <= 1 for v in self.erase_fill):
            raise RecipeError(
                "augment.erase_fill must be in [0, 1] when erasing before normalization, got "
                f"{self.erase_fill}."
            )

    def enlarged(self, size: tuple[int, int]) -> tuple[int, int]:
        """Height and width that resize-crop enlarges ``size`` to."""
        return round(size[0] * self.zoom), round(size[1] * self.zoom)

    @property
    def _recolors(self) -> bool:
        return self.jitter > 0 or self.gray > 0

    # --- drawing ------------------------------------------------------------------------------

    def draw(self, seed: int, epoch: int, step: int, batch: int, size: tuple[int, int]) -> Draws:
        """The draws of a global batch of ``batch`` pictures of ``size`` (height, width).

        Every picture has numbers of its own for every operation, so switching one operation on
        or off, or changing the batch size, leaves the draws of the others as they are.
        """
        if seed < 0:
            raise RecipeError(f"the seed must be 0 or more, got {seed}.")
        numbers = _numbers([seed, epoch, step], (batch, 14 + 2 * _TRIES))
        height, width = size
        tall, wide = self.enlarged(size)
        change = (2 * numbers[:, 8:12] - 1) * (numbers[:, 7:8] < self.jitter)
        spread = [self.brightness, self.contrast, self.saturation, self.hue]
        jitter = np.array([1.0, 1.0, 1.0, 0.0]) + change * spread
        if self.gray:  # from a stream of its own: it came when the order of the other was fixed
            jitter[_numbers([seed, epoch, step, 1], (batch,)) < self.gray, 2] = 0.0
        return Draws(
            zoomed=numbers[:, 0] < self.resize_crop,
            zoom_at=_whole(numbers[:, 1:3], [tall - height + 1, wide - width + 1]),
            flip=numbers[:, 3] < self.flip,
            crop_at=_whole(numbers[:, 4:6], [2 * self.pad + 1, 2 * self.pad + 1]),
            jitter=jitter,
            erase=self._boxes(numbers[:, 6], numbers[:, 12:14], numbers[:, 14:], height, width),
        )

    def _boxes(
        self, whether: Floats, where: Floats, tries: Floats, height: int, width: int
    ) -> Ints:
        """Zhong et al., AAAI 2020, algorithm 1: draw until the box fits, 100 times at most."""
        (area_low, area_high), (aspect_low, aspect_high) = self.erase_area, self.erase_aspect
        area = (area_low + (area_high - area_low) * tries[:, :_TRIES]) * (height * width)
        aspect = aspect_low + (aspect_high - aspect_low) * tries[:, _TRIES:]
        h, w = np.rint(np.sqrt(area * aspect)), np.rint(np.sqrt(area / aspect))
        fits = (h < height) & (w < width)
        first = fits.argmax(1)[:, None]  # 0 if none fits
        h, w = np.take_along_axis(h, first, 1), np.take_along_axis(w, first, 1)
        happens = (whether[:, None] < self.erase) & np.take_along_axis(fits, first, 1)
        at = where * np.concatenate([height - h + 1, width - w + 1], 1)
        boxes: Ints = (np.concatenate([at, h, w], 1) * happens).astype(np.int64)
        return boxes

    # --- pictures -----------------------------------------------------------------------------

    def apply(
        self,
        pictures: Tensor,
        draws: Draws,
        preprocess: Preprocess,
        rows: npt.NDArray[np.int64] | None = None,
        *,
        out: Tensor | None = None,
        compiled: bool = True,
        fuse: bool = False,
    ) -> Tensor:
        """Pictures as drawn: uint8 [B, H, W, 3] to normalized float32 [B, 3, H, W].

        The result is in channels-last memory order, on the device of ``pictures``.  Nothing
        waits for a GPU.

        Args:
            pictures: [B, H, W, 3], or with ``rows`` [N, H, W, 3] to take the batch from.
            draws: what was drawn for the B pictures.
            preprocess: normalization.
            rows: [B] rows of ``pictures``; None takes them as they come.
            out: memory for the result, float32 [B, H, W, 3] and contiguous, on a CPU.
            compiled: use the compiled loop where there is one (the bits are the same).
            fuse: where there is none, make one of the tensor operations, by torch.compile; the
                first batch waits for it.
        """
        if pictures.ndim != 4 or pictures.shape[3] != 3 or pictures.dtype != torch.uint8:
            raise InputError(
                f"pictures must be uint8 [B, H, W, 3], got {pictures.dtype} {list(pictures.shape)}."
            )
        if rows is None:
            rows = np.arange(len(pictures))
        if len(draws) != len(rows):
            raise InputError(f"{len(draws)} draws do not fit {len(rows)} pictures.")
        if len(rows) and not 0 <= rows.min() <= rows.max() < len(pictures):
            raise InputError(f"rows must be in 0..{len(pictures) - 1}, got up to {rows.max()}.")
        kernels = _kernels() if compiled and pictures.device.type == "cpu" else None
        if kernels is not None:
            if out is None:
                out = torch.empty(len(rows), *pictures.shape[1:])
            return self._apply_compiled(kernels, pictures, draws, preprocess, rows, out)
        result = self._apply_torch(pictures, draws, preprocess, rows, fuse)
        return result if out is None else out.copy_(result.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)

    def _apply_compiled(
        self,
        kernels: ModuleType,
        pictures: Tensor,
        draws: Draws,
        preprocess: Preprocess,
        rows: Ints,
        out: Tensor,
    ) -> Tensor:
        n, height, width, _ = pictures.shape
        tall, wide = self.enlarged((height, width))
        shift, scale = (np.tile(v, width) for v in preprocess.shift_and_scale())
        matrices, offsets = _color_maps(draws.jitter)
        kernels.render(
            pictures.contiguous().view(n, height, width * 3).numpy(),
            rows,
            self._moves(draws),
            draws.erase,
            _taps(height, tall),
            np.ascontiguousarray(_taps(width, wide).T),
            self._recolors,
            matrices,
            offsets,
            shift,
            scale,
            self._fill(preprocess),
            out.view(len(rows), height, width * 3).numpy(),
        )
        return out.permute(0, 3, 1, 2)

    def _apply_torch(
        self, pictures: Tensor, draws: Draws, preprocess: Preprocess, rows: Ints, fuse: bool
    ) -> Tensor:
        _, height, width, _ = pictures.shape
        device = pictures.device
        packed = _to(np.hstack([rows[:, None], self._moves(draws), draws.erase]), device)
        taps = None
        if draws.zoomed.any():
            tall, wide = self.enlarged((height, width))
            taps = (_to(_taps(height, tall), device), _to(_taps(width, wide), device))
        colors = None
        if self._recolors:
            matrices, offsets = _color_maps(draws.jitter)
            colors = (_to(matrices, device), _to(offsets, device))
        fill = _to(self._fill(preprocess), device) if self.erase else None
        if not fuse:
            normalize = preprocess.normalize_tensor
            return _made(pictures, packed, bool(self.pad), taps, colors, fill, normalize)
        shift, scale = (_to(v, device) for v in preprocess.shift_and_scale())
        found: Tensor = _fused()(
            pictures, packed, bool(self.pad), taps, colors, fill, None, shift, scale
        )
        return found

    def _moves(self, draws: Draws) -> Ints:
        """[B, 6]: zoomed, its top and left; flip; how far down and right the crop looks."""
        columns = [draws.zoomed[:, None], draws.zoom_at, draws.flip[:, None]]
        return np.hstack([*columns, draws.crop_at - self.pad]).astype(np.int64)

    def _fill(self, preprocess: Preprocess) -> npt.NDArray[np.float32]:
        """What an erased pixel is in the normalized picture, [3]."""
        fill = np.array(self.erase_fill, np.float64)
        if self.erase_order == "after":
            return fill.astype(np.float32)
        levels = np.rint(fill * 255).astype(np.uint8)
        return preprocess.normalize(levels[None, None, None])[0, :, 0, 0]

    # --- priors -------------------------------------------------------------------------------

    def apply_priors(
        self,
        priors: Mapping[Prior, Tensor],
        draws: Draws,
        size: tuple[int, int],
        flip_pairs: FlipPairs | None = None,
    ) -> dict[Prior, Tensor]:
        """Priors moved as the pictures were.

        Masks follow the picture at their own resolution: a cell takes what lies at its center,
        linearly between cells; nothing lies outside the picture.  Keypoints that leave the
        picture become invisible.  Places on the body go along with the nearest cell, since a mean
        of two places may lie on neither's limb, and a mirror negates their x, as the body is
        symmetric.

        Args:
            priors: masks [B, K, h, w] float in [0, 1] or uint8 in 0..255, of any resolution;
                keypoints [B, J, 3] in pixels of the picture, the center of the first pixel
                being (0, 0); surfaces [B, 3, h, w] float (x across the body first, NaN where no
                body is); textures (which a movement of the camera leaves as they are).
            draws: what was drawn for the pictures.
            size: height and width of the pictures.
            flip_pairs: channels (masks) or joints (keypoints) that a mirror exchanges.

        Returns:
            Masks [B, K, h, w] float32 in [0, 1], keypoints [B, J, 3] float32, surfaces as given
            in shape and type, NaN outside the picture; the rest as given.
        """
        pairs = flip_pairs or {}
        moved: dict[Prior, Tensor] = {}
        for prior, value in priors.items():
            if len(value) != len(draws):
                raise InputError(f"{len(draws)} draws do not fit {len(value)} {prior.value}.")
            if prior is Prior.MASKS:
                moved[prior] = self._masks(value, draws, size, pairs.get(prior, ()))
            elif prior is Prior.KEYPOINTS:
                moved[prior] = self._keypoints(value, draws, size, pairs.get(prior, ()))
            elif prior is Prior.SURFACE:
                moved[prior] = self._surface(value, draws, size)
            else:
                moved[prior] = value
        return moved

    def _masks(
        self, masks: Tensor, draws: Draws, size: tuple[int, int], pairs: Sequence[tuple[int, int]]
    ) -> Tensor:
        if masks.ndim != 4 or not (masks.is_floating_point() or masks.dtype == torch.uint8):
            raise InputError(
                f"masks must be float or uint8 [B, K, h, w], got {masks.dtype} {list(masks.shape)}."
            )
        device = masks.device
        batch, parts, *cells = masks.shape
        sources, keep = self._sources(draws, size, cells)
        taps: list[tuple[Ints, Ints, npt.NDArray[np.float32]]] = []
        for at, n in zip(sources, cells, strict=True):
            before = np.floor(at).astype(np.int64)
            after = np.minimum(before + 1, n - 1)
            taps.append((before, after, (at - before).astype(np.float32)))
        order = np.tile(_swapped(parts, pairs), (batch, 1))
        order = np.where(draws.flip[:, None], order, np.arange(parts))
        channel = _to(order, device)[:, :, None, None]
        picture = torch.arange(batch, device=device)[:, None, None, None]
        (up, low, weight_y), (near, far, weight_x) = taps
        rows = [_to(v, device)[:, None, :, None] for v in ((up, low) if weight_y.any() else (up,))]
        columns = [
            _to(v, device)[:, None, None] for v in ((near, far) if weight_x.any() else (near,))
        ]
        found = []
        for row in rows:
            line = [masks[picture, channel, row, column].float() for column in columns]
            found.append(_between(line, _to(weight_x, device)[:, None, None, :]))
        moved = _between(found, _to(weight_y, device)[:, None, :, None])
        weights = keep.astype(np.float32)
        if masks.dtype == torch.uint8:
            weights /= 255
        if self.erase_priors:
            weights *= 1 - _covered(draws, size, cells)
        return moved * _to(weights, device)[:, None]

    def _surface(self, places: Tensor, draws: Draws, size: tuple[int, int]) -> Tensor:
        if places.ndim != 4 or places.shape[1] != 3 or not places.is_floating_point():
            raise InputError(
                f"surfaces must be float [B, 3, h, w], got {places.dtype} {list(places.shape)}."
            )
        device, cells = places.device, places.shape[2:]
        sources, keep = self._sources(draws, size, cells)
        row, column = (_to(np.floor(at + 0.5).astype(np.int64), device) for at in sources)
        picture = torch.arange(len(places), device=device)[:, None, None, None]
        channel = torch.arange(3, device=device)[:, None, None]
        moved = places[picture, channel, row[:, None, :, None], column[:, None, None]]
        sign = np.ones((len(draws), 3), np.float32)
        sign[draws.flip, 0] = -1
        if self.erase_priors:
            keep = keep & (_covered(draws, size, cells) < 0.5)
        moved = moved * _to(sign, device)[:, :, None, None].to(places.dtype)
        return moved.masked_fill(~_to(keep, device)[:, None], torch.nan)

    def _sources(
        self, draws: Draws, size: tuple[int, int], cells: Sequence[int]
    ) -> tuple[list[Floats], npt.NDArray[np.bool_]]:
        """Where the cells of a moved map come from.

        Returns:
            Row [B, h] and column [B, w] of what lies at their centers, in cells of the map as it
            was, inside it; and [B, h, w] whether that is in the picture at all.
        """
        big = self.enlarged(size)
        sources, shown = [], []
        for axis in (0, 1):  # rows, columns; few numbers, so they are worked out on the host
            n, pixels = cells[axis], size[axis]
            at = (np.arange(n) + 0.5) * (pixels / n) - 0.5  # [n] centers of the cells, in pixels
            at = at + (draws.crop_at[:, axis, None] - self.pad)  # [B, n]
            shown.append((at >= -0.5) & (at < pixels - 0.5))
            if axis == 1:
                at = np.where(draws.flip[:, None], pixels - 1 - at, at)
            zoomed = (at + draws.zoom_at[:, axis, None] + 0.5) * (pixels / big[axis]) - 0.5
            at = np.where(draws.zoomed[:, None], zoomed, at)
            sources.append(np.clip((at + 0.5) * (n / pixels) - 0.5, 0, n - 1))
        return sources, shown[0][:, :, None] & shown[1][:, None, :]

    def _keypoints(
        self, points: Tensor, draws: Draws, size: tuple[int, int], pairs: Sequence[tuple[int, int]]
    ) -> Tensor:
        if points.ndim != 3 or points.shape[2] != 3:
            raise InputError(f"keypoints must be [B, J, 3], got {list(points.shape)}.")
        height, width = size
        big_h, big_w = self.enlarged(size)
        packed = _to(np.hstack([self._moves(draws), draws.erase]), points.device)
        zoomed, top, left, flip, down, right, t, e, h, w = packed[:, :, None].unbind(1)  # [B, 1]
        zoomed, flip = zoomed > 0, flip > 0
        points = points.float()
        order = _to(_swapped(points.shape[1], pairs), points.device)
        x, y, visible = torch.where(flip[..., None], points[:, order], points).unbind(2)  # [B, J]
        x = torch.where(zoomed, (x + 0.5) * (big_w / width) - 0.5 - left, x)
        y = torch.where(zoomed, (y + 0.5) * (big_h / height) - 0.5 - top, y)
        x = torch.where(flip, width - 1 - x, x)
        x, y = x - right, y - down
        seen = (x >= -0.5) & (x < width - 0.5) & (y >= -0.5) & (y < height - 0.5)
        if self.erase_priors:
            seen &= ~((y >= t - 0.5) & (y < t + h - 0.5) & (x >= e - 0.5) & (x < e + w - 0.5))
        return torch.stack([x, y, visible * seen], 2)


# --- pieces -----------------------------------------------------------------------------------


@functools.cache
def _kernels() -> ModuleType | None:
    try:
        from crosscam.data import compiled
    except ImportError:  # numba is not installed
        return None
    return compiled


def _whole(numbers: Floats, counts: Sequence[int]) -> Ints:
    """Numbers in [0, 1) to whole numbers in 0..count-1."""
    return (numbers * counts).astype(np.int64)


def _to(array: npt.NDArray[np.generic], device: torch.device) -> Tensor:
    tensor = torch.from_numpy(array)
    if device.type != "cuda":
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)


def _made(
    pictures: Tensor,
    packed: Tensor,
    padded: bool,
    taps: tuple[Tensor, Tensor] | None,
    colors: tuple[Tensor, Tensor] | None,
    fill: Tensor | None,
    normalize: Callable[[Tensor], Tensor] | None,
    shift: Tensor | None = None,
    scale: Tensor | None = None,
) -> Tensor:
    """The tensor operations of ``Augment.apply``, all on one device and none that reads a value.

    ``packed`` [B, 11]: rows, ``_moves`` and boxes to erase; ``taps`` where pictures are enlarged,
    ``colors`` where they are jittered, ``fill`` where boxes are erased; who has no ``normalize``
    gives shift and scale [3].
    """
    _, height, width, _ = pictures.shape
    device = pictures.device
    row, zoomed, top, left, flip, down, right, *box = packed.unbind(1)
    y = torch.arange(height, device=device) + down[:, None]  # [B, H]
    x = torch.arange(width, device=device) + right[:, None]  # [B, W]
    shown = _both((y >= 0) & (y < height), (x >= 0) & (x < width))  # [B, H, W]
    x = torch.where(flip[:, None] > 0, width - 1 - x, x)
    y, x = y.clamp(0, height - 1), x.clamp(0, width - 1)
    which = row[:, None, None]
    if taps is not None:
        up, low, weight_y = _tapped(y, zoomed, top, taps[0])
        near, far, weight_x = _tapped(x, zoomed, left, taps[1])
        weight_y, weight_x = weight_y[:, :, None, None], weight_x[:, None, :, None]

        def across(line: Tensor) -> Tensor:
            a = pictures[which, line[:, :, None], near[:, None]].int()
            b = pictures[which, line[:, :, None], far[:, None]].int()
            return a * (1024 - weight_x) + b * weight_x

        value = across(up) * (1024 - weight_y) + across(low) * weight_y
        batch = ((value + 524288) >> 20).to(torch.uint8)
    else:
        batch = pictures[which, y[:, :, None], x[:, None, :]]  # [B, H, W, 3]
    if colors is not None:
        batch = _recolor(batch, pictures, row, *colors)
    if padded:
        batch = batch * shown[..., None]
    if normalize is None:
        assert shift is not None
        assert scale is not None
        out = ((batch.to(torch.float32) - shift) * scale).permute(0, 3, 1, 2)
    else:
        out = normalize(batch)
    if fill is not None:
        y, x = torch.arange(height, device=device), torch.arange(width, device=device)
        t, e, h, w = (v[:, None] for v in box)
        inside = _both((y >= t) & (y < t + h), (x >= e) & (x < e + w))
        moved = out.permute(0, 2, 3, 1)
        out = torch.where(inside[..., None], fill, moved).permute(0, 3, 1, 2)
    return out


@functools.cache
def _fused() -> Callable[..., Tensor]:
    made: Callable[..., Tensor] = torch.compile(_made, dynamic=False)
    return made


def _both(rows: Tensor, columns: Tensor) -> Tensor:
    return rows[:, :, None] & columns[:, None, :]


def _between(pair: list[Tensor], weight: Tensor) -> Tensor:
    return pair[0] if len(pair) == 1 else pair[0] * (1 - weight) + pair[1] * weight


@functools.lru_cache(maxsize=8)
def _taps(small: int, big: int) -> npt.NDArray[np.int32]:
    """Linear interpolation from ``small`` to ``big`` cells, edges repeated.

    [big, 3]: the two cells between which each new one lies, and the weight of the second in
    units of 1/1024.
    """
    at = np.clip((np.arange(big) + 0.5) * (small / big) - 0.5, 0, small - 1)
    before = np.floor(at).astype(np.int64)
    after = np.minimum(before + 1, small - 1)
    taps: npt.NDArray[np.int32] = np.stack(
        [before, after, np.rint((at - before) * 1024).astype(np.int64)], 1
    ).astype(np.int32)
    return taps


def _tapped(
    at: Tensor, zoomed: Tensor, first: Tensor, taps: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """For positions [B, n]: the two cells of the picture, and the weight of the second."""
    found = taps[at + first[:, None]]  # [B, n, 3]
    plain = torch.stack([at, at, torch.zeros_like(at)], 2).int()
    before, after, weight = torch.where(zoomed[:, None, None] > 0, found, plain).unbind(2)
    return before, after, weight


_LUMA = np.array([0.299, 0.587, 0.114])  # Rec. 601
# Rows: luma, and the two axes of YIQ, along which hue is an angle and saturation a length.
_YIQ = np.array([_LUMA, [0.5959, -0.2746, -0.3213], [0.2115, -0.5227, 0.3112]])
_RGB = np.linalg.inv(_YIQ)


def _numbers(stream: Sequence[int], shape: tuple[int, ...]) -> Floats:
    """Numbers in [0, 1) that are a function of the stream's name.

    Of a counter-based generator whose key is the name, so that no state travels.  Its raw words are
    used, which stay the same from one release of NumPy to the next.
    """
    key = np.random.SeedSequence(stream).generate_state(2, np.uint64)
    words = np.random.Philox(key=key).random_raw(shape)
    numbers: Floats = (words >> np.uint64(11)).astype(np.float64) * 2.0**-53
    return numbers


def _color_maps(factors: Floats) -> tuple[npt.NDArray[np.int32], Floats]:
    """Color jitter as one affine map per picture: brightness(hue(saturation(contrast(x)))).

    The four are linear (contrast about the picture's mean gray, hue as a turn of the plane of
    equal luma), so the order of the first matters little, and nothing is clipped in between.

    Returns:
        Matrices [B, 9] in units of 1/4096, and [B] what is added for a mean gray of 1, so too.
    """
    brightness, contrast, saturation, hue = factors.T
    angle = 2 * np.pi * hue
    turn = np.zeros((len(factors), 3, 3))
    turn[:, 0, 0] = 1
    turn[:, 1, 1] = turn[:, 2, 2] = saturation * np.cos(angle)
    turn[:, 2, 1] = saturation * np.sin(angle)
    turn[:, 1, 2] = -turn[:, 2, 1]
    matrices = (brightness * contrast)[:, None, None] * (_RGB @ turn @ _YIQ)
    offsets = brightness * (1 - contrast) * 4096
    return np.rint(matrices * 4096).astype(np.int32).reshape(-1, 9), offsets


def _recolor(
    batch: Tensor, pictures: Tensor, rows: Tensor, matrices: Tensor, offsets: Tensor
) -> Tensor:
    """Color jitter of uint8 [B, H, W, 3]; the mean gray is that of the stored pictures."""
    height, width = pictures.shape[1:3]
    sums = pictures[rows].flatten(1, 2).sum(1, dtype=torch.int64)  # [B, 3]
    light = 19595 * sums[:, 0] + 38470 * sums[:, 1] + 7471 * sums[:, 2]
    gray = light.double() / (65536.0 * height * width)
    offset = (offsets * gray).round().int() + 2048
    matrix = matrices[:, :, None, None]  # [B, 9, 1, 1]
    r, g, b = batch.int().unbind(3)
    channels = [
        matrix[:, k] * r + matrix[:, k + 1] * g + matrix[:, k + 2] * b + offset[:, None, None]
        for k in (0, 3, 6)
    ]
    return (torch.stack(channels, 3) >> 12).clamp(0, 255).to(torch.uint8)


def _covered(draws: Draws, size: tuple[int, int], cells: Sequence[int]) -> npt.NDArray[np.float32]:
    """[B, h, w]: the share of every cell that lies in the erased box."""
    shares = []
    for axis in (0, 1):
        side = size[axis] / cells[axis]  # pixels
        low = np.arange(cells[axis]) * side
        start = draws.erase[:, axis, None]
        stop = start + draws.erase[:, axis + 2, None]
        shares.append(
            np.clip(np.minimum(stop, low + side) - np.maximum(start, low), 0, side) / side
        )
    covered: npt.NDArray[np.float32] = (shares[0][:, :, None] * shares[1][:, None, :]).astype(
        np.float32
    )
    return covered


def _swapped(count: int, pairs: Sequence[tuple[int, int]]) -> Ints:
    order = np.arange(count)
    for a, b in pairs:
        if not (0 <= a < count and 0 <= b < count):
            raise InputError(f"a mirror cannot exchange {a} and {b} of {count}.")
        order[a], order[b] = b, a
    return order
