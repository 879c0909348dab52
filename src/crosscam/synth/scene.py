"""Places people walk through: a ground, walls and things standing about, all procedural.

A scene is a handful of upright textured quads on a two-part ground, around the spots where people
are seen; ``raster.scene_rays`` looks at it.  Textures are drawn here from seeds, 256 x 256 with
an alpha channel, and kept with their halvings in one bank per process (about 16 MB).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from crosscam.synth.paint import cloud

__all__ = ["BANK_START", "Scene", "bank", "draw_scene", "props"]

Array = npt.NDArray[Any]

SIDE = 256
LEVELS = 6
BANK_START: Array = np.cumsum([0] + [(SIDE >> k) ** 2 for k in range(LEVELS - 1)]).astype(np.int64)

GROUNDS = ("paving", "paving2", "asphalt", "brick", "slabs", "cobble", "grass", "concrete",
           "tiles", "strips")  # fmt: skip
WALLS = ("plaster", "bricks", "panels", "windows", "glass", "shutter", "hedge", "stone", "shop",
         "cladding", "dark", "steps")  # fmt: skip
CUTOUTS = ("railing", "fence", "bush", "tree", "bicycle", "bicycle2", "bin", "sign", "pole", "car",
           "barrier", "crowd", "bench", "planter")  # fmt: skip
NAMES = GROUNDS + WALLS + CUTOUTS
VARIANTS = 2


def _gray(rng: np.random.Generator, low: float, high: float, tint: float = 0.03) -> Array:
    level = rng.uniform(low, high)
    return np.asarray(level * (1 + rng.normal(0, tint) * np.array([1, 0.1, -1])), np.float32)


def _speckle(rng: np.random.Generator, fine: float, coarse: float) -> Array:
    v, u = np.mgrid[0:SIDE, 0:SIDE] / SIDE
    stain = cloud(u, v, 1.0, 0, float(rng.random())) + 0.6 * cloud(u, v, 1.0, 1, rng.random())
    grain = rng.standard_normal((SIDE, SIDE))
    result: Array = 1 + coarse * stain + fine * grain
    return result


def _bricks(
    rng: np.random.Generator, rows: int, columns: int, shift: float, joint: int, spread: float,
    dark: float,
) -> Array:  # fmt: skip
    """Shares of brightness of a wall of blocks, [SIDE, SIDE]."""
    v, u = np.mgrid[0:SIDE, 0:SIDE]
    row = v * rows // SIDE
    x = (u + (row % 2) * shift * SIDE / columns) % SIDE
    column = (x * columns // SIDE).astype(np.int64)
    tone = 1 + spread * rng.standard_normal((rows, columns))
    out = tone[row, column]
    seam = (v % (SIDE // rows) < joint) | (x % (SIDE // columns) < joint)
    result: Array = np.where(seam, dark, out)
    return result


def _draw_ground(name: str, rng: np.random.Generator) -> Any:
    spec = {
        "paving": (8, 8, 0.0, 2, 0.07, 0.78, (0.42, 0.62)),
        "paving2": (8, 4, 0.5, 2, 0.08, 0.75, (0.36, 0.55)),
        "brick": (16, 8, 0.5, 2, 0.12, 0.72, (0.36, 0.52)),
        "slabs": (4, 4, 0.5, 2, 0.06, 0.7, (0.5, 0.72)),
        "cobble": (20, 16, 0.5, 3, 0.16, 0.6, (0.34, 0.5)),
        "tiles": (6, 6, 0.0, 2, 0.02, 0.85, (0.6, 0.85)),
        "strips": (12, 2, 0.25, 3, 0.06, 0.66, (0.5, 0.75)),
    }.get(name)
    if spec is not None:
        rows, columns, shift, joint, spread, dark, level = spec
        color = _gray(rng, *level)
        if name == "brick":
            color = color * np.array([1.18, 0.95, 0.85], np.float32)
        shade = _bricks(rng, rows, columns, shift, joint, spread, dark) * _speckle(rng, 0.05, 0.05)
        out = color * shade[..., None]
        if name == "strips":  # a colored line of slabs
            out[: SIDE // 12] *= np.array([1.15, 0.9, 0.8])
        return out
    if name == "grass":
        shade = _speckle(rng, 0.16, 0.14)
        return np.array([0.30, 0.40, 0.20]) * shade[..., None] * rng.uniform(0.8, 1.2)
    shade = _speckle(rng, 0.09 if name == "asphalt" else 0.04, 0.06)
    color = _gray(rng, 0.33, 0.5) if name == "asphalt" else _gray(rng, 0.5, 0.7)
    return color * shade[..., None]


def _draw_wall(name: str, rng: np.random.Generator) -> Any:
    v, u = np.mgrid[0:SIDE, 0:SIDE] / SIDE
    if name == "bricks":
        color = np.array([0.52, 0.36, 0.30]) if rng.random() < 0.5 else _gray(rng, 0.4, 0.7)
        return (
            color * (_bricks(rng, 32, 12, 0.5, 2, 0.1, 1.15) * _speckle(rng, 0.04, 0.06))[..., None]
        )
    if name in ("panels", "stone", "cladding"):
        rows, columns = {"panels": (2, 4), "stone": (6, 4), "cladding": (1, 32)}[name]
        color = _gray(rng, 0.42, 0.8)
        shade = _bricks(rng, rows, columns, 0.0 if name != "stone" else 0.5, 2, 0.05, 0.6)
        return color * (shade * _speckle(rng, 0.02, 0.06))[..., None]
    if name in ("windows", "glass", "shop"):
        wall = _gray(rng, 0.35, 0.8) * _speckle(rng, 0.02, 0.06)[..., None]
        columns = {"windows": 4, "glass": 6, "shop": 2}[name]
        rows = {"windows": 2, "glass": 3, "shop": 1}[name]
        frame = {"windows": 0.22, "glass": 0.05, "shop": 0.08}[name]
        x, y = (u * columns) % 1, (v * rows) % 1
        pane = (np.abs(x - 0.5) < 0.5 - frame) & (np.abs(y - 0.5) < 0.5 - frame * 0.8)
        cell = ((v * rows).astype(int) * columns + (u * columns).astype(int)) % 24
        tone = rng.uniform(0.08, 0.42, 24)[cell]
        sky = np.clip(tone * (1.4 - 0.9 * y) + 0.08 * cloud(u, v, 1.3, 0), 0.03, 0.9)
        glass = sky[..., None] * np.array([0.95, 1.0, 1.06])
        if name == "shop":
            for _ in range(14):
                cx, cy, w, h = rng.uniform(0, 1), rng.uniform(0.2, 0.9), *rng.uniform(0.02, 0.12, 2)
                glass[(np.abs(u - cx) < w) & (np.abs(v - cy) < h)] = rng.uniform(0.05, 0.8, 3)
        out = np.where(pane[..., None], glass, wall)
        if name == "shop":
            out[: SIDE // 8] = rng.uniform(0.1, 0.7, 3)
        return out
    if name == "shutter":
        color = _gray(rng, 0.4, 0.75, 0.06)
        return (
            color
            * (0.9 + 0.12 * np.sin(v * 2 * np.pi * 32))[..., None]
            * _speckle(rng, 0.02, 0.05)[..., None]
        )
    if name == "hedge":
        shade = 1 + 0.45 * cloud(u, v, 0.5, 1) + 0.25 * cloud(u, v, 0.5, 2)
        return np.array([0.20, 0.27, 0.13]) * np.clip(shade, 0.2, 2.2)[..., None]
    if name == "dark":
        return _gray(rng, 0.06, 0.14) * (_speckle(rng, 0.05, 0.25) * (1.2 - 0.6 * v))[..., None]
    if name == "steps":
        shade = np.where((v * 6) % 1 < 0.55, 1.0, 0.55)
        return _gray(rng, 0.45, 0.65) * (shade * _speckle(rng, 0.04, 0.05))[..., None]
    color = _gray(rng, 0.45, 0.85, 0.05)
    stain = 1 - 0.15 * np.clip(v - 0.7, 0, 1) * 3
    return color * (_speckle(rng, 0.02, 0.05) * stain)[..., None]


def _draw_cutout(name: str, rng: np.random.Generator) -> Array:
    """Colors and alpha in one picture, [SIDE, SIDE, 4] in 0..1."""
    picture = Image.new("RGBA", (SIDE, SIDE), (0, 0, 0, 0))
    pen = ImageDraw.Draw(picture)
    v, u = np.mgrid[0:SIDE, 0:SIDE] / SIDE

    def ink(low: float, high: float, tint: float = 0.06) -> tuple[int, int, int, int]:
        r, g, b = np.clip(_gray(rng, low, high, tint) * 255, 0, 255).astype(int)
        return (int(r), int(g), int(b), 255)

    if name in ("railing", "fence", "barrier"):
        color = ink(0.08, 0.7)
        step = {"railing": 16, "fence": 9, "barrier": 42}[name]
        for x in range(0, SIDE, step):
            pen.rectangle((x, 12, x + (3 if name != "fence" else 2), SIDE), fill=color)
        for y in (6, 128, 236) if name != "fence" else range(4, SIDE, 30):
            pen.rectangle((0, y, SIDE, y + (12 if name == "railing" else 5)), fill=color)
    elif name in ("bush", "tree", "planter"):
        leaves = 0.5 * cloud(u, v, 0.9, 1, rng.random()) + 0.2 * cloud(u, v, 0.5, 2)
        center = 0.5 if name != "tree" else 0.32
        blob = (
            1.0 - ((u - 0.5) / 0.42) ** 2 - ((v - center) / (0.45 if name != "tree" else 0.3)) ** 2
        )
        leaf = blob + 0.35 * leaves > 0.12
        if name != "tree":
            leaf |= (v > 0.6) & (np.abs(u - 0.5) < 0.42 + 0.03 * leaves)
        shade = np.clip(1 + 0.5 * leaves, 0.25, 2)[..., None]
        green = np.array([0.22, 0.30, 0.14]) * rng.uniform(0.7, 1.3) * shade
        out = np.concatenate([green, leaf[..., None].astype(float)], -1)
        if name == "tree":
            trunk = (np.abs(u - 0.5) < 0.035) & (v > 0.3)
            out[trunk] = (0.22, 0.18, 0.14, 1)
        if name == "planter":
            pot = (v > 0.68) & (np.abs(u - 0.5) < 0.4)
            out[pot] = (*_gray(rng, 0.4, 0.7), 1)
        return np.asarray(out, np.float32)
    elif name.startswith("bicycle"):
        for _ in range(3 if name == "bicycle2" else 1):
            color, dark = ink(0.1, 0.6, 0.3), ink(0.03, 0.12)
            dx = int(rng.integers(-30, 30)) if name == "bicycle2" else 0
            for cx in (62 + dx, 190 + dx):
                pen.ellipse((cx - 56, 140, cx + 56, 252), outline=dark, width=6)
                for a in np.arange(0, math.pi, 0.5):
                    ox, oy = 52 * math.cos(a), 52 * math.sin(a)
                    pen.line((cx - ox, 196 - oy, cx + ox, 196 + oy), fill=(120, 120, 120, 255))
            for line in ((62, 196, 100, 110), (100, 110, 175, 112), (175, 112, 128, 200),
                         (128, 200, 62, 196), (100, 110, 128, 200),
                         (175, 112, 190, 196)):  # fmt: skip
                pen.line([line[0] + dx, line[1], line[2] + dx, line[3]], fill=color, width=8)
            pen.line((175 + dx, 112, 168 + dx, 70, 140 + dx, 64), fill=dark, width=7)
            pen.rectangle((78 + dx, 92, 122 + dx, 104), fill=dark)
            if rng.random() < 0.6:
                pen.rectangle((168 + dx, 84, 226 + dx, 128), fill=ink(0.15, 0.5))
    elif name == "bin":
        pen.rounded_rectangle((40, 20, 216, 256), 18, fill=ink(0.2, 0.6, 0.2))
        pen.rectangle((40, 60, 216, 72), fill=ink(0.05, 0.2))
    elif name == "sign":
        pen.rectangle((122, 0, 134, 256), fill=ink(0.3, 0.6))
        pen.rectangle((30, 4, 226, 110), fill=ink(0.3, 0.9, 0.4))
        for y in range(20, 96, 18):
            pen.rectangle((48, y, int(rng.integers(120, 208)), y + 7), fill=ink(0.05, 0.3))
    elif name == "pole":
        pen.rectangle((96, 0, 160, 256), fill=ink(0.15, 0.65))
        pen.rectangle((96, 0, 112, 256), fill=ink(0.1, 0.4))
    elif name == "car":
        color = ink(0.1, 0.85, 0.15)
        pen.rounded_rectangle((4, 110, 252, 224), 26, fill=color)
        pen.polygon([(44, 116), (78, 50), (186, 50), (222, 116)], fill=color)
        pen.polygon([(62, 112), (86, 62), (126, 62), (126, 112)], fill=ink(0.08, 0.25))
        pen.polygon([(136, 112), (136, 62), (180, 62), (204, 112)], fill=ink(0.08, 0.25))
        for x in (60, 196):
            pen.ellipse((x - 30, 190, x + 30, 252), fill=(16, 16, 18, 255))
            pen.ellipse((x - 15, 205, x + 15, 237), fill=ink(0.35, 0.6))
    elif name == "bench":
        color = ink(0.2, 0.5, 0.15)
        for y in (40, 70, 100, 140):
            pen.rectangle((4, y, 252, y + 20), fill=color)
        for x in (20, 222):
            pen.rectangle((x, 40, x + 12, 256), fill=ink(0.1, 0.3))
    else:  # a far crowd: standing shapes
        for _ in range(9):
            x, top = int(rng.integers(0, 230)), int(rng.integers(10, 60))
            skin = ink(0.45, 0.7, 0.15)
            pen.ellipse((x + 8, top, x + 26, top + 30), fill=skin)
            pen.rounded_rectangle((x, top + 30, x + 34, top + 120), 9, fill=ink(0.05, 0.85, 0.2))
            pen.rectangle((x + 5, top + 116, x + 29, 256), fill=ink(0.05, 0.5, 0.1))
    return np.asarray(picture, np.float32) / 255


@lru_cache(maxsize=1)
def bank() -> Array:
    """All textures and their halvings, [T, texels, 4] uint8; texture ``t`` is
    ``NAMES[t // VARIANTS]``."""
    total = int(BANK_START[-1]) + (SIDE >> (LEVELS - 1)) ** 2
    out = np.zeros((len(NAMES) * VARIANTS, total, 4), np.uint8)
    for t in range(len(out)):
        name = NAMES[t // VARIANTS]
        rng = np.random.default_rng([78, t])
        if name in CUTOUTS:
            image = _draw_cutout(name, rng)
        else:
            color = _draw_ground(name, rng) if name in GROUNDS else _draw_wall(name, rng)
            image = np.concatenate([color, np.ones((SIDE, SIDE, 1))], -1)
        image = np.clip(image, 0, 1).astype(np.float32)
        for level in range(LEVELS):
            flat = (image * 255 + 0.5).astype(np.uint8).reshape(-1, 4)
            out[t, BANK_START[level] : BANK_START[level] + len(flat)] = flat
            image = (image[::2, ::2] + image[1::2, ::2] + image[::2, 1::2] + image[1::2, 1::2]) / 4
    return out


def texture_index(name: str, rng: np.random.Generator) -> int:
    """A variant of the texture ``name``."""
    return NAMES.index(name) * VARIANTS + int(rng.integers(VARIANTS))


@dataclass(frozen=True)
class Scene:
    """What stands where, for ``raster.scene_rays``, and the light of the hour."""

    quads: Array  # [N, 12]
    ground: Array  # [10]
    sun: Array  # [3] unit vector to the sun
    sun_color: Array  # [3]; zero under cloud or roof
    sky: Array  # [3]
    bounce: Array  # [3]
    indoor: bool


def _tint(rng: np.random.Generator, spread: float = 0.12) -> Array:
    return np.clip(rng.normal(1, spread) * (1 + rng.normal(0, 0.025, 3)), 0.4, 1.6)


def props(rng: np.random.Generator, name: str, x: float, y: float, toward: float) -> Array:
    """One thing standing at (x, y), facing about the direction ``toward`` (radians), as a quad."""
    width, height, base = {
        "railing": (4.0, 1.1, 0.0),
        "fence": (5.0, 1.6, 0.0),
        "barrier": (2.2, 1.0, 0.0),
        "bush": (1.6, 1.2, 0.0),
        "planter": (1.2, 1.0, 0.0),
        "tree": (3.4, 4.5, 0.0),
        "bicycle": (1.7, 1.1, 0.0),
        "bicycle2": (1.9, 1.1, 0.0),
        "bin": (0.6, 1.0, 0.0),
        "sign": (0.9, 2.0, 0.0),
        "pole": (0.22, 4.0, 0.0),
        "car": (4.2, 1.6, 0.0),
        "bench": (1.7, 0.9, 0.0),
        "crowd": (3.0, 1.7, 0.0),
        "stone": (1.6, 0.9, 0.0),
        "plaster": (1.8, 1.1, 0.0),
    }[name]
    turn = toward + math.pi / 2 + rng.normal(0, 0.35)
    dx, dy = 0.5 * width * math.cos(turn), 0.5 * width * math.sin(turn)
    tint = _tint(rng)
    repeat = 2.0 if name in ("railing", "fence") else 1.0
    return np.array([x - dx, y - dy, x + dx, y + dy, base, base + height,
                     texture_index(name, rng), repeat, 1.0, *tint], np.float32)  # fmt: skip


def draw_scene(seed: tuple[int, ...], view: float) -> Scene:
    """A scene seen along the direction ``view`` (radians): far things stand on that side."""
    rng = np.random.default_rng(seed)
    indoor = bool(rng.random() < 0.22)
    quads: list[Array] = []

    def wall(
        distance: float, name: str, height: float, turn: float, width: float, tile: float
    ) -> None:
        cx, cy = distance * math.cos(view), distance * math.sin(view)
        angle = view + math.pi / 2 + turn
        slide = rng.normal(0, 0.3) * width
        cx, cy = cx + slide * math.cos(angle), cy + slide * math.sin(angle)
        dx, dy = 0.5 * width * math.cos(angle), 0.5 * width * math.sin(angle)
        quads.append(np.array([cx - dx, cy - dy, cx + dx, cy + dy, 0, height,
                               texture_index(name, rng), width / tile, max(height / tile, 1),
                               *_tint(rng, 0.2)], np.float32))  # fmt: skip

    walls = [str(w) for w in rng.choice(WALLS, 4)]
    near = rng.uniform(1.6, 7.0)
    wall(
        near,
        walls[0],
        rng.uniform(2.5, 7),
        rng.normal(0, 0.5),
        rng.uniform(4, 14),
        rng.uniform(2, 5),
    )
    wall(
        near + rng.uniform(2, 8),
        walls[1],
        rng.uniform(3, 9),
        rng.normal(0, 0.3),
        40,
        rng.uniform(3, 6),
    )
    if rng.random() < 0.6:
        wall(
            rng.uniform(1.5, 5),
            walls[2],
            rng.uniform(0.5, 3),
            rng.normal(0, 0.8),
            rng.uniform(2, 6),
            2.5,
        )
    names = ["bench", "crowd", "sign", "bin", "pole", "planter"] if indoor else list(CUTOUTS)
    for _ in range(int(rng.integers(3, 9))):
        name = str(rng.choice(names))
        away, side = rng.uniform(1.2, 9), rng.normal(0, 2.6)
        x = away * math.cos(view) - side * math.sin(view)
        y = away * math.sin(view) + side * math.cos(view)
        quads.append(props(rng, name, x, y, view))
    if rng.random() < 0.4:  # a row: bicycles, a railing
        name = str(rng.choice(["bicycle2", "railing", "fence", "bush"]))
        away = rng.uniform(1.2, 4)
        for k in range(-3, 4):
            side = k * (4.0 if name == "railing" else 1.1) + rng.normal(0, 0.1)
            x = away * math.cos(view) - side * math.sin(view)
            y = away * math.sin(view) + side * math.cos(view)
            quads.append(props(np.random.default_rng([*seed, 9]), name, x, y, view))
    grounds = ["tiles", "slabs", "concrete", "tiles"] if indoor else list(GROUNDS)
    first, second = (texture_index(str(g), rng) for g in rng.choice(grounds, 2))
    angle = rng.uniform(0, 2 * math.pi)
    tint = 0.85 * _tint(rng, 0.12)
    ground = np.array([first, second, rng.uniform(1.6, 3.2), math.cos(angle), math.sin(angle),
                       rng.normal(0, 2.5), *tint, 0], np.float32)  # fmt: skip
    elevation, azimuth = math.radians(rng.uniform(25, 70)), rng.uniform(0, 2 * math.pi)
    sun = np.array([math.cos(elevation) * math.cos(azimuth),
                    math.cos(elevation) * math.sin(azimuth), math.sin(elevation)],
                   np.float32)  # fmt: skip
    kind = "indoor" if indoor else str(rng.choice(["cloud", "hazy", "sun"], p=[0.45, 0.25, 0.30]))
    strength = {"cloud": 0.18, "hazy": 0.55, "sun": 1.25, "indoor": 0.35}[kind] * rng.uniform(
        0.8, 1.2
    )
    warm = np.array([1.0, 0.95, 0.87]) if not indoor else np.array([1.0, 0.96, 0.9])
    sky = {"cloud": 0.95, "hazy": 0.8, "sun": 0.55, "indoor": 0.75}[kind] * rng.uniform(0.85, 1.15)
    blue = np.array([0.94, 1.0, 1.07]) if kind != "indoor" else np.array([1.0, 1.0, 0.97])
    if indoor:
        sun = np.array([0.25 * math.cos(azimuth), 0.25 * math.sin(azimuth), 0.97], np.float32)
    return Scene(
        np.stack(quads).astype(np.float32),
        ground,
        sun,
        (warm * strength).astype(np.float32),
        (blue * sky).astype(np.float32),
        np.full(3, rng.uniform(0.28, 0.5) * sky, np.float32),
        indoor,
    )
