"""Clothes, hair and things carried, as geometry.

Trousers, shirts, jackets and shoes are the body itself moved outwards: smoothed, then pushed to
where the cloth hangs.  They share the body's chart, so their place on the body texture is exact.
Skirts, coat tails and long hair are hulls of their own that come with the base mesh; bags, brims
and umbrellas are solids.  ``cover`` says, from the canonical point alone, what a spot of the
body is covered by; geometry and paint both ask it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from crosscam.synth import raster
from crosscam.synth.body import (
    ARM,
    BAG,
    BOTTOM,
    FOOT,
    HAIR,
    HAND,
    HAT,
    HEAD,
    LEG,
    SHOES,
    TOP,
    TORSO,
    Body,
    Build,
    body,
)
from crosscam.synth.closet import Closet, Garment
from crosscam.synth.identity import Color, Identity

__all__ = ["WAIST", "Piece", "Sites", "cover", "dress", "folding", "hidden_faces", "pieces",
           "texel_cover", "vertex_sites", "worn"]  # fmt: skip

Array = npt.NDArray[Any]

WAIST = 1.06
"""Canonical height of the waistline, meters (assumed): where dresses and skirts begin to hang."""

COCCYX = 0.86  # where the legs part


@dataclass(frozen=True)
class Sites:
    """Spots of the canonical body: all that clothes are a function of."""

    point: Array  # [N, 3] meters
    part: Array  # [N] 1..10
    arm: Array  # [N] 0 shoulder .. 1 wrist, where the part is an arm or hand
    angle: Array  # [N] about the axis of trunk, arm or leg; 0 front, left side positive
    around: Array  # [N] meters around that axis
    along: Array  # [N] meters along it: height, or down the sleeve

    @classmethod
    def of(cls, shared: Body, point: Array, part: Array) -> Sites:
        """Sites at canonical points whose body parts are known."""
        arm_t, _ = shared.along_limb(point, "arm")
        is_arm = (part >= ARM) & (part < LEG)
        is_leg = part >= LEG
        side = np.where(point[:, 0] >= 0, 1.0, -1.0)
        angle = np.arctan2(point[:, 0], -(point[:, 1] + 0.03))
        leg_x = side * (0.115 + (0.95 - point[:, 2]) * 0.085)
        leg_angle = np.arctan2(point[:, 0] - leg_x, -(point[:, 1] + 0.02))
        angle = np.where(is_leg, leg_angle, angle)
        arm_angle = np.arctan2(point[:, 2] - (1.43 - arm_t * 0.33), -(point[:, 1] + 0.05))
        angle = np.where(is_arm, arm_angle, angle).astype(np.float32)
        radius = np.where(is_arm, 0.05, np.where(is_leg, 0.075, 0.15))
        along = np.where(is_arm, 1.43 - 0.48 * arm_t, point[:, 2])
        return cls(
            point,
            part,
            arm_t,
            angle,
            (angle * radius).astype(np.float32),
            along.astype(np.float32),
        )


@lru_cache(maxsize=1)
def vertex_sites() -> Sites:
    """The body's vertices."""
    shared = body()
    return Sites.of(shared, shared.canonical, shared.part)


@lru_cache(maxsize=1)
def texel_sites() -> Sites:
    """The texels of the body's chart that are painted: ``body().texels.near``."""
    texels = body().texels
    return Sites.of(body(), texels.point[texels.near], texels.part[texels.near])


def scalp(sites: Sites, who: Identity) -> Array:
    """Where hair grows."""
    x, y, z = sites.point.T
    line = 1.735 + 0.012 * (who.hair_length - 0.5) * (1 if who.female else 1.6)
    if who.hair == "bald":
        rim: Array = (sites.part == HEAD) & (y > 0.0) & (z > 1.63) & (z < 1.69)
        return rim
    nape = 1.60 if who.hair in ("long", "bob") else 1.625
    front = z > line - 0.25 * np.minimum(y + 0.14, 0.0)
    sides = (y > -0.075) & (z > 1.70 - 0.35 * (y + 0.075))
    back = (y > -0.01) & (z > nape)
    around_ear = (np.abs(x) > 0.072) & (y < 0.0) & (z < 1.685)
    result: Array = (sites.part == HEAD) & (front | ((sides | back) & ~around_ear))
    return result


