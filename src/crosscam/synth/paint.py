"""What clothes, skin and hair look like: color as a function of the canonical spot.

``paint_body`` fills the body chart, [CHART, CHART, 3] uint8, of one person; ``paint_piece`` the
small square of a skirt, hair hull or bag.  The body chart shows hidden skin in the color of what
covers it, long skirts included, so its halved copy is the person's complete texture.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from crosscam.synth.body import (
    ARM,
    BOTTOM,
    CHART,
    FOOT,
    HAIR,
    HAT,
    HEAD,
    LEG,
    SHOES,
    TOP,
    TORSO,
    body,
)
from crosscam.synth.closet import Garment
from crosscam.synth.identity import Bottom, Color, Identity, Top
from crosscam.synth.wardrobe import WAIST, Piece, Sites, scalp, texel_cover, texel_sites

__all__ = ["cloud", "paint_body", "paint_piece"]

Array = npt.NDArray[Any]


@lru_cache(maxsize=4)
def _noise(which: int) -> Array:
    """A smooth periodic noise picture, [256, 256], zero mean and unit deviation."""
    rng = np.random.default_rng([77, which])
    frequency = np.fft.fftfreq(256)[:, None] ** 2 + np.fft.fftfreq(256)[None] ** 2
    low = (3 / 256, 10 / 256, 28 / 256, 3 / 256)[which]
    keep = np.exp(-frequency / (2 * low**2)) - np.exp(-frequency / (2 * (low / 3) ** 2))
    image = np.fft.ifft2(np.fft.fft2(rng.standard_normal((256, 256))) * keep).real
    result: Array = ((image - image.mean()) / image.std()).astype(np.float32)
    return result


def cloud(
    u: Array, v: Array, size: float, which: int, shift: float = 0.0, shift_v: float | None = None
) -> Array:
    """Noise at spots (u, v) in meters, its picture spanning ``size`` meters; zero mean, unit
    deviation.  The shifts choose a place in the picture."""
    i = (np.floor((u + shift) * (256 / size)).astype(np.int64)) & 255
    j = np.floor((v - (shift if shift_v is None else shift_v)) * (256 / size)).astype(np.int64)
    j &= 255
    result: Array = _noise(which)[j, i]
    return result


def _fill(count: int, color: Color) -> Array:
    return np.tile(np.array(color, np.float32), (count, 1))


def _wave(x: Array, period: float, share: float) -> Array:
    """True on a ``share`` of every ``period``."""
    result: Array = (x / period) % 1.0 < share
    return result


def _pattern(
    kind: str, colors: tuple[Color, ...], period: float, u: Array, v: Array, shift: float
) -> Array:
    """Cloth at spots (u around, v along; meters) -> [N, 3]."""
    out: Array = _fill(len(u), colors[0])
    second = np.array(colors[1], np.float32)
    third = np.array(colors[-1], np.float32)
    if kind == "stripes":
        out[_wave(v, period, 0.30 + 0.25 * (shift % 1))] = second
    elif kind == "pinstripe":
        out[_wave(u, 0.02 + period / 4, 0.3)] = second
    elif kind == "check":
        a: Array = _wave(v, period, 0.5).astype(np.float32) + _wave(u, period, 0.5)
        line = _wave(v + 0.2 * period, period, 0.1) | _wave(u + 0.2 * period, period, 0.1)
        out = out * (1 - 0.45 * a[:, None]) + second * 0.45 * a[:, None]
        out = np.where(line[:, None], third * 0.6 + out * 0.4, out)
    elif kind == "blocks":
        out[v > 1.30 - 0.2 * (shift % 1)] = second
    elif kind == "dots":
        row = np.floor(v / period)
        x = ((u / period + 0.5 * row) % 1.0 - 0.5) ** 2 + ((v / period) % 1.0 - 0.5) ** 2
        out[x < 0.07] = second
    elif kind == "flowers":
        q = cloud(u, v, 0.5 + 4 * period, 1, shift)
        out[q > 0.9] = second
        out[q < -1.1] = third
    elif kind == "camo":
        q = cloud(u, v, 0.9, 1, shift)
        out = np.where((q > 0.5)[:, None], out * 0.6, out)
        out = np.where((q < -0.6)[:, None], out * 0.5 + 0.25, out)
    elif kind == "fade":
        a = np.clip((v - 0.95) / 0.45, 0, 1)[:, None]
        out = out * a + second * (1 - a)
    return out


def _emblem(rng: np.random.Generator, kind: str) -> Array:
    """A print as [64, 64] shares of ink: lines of text, a shape with holes, a number."""
    ink = np.zeros((64, 64), np.float32)
    if kind == "text":
        rows = int(rng.integers(1, 4))
        height = 40 // rows
        for r in range(rows):
            x, y = int(rng.integers(2, 12)), 6 + r * (height + 6)
            while x < 58:
                width = int(rng.integers(3, 8))
                ink[y : y + height, x : x + width] = 1
                if rng.random() < 0.6:
                    ink[y + height // 3 : y + 2 * height // 3, x + 1 : x + width - 1] = 0
                x += width + 2
    elif kind == "number":
        for d in range(2):
            x = 6 + 28 * d
            ink[6:58, x : x + 22] = 1
            for y in (14, 36):
                if rng.random() < 0.8:
                    ink[y : y + 14, x + 7 : x + (15 if rng.random() < 0.5 else 22)] = 0
    else:
        y, x = np.mgrid[-1:1:64j, -1:1:64j]
        angle, radius = np.arctan2(y, x), np.hypot(x, y)
        lobes = rng.integers(2, 7)
        ink = (radius < 0.75 + 0.22 * np.cos(lobes * angle + rng.uniform(0, 6))).astype(np.float32)
        holes = np.zeros_like(ink)
        for _ in range(int(rng.integers(1, 5))):
            cx, cy = rng.uniform(-0.5, 0.5, 2)
            holes += np.hypot(x - cx, y - cy) < rng.uniform(0.08, 0.3)
        ink *= holes == 0
    return ink


def _paint_top(top: Top, bag: str, bag_color: Color, s: Sites, rng: np.random.Generator) -> Array:
    x, y, z = s.point.T
    shift = float(rng.random())
    arm = (s.part >= ARM) & (s.part < LEG)
    front = (y < -0.035) & ~arm
    kind = top.pattern if top.pattern != "blocks" or not top.contrast_sleeves else "plain"
    out = _pattern(kind, top.colors, top.period, s.around, s.along, shift)
    if top.contrast_sleeves:
        out[arm] = top.colors[1]
    dark = np.array(top.colors[0], np.float32) * 0.6
    if top.kind in ("open", "suit"):
        gap = (
            0.018
            + 0.035 * rng.random()
            + np.clip(z - 1.05, 0, 1) * (0.06 if top.kind == "suit" else 0.03)
        )
        inner = front & (np.abs(x) < gap) & (z > (1.22 if top.kind == "suit" else 0.0))
        out[inner] = top.colors[1]
        edge = front & (np.abs(np.abs(x) - gap) < 0.006)
        out[edge] = dark
        if top.kind == "suit" and rng.random() < 0.6:
            out[inner & (np.abs(x) < 0.016)] = top.colors[2]
    elif top.kind in ("jacket", "coat", "shirt", "polo"):
        low = 1.36 if top.kind == "polo" else 0.0
        out[front & (np.abs(x) < (0.005 if top.kind != "shirt" else 0.008)) & (z > low)] = dark
        if top.kind in ("jacket", "coat") and rng.random() < 0.5:
            pocket = front & (np.abs(np.abs(x) - 0.10) < 0.035) & (np.abs(z - 1.06) < 0.006)
            out[pocket] = dark
    if top.kind in ("polo", "shirt", "jacket", "hoodie"):
        collar = ~arm & (z > 1.50 - 0.02 * (y < -0.03))
        out[collar] = out[collar] * 0.82
    if top.kind == "hoodie":
        out[front & (np.abs(z - 1.06) < 0.05) & (np.abs(x) < 0.11)] *= 0.86
    if top.print:
        band = top.print == "band"
        ink_color = np.array(top.colors[1], np.float32)
        if np.abs(ink_color - np.array(top.colors[0])).max() < 0.25:
            ink_color = (
                0.9 - 0.8 * np.round(np.array(top.colors[0], np.float32).mean()) + 0 * ink_color
            )
        where = (y > 0.0) & ~arm if top.print_back else front
        if band:
            out[(np.abs(z - 1.27) < 0.035) & (~arm | (s.arm < 0.35))] = ink_color
        else:
            size = rng.uniform(0.07, 0.13)
            center = rng.uniform(1.24, 1.32)
            sign = -1.0 if top.print_back else 1.0
            i = np.clip(((sign * -x / size) * 0.5 + 0.5) * 64, 0, 63).astype(np.int64)
            j = np.clip(((center - z) / size * 0.5 + 0.5) * 64, 0, 63).astype(np.int64)
            inside = where & (np.abs(x) < size) & (np.abs(z - center) < size)
            ink = (_emblem(rng, top.print)[j, i] * inside)[:, None]
            out = out * (1 - ink) + ink_color * ink
    if top.kind in ("sweater", "hoodie", "jacket") and top.sleeve > 0.8:
        out[arm & (s.arm > top.sleeve - 0.08)] *= 0.8  # cuffs
    if bag == "backpack":
        strap = ~arm & (np.abs(np.abs(x) - 0.105) < 0.02) & (z > 1.18) & (y < 0.06)
        out[strap] = np.array(bag_color) * 0.8
    elif bag.startswith("shoulder"):
        side = 1.0 if bag.endswith("+") else -1.0
        strap = ~arm & (np.abs(z - (1.27 - side * x * 1.5)) < 0.022)
        out[strap] = np.array(bag_color) * 0.8
    return out


def _paint_bottom(bottom: Bottom, s: Sites, rng: np.random.Generator) -> Array:
    x, y, z = s.point.T
    shift = float(rng.random())
    out = _pattern(
        bottom.pattern, (*bottom.colors, bottom.colors[0]), 0.05, s.around, s.along, shift
    )
    leg = s.part >= LEG
    if bottom.kind == "jeans" or (bottom.kind == "shorts" and bottom.colors[0][2] > 0.3):
        fade = np.exp(-((s.angle / 0.9) ** 2)) * np.exp(-(((z - 0.68) / 0.16) ** 2)) * leg
        out *= (1 + 0.35 * shift * fade + 0.07 * cloud(s.around, s.along, 0.4, 1, shift))[:, None]
    if bottom.kind == "track":
        seam = leg & (np.abs(np.abs(s.angle) - np.pi / 2) < 0.16) & (x * s.angle > 0)
        out[seam] = bottom.colors[1]
    if bottom.kind == "cargo":
        pocket = leg & (np.abs(z - 0.66) < 0.075) & (np.abs(np.abs(s.angle) - 1.6) < 0.6)
        out[pocket] *= 0.85
    if bottom.kind in ("jeans", "trousers", "shorts", "cargo"):
        back = (y > 0.03) & (np.abs(z - 0.97) < 0.05) & (np.abs(np.abs(x) - 0.085) < 0.045)
        out[back] *= 0.88
        out[np.abs(z - (WAIST - 0.01)) < 0.012] *= 0.6
    return out


def _paint_skin(who: Identity, s: Sites) -> Array:
    x, y, z = s.point.T
    tone = np.array(who.skin, np.float32)
    out = _fill(len(x), who.skin)
    out *= (1 + 0.012 * cloud(s.around, s.along, 0.9, 1))[:, None]
    head = (s.part == HEAD) & (y < -0.085)
    w = np.abs(x)
    out[(s.part == HEAD) & (w > 0.02) & (w < 0.06) & (np.abs(z - 1.645) < 0.02)] *= (
        1.0,
        0.95,
        0.93,
    )
    brow = head & (np.abs(z - 1.692) < 0.006) & (w > 0.013) & (w < 0.05)
    out[brow] = np.array(who.hair_color) * 0.7 + tone * 0.2
    eye = head & (np.abs(z - 1.673) < 0.009) & (w > 0.014) & (w < 0.045)
    out[eye] = tone * 0.42
    out[head & (np.abs(z - 1.595) < 0.008) & (w < 0.026)] = tone * np.array((0.80, 0.50, 0.48))
    out[head & (np.abs(z - 1.625) < 0.006) & (w < 0.016)] = tone * 0.7
    if not who.female and who.hair_length > 0.72:
        beard = (s.part == HEAD) & (y < -0.05) & (z < 1.61) & (z > 1.54)
        out[beard] = out[beard] * 0.6 + np.array(who.hair_color) * 0.35
    if who.glasses == "clear":
        out[head & (np.abs(np.hypot((w - 0.032) / 1.2, z - 1.672) - 0.021) < 0.003)] = tone * 0.25
    elif who.glasses == "dark":
        out[head & (np.hypot((w - 0.032) / 1.3, z - 1.672) < 0.019)] = 0.07
    if who.mask is not None:
        out[(s.part == HEAD) & (y < -0.06) & (z < 1.648) & (z > 1.56)] = who.mask
    return out


def paint_body(who: Identity, garments: list[Garment]) -> tuple[Array, Array]:
    """(color [CHART, CHART, 3] uint8, label [CHART, CHART] uint8) of the body chart."""
    s = texel_sites()
    rng = np.random.default_rng([*who.seed, 5])
    label = texel_cover(who, garments)
    out = _paint_skin(who, s)
    outfit = who.outfit

    def sub(mask: Array) -> Sites:
        return _pick(s, mask)

    top_seed, bottom_seed = (int(v) for v in rng.integers(0, 2**31, 2))
    # What a skirt or coat tail hides is painted as that cloth down to its hem.
    z = s.point[:, 2]
    below = np.isin(s.part, (TORSO, LEG, LEG + 1))
    hulls = not who.suit
    if hulls and outfit.bottom.kind in ("skirt", "none"):
        label[below & (z > outfit.bottom.hem) & (label != TOP)] = BOTTOM
        if outfit.bottom.kind == "none":
            label[label == BOTTOM] = TOP
    elif hulls and outfit.top.kind == "coat":
        tail = below & (z > outfit.top.hem) & (z < WAIST + 0.03) & ~_coat_gap(s.point)
        label[tail] = TOP
    if hulls and (outfit.bottom.kind in ("skirt", "none") or outfit.top.kind == "coat"):
        # A hull hangs about the trunk: its cloth runs round both legs, not round each.
        hull = below & (z < WAIST)
        angle = np.where(hull, np.arctan2(s.point[:, 0], -(s.point[:, 1] + 0.03)), s.angle)
        around = np.where(hull, angle * 0.15, s.around).astype(np.float32)
        s = Sites(s.point, np.where(hull, TORSO, s.part), s.arm, angle, around, s.along)
    is_top = label == TOP
    bag = who.bag + ("+" if who.bag_side > 0 else "-") if who.bag == "shoulder" else who.bag
    out[is_top] = _paint_top(
        outfit.top, bag, who.bag_colors[0], sub(is_top), np.random.default_rng(top_seed)
    )
    is_bottom = label == BOTTOM
    out[is_bottom] = _paint_bottom(
        outfit.bottom, sub(is_bottom), np.random.default_rng(bottom_seed)
    )
    leg = (s.part >= LEG) & (s.part < FOOT)
    if outfit.socks is not None:
        sock = leg & (z < max(0.17, outfit.shaft + 0.05)) & (label == s.part)
        out[sock] = outfit.socks
    shoe = label == SHOES
    out[shoe] = outfit.shoes[0]
    out[shoe & (z < 0.03)] = outfit.shoes[1]
    hair = scalp(s, who)
    strands = 1 + 0.22 * cloud(s.around * 3, s.along * 0.5, 0.6, 2) * (who.hair != "bald")
    grown = hair & (label == HAIR)
    out[grown] = np.array(who.hair_color) * strands[grown, None]
    hat = label == HAT
    out[hat] = who.hat_color
    cloth = is_top | is_bottom
    out[cloth] *= _grain(s)[cloth, None]
    near = body().texels.near
    color = np.zeros((CHART * CHART, 3), np.uint8)
    color[near] = np.clip(out, 0, 1) * 255 + 0.5
    labels = np.zeros(CHART * CHART, np.uint8)
    labels[near] = label
    return color.reshape(CHART, CHART, 3), labels.reshape(CHART, CHART)


def _pick(s: Sites, mask: Array) -> Sites:
    return Sites(s.point[mask], s.part[mask], s.arm[mask], s.angle[mask], s.around[mask],
                 s.along[mask])  # fmt: skip


def _coat_gap(point: Array) -> Array:
    result: Array = (np.abs(point[:, 0]) < 0.03) & (point[:, 1] < -0.03)
    return result


def paint_piece(piece: Piece, who: Identity, side: int) -> Array:
    """The picture of a piece, [side, side, 3] uint8."""
    if piece.garment is not None:
        return _paint_garment(piece.garment, who)
    v, u = (g.ravel() for g in np.mgrid[0 : 1 : side * 1j, 0 : 1 : side * 1j])
    rng = np.random.default_rng([*who.seed, 6, piece.label])
    base = _fill(len(u), piece.colors[0])
    if piece.cloth in ("skirt", "tail"):
        # The same cloth as on the body chart: the spot on the axis' cylinder, same generators.
        hem = who.outfit.bottom.hem if piece.cloth == "skirt" else who.outfit.top.hem
        z = WAIST + v * (hem - WAIST)
        angle = (u - 0.5) * 2 * np.pi
        point = np.stack([0.16 * np.sin(angle), -0.03 - 0.16 * np.cos(angle), z], 1)
        sites = Sites(
            point.astype(np.float32),
            np.full(len(u), TORSO, np.uint8),
            np.zeros(len(u), np.float32),
            angle.astype(np.float32),
            (angle * 0.15).astype(np.float32),
            z.astype(np.float32),
        )
        seeds = np.random.default_rng([*who.seed, 5]).integers(0, 2**31, 2)
        if piece.cloth == "tail" or who.outfit.bottom.kind == "none":
            base = _paint_top(who.outfit.top, "", (0, 0, 0), sites, np.random.default_rng(seeds[0]))
        else:
            base = _paint_bottom(who.outfit.bottom, sites, np.random.default_rng(seeds[1]))
        base *= (1 + 0.05 * cloud(sites.around, z, 0.9, 0))[:, None]
        base *= (1 + 0.07 * np.sin(angle * 11 + 3))[:, None]
    elif piece.cloth == "hair":
        base *= (1 + 0.25 * cloud(u * 1.2, v * 0.15, 0.6, 2))[:, None]
    elif piece.cloth == "bag":
        second = np.array(piece.colors[1], np.float32)
        if rng.random() < 0.5:
            base[np.abs(v - rng.uniform(0.45, 0.75)) < rng.uniform(0.02, 0.12)] = second
        pocket = (np.abs(u - 0.5) < 0.14) & (v > 0.5) & (v < 0.8)
        base[pocket] *= rng.uniform(0.7, 1.3)
        base[np.abs(v - 0.3) < 0.012] *= 0.6
        base *= (1 + 0.05 * cloud(u, v, 0.5, 1))[:, None]
    elif piece.cloth == "umbrella":
        base *= (1 - 0.25 * (np.abs(np.sin(u * np.pi * 8)) < 0.12))[:, None]
    return (np.clip(base, 0, 1) * 255 + 0.5).astype(np.uint8).reshape(side, side, 3)


@lru_cache(maxsize=64)
def _garment_sites(garment: Garment) -> Sites:
    """What cloth is a function of, at the texels of a garment: its own point, the body's part."""
    return Sites.of(body(), garment.texels.point, body().texels.part[garment.behind])


