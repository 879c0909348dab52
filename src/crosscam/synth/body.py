"""The human body: shape, skeleton, skinning, joints, and the chart every texture lives on.

The shipped ``assets/body.npz`` (made by ``prepare``, CC0 data) holds a mean body, 24 shape
components and a thousand bodies in them.  Frame of a body at rest: meters, z up, the ground at
z = 0, y towards the back, +x the person's left, arms about 45 degrees from the vertical.

*Canonical* means: on the mean body at rest.  Clothes are painted as functions of the canonical
point, so a stripe crosses a chart's seam unbroken and every person wears it at the same place.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from crosscam.errors import DataError
from crosscam.synth import raster
from crosscam.types import COCO17

__all__ = ["CHART", "Body", "Build", "body", "joint_points", "pose_bones"]

Array = npt.NDArray[Any]

CHART = 512
"""Side of the body chart while painting, texels; textures are written at half of it."""

HEAD, TORSO, ARM, HAND, LEG, FOOT = 1, 2, 3, 5, 7, 9  # + 1 for the right side
HAIR, TOP, BOTTOM, SHOES, BAG, HAT = 11, 12, 13, 14, 15, 16

_JOINT_BONES = ("upperarm01", "lowerarm01", "wrist", "upperleg01", "lowerleg01", "foot")


def _part_of_bone(name: str) -> int:
    right = int(name.endswith(".R"))
    if name.startswith(("head", "eye", "neck")):
        return HEAD
    if name.startswith(("upperarm", "lowerarm")):
        return ARM + right
    if name.startswith(("wrist", "finger", "metacarpal")):
        return HAND + right
    if name.startswith(("upperleg", "lowerleg")):
        return LEG + right
    if name.startswith(("foot", "toe")):
        return FOOT + right
    return TORSO


@dataclass(frozen=True)
class Build:
    """The naked shape of one person: where vertices and bone heads are at rest."""

    vertices: Array  # [V, 3] float32 meters
    heads: Array  # [J, 3] float32 meters


@dataclass(frozen=True)
class Texels:
    """What the texels of a chart show; texels off the chart repeat their nearest neighbor."""

    valid: Array  # [R, R] bool: on the chart
    near: Array  # [R * R] bool: on the chart or beside it; the others are never read
    point: Array  # [R * R, 3] canonical point
    part: Array  # [R * R] 1..10
    vertex: Array  # [R * R] the nearest vertex


class Body:
    """What all people share.  One instance a process: see ``body()``."""

    def __init__(self, path: Path) -> None:
        if not path.is_file():
            raise DataError(
                f"the body {path} is missing from this installation. Reinstall crosscam, or "
                "remake it: pip install 'crosscam[synth]' and python -m crosscam.synth.prepare"
            )
        with np.load(path, allow_pickle=False) as data:
            count = int(data["vertex_count"])
            self._mean = data["mean"]
            self._basis = data["basis"].astype(np.float32)
            self.coefficients = data["coefficients"].astype(np.float32)  # [M, C]
            names = [str(n) for n in data["trait_names"]]
            table = data["traits"].astype(np.float32)
            self.traits = {n: table[:, i] for i, n in enumerate(names)}  # name -> [M]
            self.faces = data["faces"].astype(np.int32)  # [F, 3]
            self.face_uv = data["face_uv"].astype(np.int32)  # [F, 3]
            uv = data["uv"].astype(np.float32) / 65535
            self.bone_names = [str(n) for n in data["bone_names"]]
            self.parents = data["bone_parents"].astype(np.int64)
            self.skin_bone = data["skin_bone"].astype(np.int32)  # [V, 4]
            self.skin_weight = data["skin_weight"].astype(np.float32)
            self.helper_skirt = data["helper_skirt"].astype(np.int32)
            self.helper_hair = data["helper_hair"].astype(np.int32)
        self.skin_weight /= self.skin_weight.sum(1, keepdims=True)
        self.uv = np.stack([uv[:, 0], 1 - uv[:, 1]], 1) * CHART  # [U, 2] texels, row down
        self.count = count
        self.canonical: Array = self._mean[:count]  # [V, 3]
        self.canonical_heads: Array = self._mean[count:]  # [J, 3]
        self.bone = {n: i for i, n in enumerate(self.bone_names)}
        part = np.array([_part_of_bone(n) for n in self.bone_names], np.uint8)
        self.part: Array = part[self.skin_bone[np.arange(count), self.skin_weight.argmax(1)]]
        self.used = np.unique(self.faces)

    def build(self, coefficients: Array) -> Build:
        """The body with these shape coefficients, [C]."""
        points = self._mean + np.tensordot(coefficients.astype(np.float32), self._basis, 1)
        points = points.astype(np.float32)
        return Build(points[: self.count], points[self.count :])

    @cached_property
    def neighbors(self) -> tuple[Array, Array]:
        """Vertex neighbors as (start [V + 1], neighbor [E])."""
        f = self.faces
        edges = np.concatenate([f[:, [0, 1]], f[:, [1, 2]], f[:, [2, 0]]])
        edges = np.unique(np.concatenate([edges, edges[:, ::-1]]), axis=0)
        start = np.searchsorted(edges[:, 0], np.arange(self.count + 1))
        return start.astype(np.int32), edges[:, 1].astype(np.int32)

    @cached_property
    def texels(self) -> Texels:
        """What each texel of the body's chart shows."""
        return chart_texels(
            self.uv, self.face_uv, self.faces, self.canonical, self.part, CHART, grow=6
        )

    def along_limb(self, points: Array, kind: str) -> tuple[Array, Array]:
        """(t, r): 0 at the root of the canonical arm or leg to 1 at wrist or ankle, distance.

        ``kind`` is "arm" or "leg"; the side is that of the point.
        """
        first, last = ("upperarm01", "wrist") if kind == "arm" else ("upperleg01", "foot")
        t = np.empty(len(points), np.float32)
        r = np.empty(len(points), np.float32)
        for side, mask in ((".L", points[:, 0] >= 0), (".R", points[:, 0] < 0)):
            a = self.canonical_heads[self.bone[first + side]]
            b = self.canonical_heads[self.bone[last + side]]
            p = points[mask] - a
            t[mask] = p @ (b - a) / ((b - a) @ (b - a))
            r[mask] = np.linalg.norm(p - t[mask, None] * (b - a), axis=1)
        return t, r

    @cached_property
    def face_marks(self) -> Mapping[str, int]:
        """Vertices that stand for nose and ears."""
        points, head = self.canonical, self.part == HEAD
        eye = self.canonical_heads[self.bone["eye.L"]][2]
        used = np.zeros(self.count, bool)
        used[self.used] = True
        level = head & used & (np.abs(points[:, 2] - (eye - 0.035)) < 0.03)
        index = np.flatnonzero(level)
        return {
            "nose": int(index[points[index, 1].argmin()]),
            "left ear": int(index[points[index, 0].argmax()]),
            "right ear": int(index[points[index, 0].argmin()]),
        }