def hat_area(sites: Sites, who: Identity) -> Array:
    """Where a cap, beanie or sun hat sits on the head."""
    if not who.hat:
        return np.zeros(len(sites.part), bool)
    _, y, z = sites.point.T
    result: Array = (sites.part == HEAD) & (z > 1.722 - 0.18 * (y + 0.05))
    return result


def cover(sites: Sites, who: Identity) -> Array:
    """Label of what is seen at each site: the bare part 1..10, or hair, top, bottom, shoes, hat."""
    x, y, z = sites.point.T
    part, top, bottom = sites.part, who.outfit.top, who.outfit.bottom
    label = part.copy()
    arm = (part == ARM) | (part == ARM + 1)
    leg = (part == LEG) | (part == LEG + 1)
    trunk = part == TORSO
    low = bottom.hem if bottom.kind != "none" else 2.0
    if bottom.kind not in ("skirt", "none"):
        label[(trunk & (z < WAIST + 0.03)) | (leg & (z > low))] = BOTTOM
    else:
        hem = max(bottom.hem, 0.5) if bottom.kind == "skirt" else 0.75
        label[(trunk & (z < WAIST + 0.03)) | (leg & (z > hem))] = BOTTOM
    front = 1.0 / (1.0 + np.exp((y + 0.02) / 0.015))
    neckline = 1.525 - 0.05 * front - top.neck * front * np.exp(-((x / 0.06) ** 2))
    if top.kind in ("polo", "shirt", "hoodie", "jacket", "coat", "suit"):
        neckline = neckline + 0.025
    upper = np.maximum(top.hem, WAIST - 0.02) if top.kind == "coat" else top.hem
    worn = (trunk | leg | (part == HEAD)) & (z < neckline) & (z > upper)
    if top.sleeve < 0:
        worn &= ~((np.abs(x) > 0.145) & (z > 1.36)) & ~arm
    else:
        worn |= arm & (sites.arm < top.sleeve)
    label[worn] = TOP
    foot = (part == FOOT) | (part == FOOT + 1)
    boots = who.outfit.shaft > 0.2  # worn over the trousers, other shoes under them
    label[foot | (leg & (z < who.outfit.shaft) & ((label != BOTTOM) | boots))] = SHOES
    label[scalp(sites, who)] = HAIR
    label[hat_area(sites, who)] = HAT
    return label


def worn(who: Identity, closet: Closet | None) -> list[Garment]:
    """The garments of the closet that a person wears, the suit first."""
    if closet is None:
        return []
    names = (who.suit, who.footwear, who.hair_mesh, who.hat_mesh)
    return [closet.garments[name] for name in names if name]


def vertex_cover(who: Identity, garments: list[Garment]) -> Array:
    """``cover`` of the body's vertices, garments of the closet included."""
    label = cover(vertex_sites(), who)
    for garment in garments:
        _put_on(label, vertex_sites().part, garment, garment.vertex_cover)
    return label


def texel_cover(who: Identity, garments: list[Garment]) -> Array:
    """``cover`` of ``texel_sites()``, garments of the closet included."""
    label = cover(texel_sites(), who)
    for garment in garments:
        _put_on(label, texel_sites().part, garment, garment.texel_cover)
    return label


def _put_on(label: Array, part: Array, garment: Garment, own: Array) -> None:
    """Change ``label`` in place to what is seen once a garment is worn."""
    if garment.kind == "suit":  # it stands for top and bottom: what it leaves free is bare
        bare = (label == TOP) | (label == BOTTOM)
        label[bare] = part[bare]
        label[(own > 0) & (label != SHOES)] = own[(own > 0) & (label != SHOES)]
    elif garment.kind == "shoes":
        label[label == SHOES] = part[label == SHOES]
        on = (own > 0) & (label != BOTTOM)
        label[on] = own[on]
    elif garment.kind == "hat":
        on = (own > 0) & (label != part)  # over hair and crown, not down to the brow
        label[on] = own[on]