def _paint_garment(garment: Garment, who: Identity) -> Array:
    """The picture of a garment of the closet, painted as the body behind it is."""
    s, label = _garment_sites(garment), garment.texels.part
    out = np.zeros((len(label), 3), np.float32)
    if garment.kind == "suit":
        seeds = np.random.default_rng([*who.seed, 5]).integers(0, 2**31, 2)
        bag = who.bag + ("+" if who.bag_side > 0 else "-") if who.bag == "shoulder" else who.bag
        top, bottom = label == TOP, label == BOTTOM
        out[top] = _paint_top(
            who.outfit.top, bag, who.bag_colors[0], _pick(s, top), np.random.default_rng(seeds[0])
        )
        out[bottom] = _paint_bottom(
            who.outfit.bottom, _pick(s, bottom), np.random.default_rng(seeds[1])
        )
        out *= _grain(s)[:, None]
    elif garment.kind == "shoes":
        out[:] = who.outfit.shoes[0]
        out[s.point[:, 2] < 0.025] = who.outfit.shoes[1]
    elif garment.kind == "hat":
        out[:] = who.hat_color
        out *= _grain(s)[:, None]
    else:
        out[:] = who.hair_color
        v, u = np.divmod(np.arange(len(label)), garment.side)
        out *= (1 + 0.22 * cloud(u / garment.side, v / garment.side, 0.3, 2))[:, None]
    side = garment.side
    return (np.clip(out, 0, 1) * 255 + 0.5).astype(np.uint8).reshape(side, side, 3)


def _grain(s: Sites) -> Array:
    """Brightness of woven cloth, around 1."""
    result: Array = (
        1 + 0.03 * cloud(s.around, s.along, 1.1, 0) + 0.012 * cloud(s.around, s.along, 0.7, 2)
    )
    return result
