"""A person ready to be posed: one mesh, one atlas.

The atlas is [512, 768]: the body chart (512 x 512) at the left, and two columns of four squares
of 128 for skirt, hair and things carried; who wears a suit of an asset folder has another two
columns, with the suit's picture (256 x 256) in them.  Beside its colors it holds, per texel, the
part label and the *place*: (part 1..10, u, v) of the body texel it stands for, u and v being
column and row of the written 256 x 256 texture.  Bags, brims and umbrellas have no place on the
body: (0, 0, 0).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from crosscam.synth import raster
from crosscam.synth.body import BAG, CHART, HAT, HEAD, LEG, TORSO, Build, body
from crosscam.synth.closet import Closet
from crosscam.synth.identity import Identity
from crosscam.synth.paint import paint_body, paint_piece
from crosscam.synth.wardrobe import (
    WAIST,
    Piece,
    Sites,
    dress,
    folding,
    hidden_faces,
    pieces,
    vertex_sites,
    worn,
)

__all__ = ["TEXTURE", "Person", "make_person", "texture_mask"]

Array = npt.NDArray[Any]

SQUARE = 128
COLUMNS = CHART + 2 * SQUARE
TEXTURE = 256
"""Side of a written texture, and the range of u and v in an IUV map."""


@dataclass(frozen=True)
class Person:
    """Everything the renderer needs of one identity (about 4 MB)."""

    who: Identity
    build: Build
    points: Array  # [V, 3] at rest, dressed
    normal: Array  # [V, 3] of the same
    fold: Array  # [V] depth of folds, meters
    cloth: Array  # the vertices whose fold is not 0
    weave: Array  # [V, 2] spot on the cloth: meters around the limb, and along it
    faces: Array  # [F, 3]
    face_uv: Array  # [F, 3]
    uv: Array  # [U, 2] texels of the atlas
    bone: Array  # [V, 4]
    weight: Array  # [V, 4]
    atlas: Array  # [CHART, COLUMNS, 3] uint8
    labels: Array  # [CHART, COLUMNS] uint8
    places: Array  # [CHART, COLUMNS, 3] uint8
    box_points: Array  # vertices a detector's box is drawn around (umbrellas are left out)

    def texture(self) -> tuple[Array, Array]:
        """(color [TEXTURE, TEXTURE, 3] uint8, ``texture_mask()``) of the body."""
        chart = self.atlas[:, :CHART].astype(np.uint16)
        step = CHART // TEXTURE
        total = np.zeros((TEXTURE, TEXTURE, 3), np.uint16)
        for i in range(step):
            for j in range(step):
                total += chart[i::step, j::step]
        return (total // step**2).astype(np.uint8), texture_mask()


def texture_mask() -> Array:
    """Which texels of a written texture show the body, [TEXTURE, TEXTURE] bool."""
    valid = body().texels.valid
    step = CHART // TEXTURE
    result: Array = valid[::step, ::step] & valid[step - 1 :: step, step - 1 :: step]
    return result


@lru_cache(maxsize=1)
def _body_places() -> Array:
    """Place of each texel of the body chart, [CHART, CHART, 3] uint8."""
    texels = body().texels
    row, column = np.mgrid[0:CHART, 0:CHART]
    half = CHART // TEXTURE
    return np.stack([texels.part.reshape(CHART, CHART), column // half, row // half], -1).astype(
        np.uint8
    )


_CELLS = (72, 64)  # around, along


@lru_cache(maxsize=2)
def _hull_places(which: str) -> tuple[Array, float, float]:
    """Body places behind a hull, [along, around, 3], with the heights of first and last row."""
    shared = body()
    texels = shared.texels
    if which == "hair":
        parts, top, low, radius = [HEAD], 1.80, 1.12, 0.12
        center = np.array([0, -0.04])
    else:
        parts, top, low, radius = [TORSO, LEG, LEG + 1], WAIST, 0.2, 0.2
        center = np.array([0, -0.03])
    flat_valid = texels.valid.ravel()
    candidates = np.flatnonzero(flat_valid & np.isin(texels.part, parts))
    candidates = candidates[:: 3 if which == "hair" else 7]
    points = texels.point[candidates]
    around, along = _CELLS
    angle = (np.arange(around) + 0.5) / around * 2 * np.pi - np.pi
    heights = top + (np.arange(along) + 0.5) / along * (low - top)
    places = _body_places().reshape(-1, 3)
    out = np.zeros((along, around, 3), np.uint8)
    for r, z in enumerate(heights):
        ring = np.stack(
            [center[0] + radius * np.sin(angle), center[1] - radius * np.cos(angle),
             np.full(around, z)], 1
        )  # fmt: skip
        square = ((ring[:, None] - points[None]) ** 2).sum(-1)
        out[r] = places[candidates[square.argmin(1)]]
    return out, top, low


def _piece_places(piece: Piece, who: Identity) -> Array:
    out = np.zeros((SQUARE, SQUARE, 3), np.uint8)
    if piece.garment is not None:
        side = piece.garment.side
        behind = _body_places().reshape(-1, 3)[piece.garment.behind]
        return behind.reshape(side, side, 3)
    if piece.label in (BAG, HAT):
        return out
    v, u = np.mgrid[0 : 1 : SQUARE * 1j, 0 : 1 : SQUARE * 1j]
    if piece.cloth == "hair":
        table, top, low = _hull_places("hair")
        z = 1.80 - 0.68 * v
    else:
        table, top, low = _hull_places("skirt")
        hem = who.outfit.bottom.hem if piece.cloth == "skirt" else who.outfit.top.hem
        z = WAIST + v * (hem - WAIST)
    row = np.clip((z - top) / (low - top) * table.shape[0], 0, table.shape[0] - 1).astype(int)
    column = np.clip(u * table.shape[1], 0, table.shape[1] - 1).astype(int)
    result: Array = table[row, column]
    return result


def make_person(who: Identity, closet: Closet | None = None) -> Person:
    """Build mesh and atlas of an identity (about 60 ms); ``closet``: the one it was drawn with."""
    shared = body()
    a, b = shared.coefficients[who.row], shared.coefficients[who.row2]
    build = shared.build(a * (1 - who.mix) + b * who.mix)
    rng = np.random.default_rng([*who.seed, 7])
    garments = worn(who, closet)
    clothed = dress(build, who, garments, rng)
    chart, label = paint_body(who, garments)
    columns = COLUMNS + 2 * SQUARE * bool(who.suit)
    atlas = np.zeros((CHART, columns, 3), np.uint8)
    labels = np.zeros((CHART, columns), np.uint8)
    places = np.zeros((CHART, columns, 3), np.uint8)
    atlas[:, :CHART], labels[:, :CHART], places[:, :CHART] = chart, label, _body_places()

    keep = ~hidden_faces(who, garments)
    points, bone, weight = [clothed], [shared.skin_bone], [shared.skin_weight]
    faces, face_uv, uv = [shared.faces[keep]], [shared.face_uv[keep]], [shared.uv]
    boxed = [np.unique(shared.faces)]
    sites = vertex_sites()
    fold, weave = [folding(who, garments)], [np.stack([sites.around, sites.along], 1)]
    vertex_count, uv_count = len(clothed), len(shared.uv)
    small = 0
    for piece in pieces(build, clothed, who, garments):
        side = SQUARE if piece.garment is None else piece.garment.side
        if side == SQUARE:
            y, x = (small // 2) * SQUARE, CHART + (small % 2) * SQUARE
            small += 1
        else:
            y, x = 0, COLUMNS
        cell = np.s_[y : y + side, x : x + side]
        atlas[cell] = paint_piece(piece, who, side)
        labels[cell] = piece.label
        if piece.garment is not None:
            labels[cell] = piece.garment.texels.part.reshape(side, side)
        places[cell] = _piece_places(piece, who)
        points.append(piece.points)
        bone.append(piece.bone)
        weight.append(piece.weight)
        faces.append(piece.faces + vertex_count)
        face_uv.append(piece.faces + uv_count)
        if piece.garment is not None and piece.garment.kind == "suit":
            spot = Sites.of(shared, piece.garment.canonical, piece.garment.part)
            fold.append(np.full(len(piece.points), 0.003))
            weave.append(np.stack([spot.around, spot.along], 1))
        else:
            # On a hanging hull folds run down: three times as many around as along.
            fold.append(np.full(len(piece.points), 0.004 * (piece.cloth in ("skirt", "tail"))))
            weave.append(np.stack([3 * (piece.uv[:, 0] - 0.5), 0.3 * piece.points[:, 2]], 1))
        inset = 1 if piece.garment is None else 0
        uv.append(piece.uv * (side - 2 * inset) + inset + np.array([x, y]))
        if piece.cloth not in ("umbrella", "thing"):
            boxed.append(np.arange(len(piece.points)) + vertex_count)
        vertex_count += len(piece.points)
        uv_count += len(piece.uv)
    all_points = np.concatenate(points).astype(np.float32)
    all_faces = np.concatenate(faces).astype(np.int32)
    normal = np.empty_like(all_points)
    raster.normals(all_points, all_faces, normal)
    folds = np.concatenate(fold).astype(np.float32)
    return Person(
        who,
        build,
        all_points,
        normal,
        folds,
        np.flatnonzero(folds),
        np.concatenate(weave).astype(np.float32),
        all_faces,
        np.concatenate(face_uv).astype(np.int32),
        np.concatenate(uv).astype(np.float32),
        np.concatenate(bone).astype(np.int32),
        np.concatenate(weight).astype(np.float32),
        atlas,
        labels,
        places,
        np.concatenate(boxed),
    )