def _hang(
    points: Array, mask: Array, center: Array, angle: Array, along: Array, fall: float, limit: float
) -> None:
    """Push points of ``mask`` out to where cloth hanging from above would be, in place.

    ``center`` [V, 2] is the axis at each point (x, y); cloth comes back towards the body by
    ``fall`` meters a meter and stands off at most ``limit``.
    """
    index = np.flatnonzero(mask)
    if not len(index):
        return
    rows, columns = 40, 24
    offset = points[index, :2] - center[index]
    radius = np.linalg.norm(offset, axis=1) + 1e-6
    span = along[index]
    lo, hi = span.min(), span.max() + 1e-4
    row = np.minimum((hi - span) / (hi - lo) * rows, rows - 1).astype(np.int64)
    column = ((angle[index] / (2 * np.pi) + 0.5) * columns).astype(np.int64) % columns
    profile: Array = np.zeros((rows, columns), np.float32)
    np.maximum.at(profile, (row, column), radius)
    step = (hi - lo) / rows * fall
    for r in range(1, rows):
        profile[r] = np.maximum(profile[r], profile[r - 1] - step)
    profile = (profile + np.roll(profile, 1, 1) + np.roll(profile, -1, 1)) / 3
    wanted = np.clip(profile[row, column], radius, radius + limit)
    points[index, :2] = center[index] + offset * (wanted / radius)[:, None]


def dress(build: Build, who: Identity, garments: list[Garment], rng: np.random.Generator) -> Array:
    """The body's vertices [V, 3] moved to where skin, cloth, shoe or hair is seen.

    Under ``garments`` of the closet the body stays where it is: they bring their own surface.
    """
    shared, sites = body(), vertex_sites()
    label = vertex_cover(who, garments)
    kinds = {garment.kind for garment in garments}
    points = build.vertices.copy()
    top, bottom = who.outfit.top, who.outfit.bottom
    is_top, is_bottom = label == TOP, label == BOTTOM
    is_shoe, is_hair, is_hat = label == SHOES, label == HAIR, label == HAT
    if "suit" in kinds:
        is_top, is_bottom = np.zeros_like(is_top), np.zeros_like(is_bottom)
    if "shoes" in kinds:
        is_shoe = np.zeros_like(is_shoe)
    if "hat" in kinds:
        is_hat = np.zeros_like(is_hat)
    start, neighbor = shared.neighbors

    amount = np.zeros(len(points), np.float32)
    amount[is_top | is_bottom] = 0.5
    amount[(is_bottom) & (np.abs(sites.point[:, 0]) < 0.06)] = 0.7  # cloth spans the crotch
    raster.smooth(points, start, neighbor, amount, 4 if bottom.kind == "leggings" else 7)
    amount[:] = 0
    amount[is_shoe] = 0.6
    raster.smooth(points, start, neighbor, amount, 14)

    trunk = (sites.part == TORSO) | (sites.part >= LEG)
    center = np.zeros((len(points), 2), np.float32)
    center[:, 1] = -0.02
    loose = float(np.clip(top.ease / 0.03, 0.1, 1.5))
    _hang(
        points,
        is_top & trunk & (sites.point[:, 2] < 1.36),
        center,
        np.arctan2(sites.point[:, 0], -(sites.point[:, 1] + 0.03)),
        points[:, 2],
        0.45 - 0.28 * loose,
        0.015 + 0.04 * loose,
    )
    if bottom.kind not in ("skirt", "none", "leggings"):
        wide = float(np.clip(bottom.ease / 0.02, 0.2, 1.8))
        fall, limit = 0.16 - 0.07 * wide, 0.008 + 0.02 * wide
        for side, letter in ((1, "L"), (-1, "R")):
            a = build.heads[shared.bone["upperleg01." + letter]]
            b = build.heads[shared.bone["foot." + letter]]
            t = (points[:, 2] - a[2]) / (b[2] - a[2])
            axis = a[None, :2] + t[:, None] * (b - a)[None, :2]
            mask = is_bottom & (sites.part >= LEG) & (sites.point[:, 0] * side > 0)
            mask &= sites.point[:, 2] < COCCYX
            _hang(points, mask, axis, sites.angle, points[:, 2], fall, limit)

    normal = np.empty_like(points)
    raster.normals(points, shared.faces, normal)
    out = np.zeros(len(points), np.float32)
    sleeve = np.clip(sites.arm / max(top.sleeve, 0.2), 0, 1)
    arm = (sites.part == ARM) | (sites.part == ARM + 1)
    out[is_top] = top.ease
    flare = 0.9 if top.sleeve < 0.5 else 0.25
    out[is_top & arm] = top.ease * (0.7 + flare * sleeve[is_top & arm])
    out[is_bottom] = bottom.ease * 0.6
    out[is_shoe] = 0.008
    thickness = {"bald": 0.001, "crop": 0.006, "short": 0.022, "bun": 0.010}.get(who.hair, 0.016)
    if "hair" in kinds:
        thickness = 0.002
    out[is_hair] = thickness * (0.7 + 0.6 * who.hair_length)
    out[is_hat] = 0.022 if who.hat != "sunhat" else 0.035
    if is_hair.any():
        h = sites.point[is_hair]
        out[is_hair] += 0.003 * np.sin(h @ np.array([160, 130, 140]) + rng.uniform(0, 2 * np.pi))
    if top.kind == "hoodie" and "suit" not in kinds:  # the hood rests on the back
        q = sites.point
        hood = np.exp(-(((q[:, 2] - 1.50) / 0.06) ** 2) - (q[:, 0] / 0.10) ** 2) * (q[:, 1] > 0)
        out += (0.05 * hood * is_top).astype(np.float32)
    points += normal * out[:, None]
    sole = is_shoe & (sites.point[:, 2] < 0.04)
    points[sole, 2] -= 0.008
    return points


