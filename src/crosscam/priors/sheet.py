"""A contact sheet of priors over their pictures."""

from __future__ import annotations

import colorsys
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image, ImageDraw

from crosscam.files import replacing
from crosscam.image import Picture, decode, resize
from crosscam.methods import parts
from crosscam.priors import surface
from crosscam.priors.labels import CHANNELS
from crosscam.priors.store import PriorSet
from crosscam.types import Prior, Sample

__all__ = ["draw", "place_colors", "tinted"]

_CELL = (256, 128)
_HUES = {"head": 0.13, "upper clothes": 0.0, "arms": 0.33, "lower clothes": 0.6, "legs": 0.5,
         "shoes": 0.8}  # fmt: skip
_BONES = (
    ("shoulder", "elbow"), ("elbow", "wrist"), ("hip", "knee"), ("knee", "ankle"),
    ("shoulder", "hip"),
)  # fmt: skip


def draw(
    out: Path,
    samples: Sequence[Sample],
    sets: Mapping[Prior, tuple[PriorSet, npt.NDArray[np.int64]]],
    columns: int = 6,
) -> Path:
    """Write a sheet: every picture, and beside it what its priors say.

    Masks tint the picture by part (left is darker than right), joints are dots (hollow: little
    visible), bones lines; places on the body are colors (left is redder, back greener, up bluer);
    textures stand beside, gray where they are not known.  A picture without a prior shows it
    crossed out.

    Args:
        out: a .png, .jpg or .webp file.
        samples: the pictures.
        sets: by kind the set, and the row of each picture (-1 for none).
        columns: pictures in a row.

    Raises:
        DataError: a label map with values that have no name.
    """
    for found, _ in sets.values():
        if found.kind is Prior.MASKS:
            found.labels()
    cells = []
    for i, sample in enumerate(samples):
        picture = resize(decode(sample.path), _CELL)
        views = [picture]
        for kind, (found, rows) in sorted(sets.items(), key=lambda item: item[0].value):
            view = picture if kind is not Prior.TEXTURE else np.full((*_CELL, 3), 255, np.uint8)
            views.append(_crossed(view) if rows[i] < 0 else _view(found, int(rows[i]), view))
        cells.append(np.pad(np.hstack(views), ((3, 3), (3, 3), (0, 0)), constant_values=255))
    blank = np.full_like(cells[0], 255)
    lines = [cells[i : i + columns] for i in range(0, len(cells), columns)]
    wide = [np.hstack(line + [blank] * (min(columns, len(cells)) - len(line))) for line in lines]
    sheet = Image.fromarray(np.vstack(wide))
    out.parent.mkdir(parents=True, exist_ok=True)
    with replacing(out) as temporary:
        sheet.save(temporary, Image.registered_extensions()[out.suffix.lower()], quality=85)
    return out


def _view(found: PriorSet, row: int, picture: Picture) -> Picture:
    if found.kind is Prior.MASKS:
        return tinted(picture, found.values[row], found.names)
    if found.kind is Prior.KEYPOINTS:
        return _jointed(picture, np.asarray(found.values[row], np.float64), found.names)
    if found.kind is Prior.SURFACE:
        tall = Image.fromarray(np.asarray(found.values[row]))
        places = np.asarray(tall.resize(_CELL[::-1], Image.Resampling.NEAREST))
        return place_colors(surface.points(places))
    texture = np.asarray(found.values[row])
    if texture.shape[2] == 4:
        texture = np.where(texture[..., 3:] > 0, texture[..., :3], np.uint8(128))
    view = picture.copy()
    view[64:192] = resize(np.ascontiguousarray(texture), (128, 128))
    return view


def place_colors(points: npt.NDArray[np.float32]) -> Picture:
    """Points [h, w, 3] of the body at rest as colors [h, w, 3]; black where there is none."""
    colors = parts.place_colors(torch.from_numpy(points).permute(2, 0, 1)).permute(1, 2, 0)
    found: Picture = np.rint(255 * colors.numpy()).astype(np.uint8)
    return found


def tinted(picture: Picture, labels: npt.NDArray[np.uint8], names: Sequence[str]) -> Picture:
    """A picture [256, 128, 3] in the colors of its label map [h, w]."""
    tall = Image.fromarray(np.asarray(labels)).resize(_CELL[::-1], Image.Resampling.NEAREST)
    color = np.array([_color(name) for name in names], np.float32)[np.asarray(tall)]
    shown = np.asarray(tall)[..., None] > 0
    mixed = np.where(shown, 0.45 * picture + 0.55 * color, 0.6 * picture)
    result: Picture = mixed.astype(np.uint8)
    return result


def _color(name: str) -> tuple[float, ...]:
    hue = next((_HUES[c] for c in _HUES if name in CHANNELS[c]), 0.08)
    strength = 0.5 if name in ("hair", "hat", "torso", "bag") else 1.0
    light = 0.6 if name.startswith("left") else 1.0
    return tuple(255 * v for v in colorsys.hsv_to_rgb(hue, strength, light))


def _jointed(picture: Picture, points: npt.NDArray[np.float64], names: Sequence[str]) -> Picture:
    image = Image.fromarray(picture // 2 + 60)
    pen = ImageDraw.Draw(image)
    at = {
        name: (x * _CELL[1] - 0.5, y * _CELL[0] - 0.5)
        for name, (x, y, seen) in zip(names, points, strict=True)
        if seen > 0
    }
    for side in ("left", "right"):
        for a, b in _BONES:
            ends = [at.get(f"{side} {joint}") for joint in (a, b)]
            if None not in ends:
                color = (255, 150, 0) if side == "left" else (0, 200, 255)
                pen.line([e for e in ends if e], fill=color, width=2)
    for name, (_, _, seen) in zip(names, points, strict=True):
        if name in at:
            x, y = at[name]
            fill = (0, 255, 0) if seen >= 0.5 else None
            pen.ellipse((x - 2, y - 2, x + 2, y + 2), outline=(0, 255, 0), fill=fill)
    return np.array(image)


def _crossed(picture: Picture) -> Picture:
    image = Image.fromarray(picture // 2 + 100)
    pen = ImageDraw.Draw(image)
    height, width = _CELL
    pen.line((0, 0, width, height), fill=(200, 0, 0), width=2)
    pen.line((width, 0, 0, height), fill=(200, 0, 0), width=2)
    return np.array(image)
