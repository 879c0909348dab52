"""A person ready to be posed: one mesh, one atlas.

The atlas is [512, 768]: the body chart (512 x 512) at the left, and two columns of four squares
of 128 for skirt, hair and things carried.  Beside its colors it holds, per texel, the part label
and the *place*: (part 1..10, u, v) of the body texel it stands for, u and v being column and row
of the written 256 x 256 texture.  Bags, brims and umbrellas have no place on the body: (0, 0, 0).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from crosscam.synth.body import BAG, CHART, HAIR, HAT, HEAD, LEG, TORSO, Build, body
from crosscam.synth.identity import Identity
from crosscam.synth.paint import paint_body, paint_piece
from crosscam.synth.wardrobe import WAIST, Piece, dress, hidden_faces, pieces

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


def make_person(who: Identity) -> Person:
    """Build mesh and atlas of an identity (about 60 ms)."""
    shared = body()
    a, b = shared.coefficients[who.row], shared.coefficients[who.row2]
    build = shared.build(a * (1 - who.mix) + b * who.mix)
    rng = np.random.default_rng([*who.seed, 7])
    clothed = dress(build, who, rng)
    chart, label = paint_body(who)
    atlas = np.zeros((CHART, COLUMNS, 3), np.uint8)
    labels = np.zeros((CHART, COLUMNS), np.uint8)
    places = np.zeros((CHART, COLUMNS, 3), np.uint8)
    atlas[:, :CHART], labels[:, :CHART], places[:, :CHART] = chart, label, _body_places()

    keep = ~hidden_faces(who)
    points, bone, weight = [clothed], [shared.skin_bone], [shared.skin_weight]
    faces, face_uv, uv = [shared.faces[keep]], [shared.face_uv[keep]], [shared.uv]
    boxed = [np.unique(shared.faces)]
    vertex_count, uv_count = len(clothed), len(shared.uv)
    for k, piece in enumerate(pieces(build, clothed, who)[:8]):
        y, x = (k // 2) * SQUARE, CHART + (k % 2) * SQUARE
        cell = np.s_[y : y + SQUARE, x : x + SQUARE]
        atlas[cell] = paint_piece(piece, who, SQUARE)
        labels[cell] = piece.label
        places[cell] = _piece_places(piece, who)
        points.append(piece.points)
        bone.append(piece.bone)
        weight.append(piece.weight)
        faces.append(piece.faces + vertex_count)
        face_uv.append(piece.faces + uv_count)
        uv.append(piece.uv * (SQUARE - 2) + 1 + np.array([x, y]))
        if piece.label in (HAIR, HAT) or piece.cloth in ("skirt", "tail", "bag"):
            boxed.append(np.arange(len(piece.points)) + vertex_count)
        vertex_count += len(piece.points)
        uv_count += len(piece.uv)
    return Person(
        who,
        build,
        np.concatenate(points).astype(np.float32),
        np.concatenate(faces).astype(np.int32),
        np.concatenate(face_uv).astype(np.int32),
        np.concatenate(uv).astype(np.float32),
        np.concatenate(bone).astype(np.int32),
        np.concatenate(weight).astype(np.float32),
        atlas,
        labels,
        places,
        np.concatenate(boxed),
    )