def folding(who: Identity, garments: list[Garment]) -> Array:
    """How deep the folds of the cloth are at each vertex of the body, [V] meters (deviation)."""
    label = vertex_cover(who, garments)
    if any(garment.kind == "suit" for garment in garments):
        return np.zeros(len(label), np.float32)
    top, bottom = who.outfit.top, who.outfit.bottom
    out = np.zeros(len(label), np.float32)
    out[label == TOP] = 0.0018 + 0.10 * min(top.ease, 0.03)
    out[label == BOTTOM] = 0.0015 + 0.10 * min(bottom.ease, 0.02)
    return out


@dataclass(frozen=True)
class Piece:
    """A mesh beside the body, at rest on one person, with a square picture of its own."""

    points: Array  # [V, 3]
    faces: Array  # [F, 3]
    uv: Array  # [V, 2] in 0..1, row down
    bone: Array  # [V, 4]
    weight: Array  # [V, 4]
    label: int  # of a part: what its texels count as
    cloth: str  # which paint: skirt tail hair bag umbrella brim thing
    colors: tuple[Color, ...]
    garment: Garment | None = None  # of the closet, which then says what its texels show


def _rigid(count: int, bone: int) -> tuple[Array, Array]:
    weight = np.zeros((count, 4), np.float32)
    weight[:, 0] = 1
    return np.full((count, 4), bone, np.int32), weight


def _solid(
    center: Array, half: tuple[float, float, float], power: float, n: int = 5
) -> tuple[Array, Array, Array]:
    """A super-ellipsoid: box-like for small ``power``, an ellipsoid for 1."""
    theta = np.linspace(0, math.pi, n + 2)
    phi = np.linspace(0, 2 * math.pi, 2 * n + 3)
    t, p = (g.ravel() for g in np.meshgrid(theta, phi, indexing="ij"))
    q = np.stack([np.sin(t) * np.sin(p), -np.sin(t) * np.cos(p), np.cos(t)], 1)
    q = np.sign(q) * np.abs(q) ** power
    uv = np.stack([p / (2 * math.pi), t / math.pi], 1)
    return (
        (center + q * np.array(half)).astype(np.float32),
        _grid_faces(len(theta), len(phi)),
        uv.astype(np.float32),
    )


def _grid_faces(rows: int, columns: int) -> Array:
    r, c = np.meshgrid(np.arange(rows - 1), np.arange(columns - 1), indexing="ij")
    a = (r * columns + c).ravel()
    lower = np.stack([a, a + columns, a + 1], 1)
    upper = np.stack([a + 1, a + columns, a + columns + 1], 1)
    return np.concatenate([lower, upper]).astype(np.int32)