def chart_texels(
    uv: Array, face_uv: Array, faces: Array, points: Array, part: Array, side: int, grow: int
) -> Texels:
    """Rasterize a chart ``uv`` [U, 2] (texels) and read off point and part of each texel.

    Texels off the chart take over a neighbor's, ``grow`` rounds far, so that bilinear reads and
    halved textures find no seam.
    """
    flat = np.concatenate([uv, np.ones((len(uv), 1), np.float32)], 1).astype(np.float32)
    face = np.full((side, side), -1, np.int32)
    bary = np.zeros((side, side, 2), np.float32)
    depth = np.full((side, side), raster.FAR, np.float32)
    raster.rasterize(flat, face_uv, face, bary, depth)
    valid = face >= 0
    for _ in range(grow):
        known = face >= 0
        for shift, axis in ((1, 0), (-1, 0), (1, 1), (-1, 1)):
            take = ~known & np.roll(known, shift, axis)
            face[take] = np.roll(face, shift, axis)[take]
            bary[take] = np.roll(bary, shift, axis)[take]
            known |= take
    near = (face >= 0).ravel()
    face[face < 0] = 0
    corners = faces[face.ravel()]
    w = bary.reshape(-1, 2)
    weights = np.stack([1 - w.sum(1), w[:, 0], w[:, 1]], 1)
    nearest = corners[np.arange(len(corners)), weights.argmax(1)]
    point = np.einsum("nk,nkd->nd", weights, points[corners]).astype(np.float32)
    return Texels(valid, near, point, part[nearest], nearest)


@lru_cache(maxsize=1)
def body() -> Body:
    """The shipped body, loaded once a process (30 MB)."""
    return Body(Path(__file__).parent / "assets" / "body.npz")


def pose_bones(turns: Mapping[str, Array], heads: Array) -> tuple[Array, Array]:
    """Bone rotations about their heads -> (turn [J + 2, 3, 3], shift [J + 2, 3]) for skinning.

    A vertex p at rest on bone b goes to ``turn[b] p + shift[b]``.  The two extra bones move with
    the left and right hand but do not turn: what hangs from a hand hangs down.
    """
    shared = body()
    n = len(shared.bone_names)
    turn = np.empty((n + 2, 3, 3), np.float32)
    shift = np.zeros((n + 2, 3), np.float32)
    identity = np.eye(3, dtype=np.float32)
    for i, name in enumerate(shared.bone_names):
        p = shared.parents[i]
        up, at = (identity, np.zeros(3, np.float32)) if p < 0 else (turn[p], shift[p])
        own = turns.get(name)
        if own is None:
            turn[i], shift[i] = up, at
        else:
            turn[i] = up @ own
            shift[i] = up @ (heads[i] - own @ heads[i]) + at
    for k, side in enumerate("LR"):
        b = shared.bone["metacarpal3." + side]
        turn[n + k] = identity
        shift[n + k] = turn[b] @ heads[b] + shift[b] - heads[b]
    return turn, shift


def joint_points(build: Build, turn: Array, shift: Array) -> Array:
    """The 17 COCO joints of a posed body, [17, 3] meters."""
    shared = body()

    def moved(point: Array, bone: int) -> Array:
        result: Array = turn[bone] @ point + shift[bone]
        return result

    head = shared.bone["head"]
    points = {name: moved(build.vertices[v], head) for name, v in shared.face_marks.items()}
    for side, letter in (("left", "L"), ("right", "R")):
        eye = build.heads[shared.bone["eye." + letter]]
        points[side + " eye"] = moved(eye, head)
        for joint, name in zip(
            ("shoulder", "elbow", "wrist", "hip", "knee", "ankle"), _JOINT_BONES, strict=True
        ):
            b = shared.bone[f"{name}.{letter}"]
            points[f"{side} {joint}"] = moved(build.heads[b], b)
    return np.stack([points[name] for name in COCO17]).astype(np.float32)
