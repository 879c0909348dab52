"""A contact sheet: what a rendered set looks like, with its ground truth."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from crosscam.errors import InputError
from crosscam.files import replacing
from crosscam.synth.camera import draw_camera
from crosscam.synth.closet import open_closet
from crosscam.synth.identity import draw_identity
from crosscam.synth.person import make_person
from crosscam.synth.render import HEIGHT, PALETTE, Look, Shot, render_shot

__all__ = ["contact_sheet"]

Array = npt.NDArray[Any]

_EDGES = ((5, 7), (7, 9), (6, 8), (8, 10), (5, 6), (5, 11), (6, 12), (11, 12), (11, 13), (13, 15),
          (12, 14), (14, 16), (0, 1), (0, 2), (1, 3), (2, 4))  # fmt: skip


def contact_sheet(
    out: Path | str,
    rows: int = 8,
    cameras: int = 8,
    seed: int = 0,
    look: Look | None = None,
    assets: Path | str | None = None,
) -> Path:
    """Write a picture of ``rows`` people: texture, crop, parts, IUV, joints, other cameras.

    The format follows the suffix of ``out`` (JPEG or PNG); ``assets`` is a folder of MakeHuman
    garments.  Returns the path.

    Raises:
        InputError: no row or camera, or a file name that is neither JPEG nor PNG.
        DiskError: the file cannot be written.
    """
    path = Path(out)
    kind = {".jpg": "JPEG", ".jpeg": "JPEG", ".png": "PNG"}.get(path.suffix.lower())
    if kind is None:  # before minutes of rendering
        raise InputError(f"a sheet is a .jpg or .png file, got {path.name}.")
    if rows < 1 or cameras < 1:
        raise InputError(f"a sheet needs rows and cameras >= 1, got {rows} and {cameras}.")
    look = look or Look()
    closet = None if assets is None else open_closet(Path(assets).resolve())
    lines = []
    drawn = [draw_camera(seed, n + 1) for n in range(cameras)]
    for index in range(rows):
        person = make_person(draw_identity(seed, index, 0, 0.5, closet), closet)
        color, valid = person.texture()
        shots = [render_shot(person, camera, k, look) for k, camera in enumerate(drawn)]
        first = max(shots[:4], key=lambda s: float((s.part > 0).mean()))
        views = [s.image for s in shots if s is not first]
        cells = [color * valid[..., None], first.image, _colored(first), first.iuv * _SPREAD,
                 _joints(first), *views]  # fmt: skip
        lines.append(np.concatenate([_framed(c) for c in cells], 1))
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary:
        Image.fromarray(np.concatenate(lines)).save(temporary, kind, quality=82)
    return path


_SPREAD = np.array([20, 1, 1], np.uint8)


def _framed(cell: Array) -> Array:
    return np.pad(cell.astype(np.uint8), ((2, 2), (2, 2), (0, 0)), constant_values=255)


def _colored(shot: Shot) -> Array:
    out: Array = PALETTE[shot.part]
    out[shot.person & (shot.part == 0)] = 90
    return out


def _joints(shot: Shot) -> Array:
    picture = Image.fromarray(shot.image // 2 + 64)
    pen = ImageDraw.Draw(picture)
    points = shot.keypoints
    for a, b in _EDGES:
        if points[a, 2] and points[b, 2]:
            pen.line((*points[a, :2], *points[b, :2]), fill=(255, 220, 0))
    for x, y, seen in points:
        if seen and 0 <= y < HEIGHT:
            pen.ellipse(
                (x - 2, y - 2, x + 2, y + 2), fill=(0, 230, 0) if seen == 2 else (230, 0, 0)
            )
    return np.asarray(picture)