def _skirt(build: Build, who: Identity, hem: float, flare: float, ease: float, tail: bool) -> Piece:
    """Skirt, dress or coat below the waist: rings about the trunk, from waist down to the hem."""
    shared = body()
    rows, columns = 12, 29
    top_z = WAIST + 0.01 if not tail else WAIST
    # Radii of the helper hull of the base mesh, read once in the canonical frame, give the shape
    # of hips; the person's own hull scales them.
    hull = np.unique(shared.helper_skirt)
    canonical, own = shared.canonical[hull], build.vertices[hull]
    heights = np.linspace(top_z, hem, rows)
    scale = own[:, 2].max() / canonical[:, 2].max()
    center = np.array([0.0, -0.015])
    offset = own[:, :2] - center
    radius = np.linalg.norm(offset, axis=1)
    angle = np.arctan2(offset[:, 0], -offset[:, 1])
    columns_angle = np.linspace(-math.pi, math.pi, columns)
    points = np.zeros((rows, columns, 3), np.float32)
    previous = np.zeros(columns)
    for r, z in enumerate(heights):
        close = np.abs(canonical[:, 2] - max(z, 0.55)) < 0.045
        a, d = angle[close], radius[close]
        order = np.argsort(a)
        a, d = a[order], d[order]
        ring = np.interp(columns_angle, np.r_[a - 2 * math.pi, a, a + 2 * math.pi], np.r_[d, d, d])
        ring = (ring + np.roll(ring[:-1], 1)[np.r_[0 : columns - 1, 0]]) / 2
        if z < COCCYX:
            ring = np.minimum(ring, previous + 0.004)
            ring = np.maximum(ring, previous - 0.012 * (1 if flare < 0.05 else 0.2))
        ring = np.maximum(ring, previous - 0.02)
        previous = ring
        out = ring + ease + flare * max(0.0, 0.92 - z) * 0.5
        pleats = 1 + (0.035 * min(flare * 3, 1)) * np.sin(columns_angle * 11) * r / rows
        points[r, :, 0] = center[0] + np.sin(columns_angle) * out * pleats
        points[r, :, 1] = center[1] - np.cos(columns_angle) * out * pleats
        points[r, :, 2] = z * scale
    points[:, -1] = points[:, 0]
    flat = points.reshape(-1, 3)
    z = np.repeat(heights, columns)
    left = np.clip(0.5 + flat[:, 0] / 0.16, 0, 1)
    left = left * left * (3 - 2 * left)
    legs = np.clip((0.99 - z) / 0.30, 0, 0.9)
    below = np.clip((0.52 - z) / 0.35, 0, 0.55) * legs
    bone = np.zeros((len(flat), 4), np.int32)
    names = ("spine05", "upperleg02.L", "upperleg02.R", "lowerleg01.L")
    for k, name in enumerate(names):
        bone[:, k] = shared.bone[name]
    right = flat[:, 0] < 0
    bone[right, 3] = shared.bone["lowerleg01.R"]
    upper = legs - below
    weight = np.stack([1 - legs, upper * left, upper * (1 - left), below], 1)
    u, v = np.meshgrid(np.linspace(0, 1, columns), np.linspace(0, 1, rows))
    faces = _grid_faces(rows, columns)
    if tail:  # a coat is open at the front, below the waist
        middle = points.reshape(-1, 3)[faces].mean(1)
        faces = faces[~((np.abs(middle[:, 0]) < 0.03) & (middle[:, 1] < 0))]
    outfit = who.outfit
    colors = outfit.top.colors[:2] if tail else outfit.bottom.colors
    return Piece(
        flat,
        faces,
        np.stack([u.ravel(), v.ravel()], 1).astype(np.float32),
        bone,
        weight.astype(np.float32),
        TOP if tail or who.outfit.bottom.kind == "none" else BOTTOM,
        "tail" if tail else "skirt",
        colors,
    )


def _long_hair(build: Build, who: Identity) -> Piece:
    """Hair that falls: the helper hull of the base mesh, cut at its length and open at the face."""
    shared = body()
    used = np.unique(shared.helper_hair)
    new = np.full(shared.count, -1, np.int32)
    new[used] = np.arange(len(used))
    canonical = shared.canonical[used]
    low = 1.50 + 0.04 * who.hair_length if who.hair == "bob" else 1.40 - 0.2 * who.hair_length
    faces = new[shared.helper_hair]
    middle = canonical[faces].mean(1)
    face_hole = (middle[:, 1] < -0.055) & (middle[:, 2] < 1.745)
    shoulder = (np.abs(middle[:, 0]) > 0.10) & (middle[:, 2] < 1.45)
    faces = faces[(middle[:, 2] > low - 0.02) & ~face_hole & ~shoulder]
    points = build.vertices[used].copy()
    scale = build.vertices[used, 2].max() / canonical[:, 2].max()
    points[:, 2] = np.maximum(points[:, 2], low * scale)
    middle_head = build.heads[shared.bone["head"]]
    grow = 1.0 - 0.02 * (1 - who.hair_length)
    points[:, :2] = middle_head[:2] + (points[:, :2] - middle_head[:2]) * grow
    angle = np.arctan2(canonical[:, 0], -(canonical[:, 1] + 0.04))
    uv = np.stack([angle / (2 * math.pi) + 0.5, (1.80 - canonical[:, 2]) / 0.68], 1)
    seam = np.ptp(uv[faces][..., 0], axis=1) > 0.5
    faces = np.concatenate([faces[~seam], faces[seam]])
    bone = np.zeros((len(points), 4), np.int32)
    bone[:, 0], bone[:, 1] = shared.bone["head"], shared.bone["spine01"]
    free = np.clip((1.58 - canonical[:, 2]) / 0.15, 0, 0.8)
    weight = np.zeros((len(points), 4), np.float32)
    weight[:, 0], weight[:, 1] = 1 - free, free
    return Piece(
        points, faces, np.clip(uv, 0, 1).astype(np.float32), bone, weight, HAIR, "hair",
        (who.hair_color,),
    )  # fmt: skip


def pieces(build: Build, clothed: Array, who: Identity, garments: list[Garment]) -> list[Piece]:
    """All meshes beside the body, ``clothed`` [V, 3] being the dressed body at rest."""
    shared, sites = body(), vertex_sites()
    kinds = {garment.kind for garment in garments}
    at = {name: build.heads[i] for name, i in shared.bone.items()}
    result: list[Piece] = []

    def add(solid: tuple[Array, Array, Array], bone: int, label: int, cloth: str,
            colors: tuple[Color, ...]) -> None:  # fmt: skip
        points, faces, uv = solid
        result.append(Piece(points, faces, uv, *_rigid(len(points), bone), label, cloth, colors))

    for g in garments:
        uv = np.stack([g.uv[:, 0] % 1.0, 1 - g.uv[:, 1] % 1.0], 1).astype(np.float32)
        result.append(Piece(g.fit(build), g.faces, uv, g.bone, g.weight, int(g.label[0]), g.kind,
                            (who.hair_color,), g))  # fmt: skip
    top, bottom = who.outfit.top, who.outfit.bottom
    if bottom.kind in ("skirt", "none") and "suit" not in kinds:
        result.append(_skirt(build, who, bottom.hem, bottom.flare, 0.012, tail=False))
    elif top.kind == "coat":
        result.append(_skirt(build, who, top.hem, 0.25, top.ease, tail=True))
    head = shared.bone["head"]
    crown = clothed[sites.part == HEAD]
    back_of_head = float(crown[:, 1].max())
    height = float(crown[:, 2].max())
    if "hair" in kinds:
        pass
    elif who.hair in ("long", "bob"):
        result.append(_long_hair(build, who))
    elif who.hair == "ponytail":
        length = 0.09 + 0.10 * who.hair_length
        center = np.array([0, back_of_head + 0.015, height - 0.10 - 0.8 * length])
        add(_solid(center, (0.03, 0.028, length), 0.9), head, HAIR, "hair", (who.hair_color,))
    elif who.hair == "bun":
        center = np.array([0, back_of_head + 0.01, height - 0.04 - 0.08 * who.hair_length])
        add(_solid(center, (0.045, 0.04, 0.04), 1.0), head, HAIR, "hair", (who.hair_color,))
    if who.hat and "hat" not in kinds:
        middle = float(np.median(crown[:, 1])) - 0.01
        if who.hat == "cap":
            center = np.array([0, float(crown[:, 1].min()) - 0.02, height - 0.085])
            add(_solid(center, (0.075, 0.075, 0.008), 0.9), head, HAT, "brim", (who.hat_color,))
        elif who.hat == "sunhat":
            center = np.array([0, middle, height - 0.095])
            add(_solid(center, (0.19, 0.20, 0.012), 1.0), head, HAT, "brim", (who.hat_color,))
    trunk = sites.part == TORSO
    z = sites.point[:, 2]
    colors, size, side = who.bag_colors, who.bag_size, who.bag_side
    letter = "L" if side > 0 else "R"
    hand = at["metacarpal3." + letter]
    hanging = len(shared.bone_names) + (0 if side > 0 else 1)
    if who.bag == "backpack":
        back = trunk & (np.abs(sites.point[:, 0]) < 0.1) & (z > 1.15) & (z < 1.40)
        y = float(clothed[back, 1].max()) + 0.06 * size
        center = np.array([0, y, float(at["spine02"][2]) - 0.0])
        half = (0.150 * size, 0.085 * size, 0.215 * size)
        add(_solid(center, half, 0.45, 6), shared.bone["spine02"], BAG, "bag", colors)
    elif who.bag == "shoulder":
        hip = trunk & (np.abs(z - 1.0) < 0.05)
        x = float(np.abs(clothed[hip, 0]).max()) + 0.04
        center = np.array([side * x, 0.0, float(at["spine05"][2]) - 0.02])
        half = (0.045, 0.14 * size, 0.12 * size)
        add(_solid(center, half, 0.4), shared.bone["spine05"], BAG, "bag", colors)
    elif who.bag in ("handbag", "tote"):
        tall = 0.11 if who.bag == "handbag" else 0.17
        center = hand + np.array([0, 0, -0.07 - tall * size])
        half = (0.05, 0.13 * size, tall * size)
        add(_solid(center, half, 0.5), hanging, BAG, "bag", colors)
    elif who.bag == "suitcase":
        center = np.array([hand[0], hand[1] + 0.22, 0.31])
        add(_solid(center, (0.11, 0.17, 0.30), 0.35), hanging, BAG, "bag", colors)
    if who.umbrella is not None:
        fist = at["metacarpal3.R"]
        center = fist + np.array([0.12, 0.05, 0.62])
        rows, columns = 5, 17
        t, p = np.meshgrid(np.linspace(0, 1, rows), np.linspace(-math.pi, math.pi, columns),
                           indexing="ij")  # fmt: skip
        r = 0.52 * np.sin(t * 1.35) / math.sin(1.35)
        dome = np.stack([r * np.sin(p), -r * np.cos(p), 0.24 * np.cos(t * 1.5) - 0.05], -1)
        uv = np.stack([p / (2 * math.pi) + 0.5, t], -1).reshape(-1, 2).astype(np.float32)
        points = (center + dome.reshape(-1, 3)).astype(np.float32)
        up = len(shared.bone_names) + 1
        add((points, _grid_faces(rows, columns), uv), up, BAG, "umbrella", (who.umbrella,))
        add(_solid(fist + np.array([0.06, 0.02, 0.36]), (0.012, 0.012, 0.38), 0.8, 3), up, BAG,
            "thing", ((0.2, 0.2, 0.2),))  # fmt: skip
    return result


def hidden_faces(who: Identity, garments: list[Garment]) -> Array:
    """Which body faces [F] cannot be seen: what a skirt or a garment of the closet encloses."""
    shared, sites = body(), vertex_sites()
    inside = np.zeros(shared.count, bool)
    for garment in garments:
        inside |= garment.hidden
    bottom = who.outfit.bottom
    if bottom.kind in ("skirt", "none") and not who.suit:
        z = sites.point[:, 2]
        hand = (sites.part >= ARM) & (sites.part < HAND + 2)
        inside |= (z > bottom.hem + 0.05) & (z < WAIST - 0.06) & ~hand
    result: Array = inside[shared.faces].all(1)
    return result
