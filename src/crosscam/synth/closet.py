"""Garments and hair from a MakeHuman asset folder: meshes that are fitted to our bodies.

The community's assets (CC0 1.0) come as a mesh (``.obj``) and a fitting file (``.mhclo``): each
vertex is bound to three vertices of the MakeHuman base mesh by barycentric weights and an offset
that grows with the body.  Our body *is* that base mesh with all its helpers, so fitting is a sum.
Pictures that come with the assets are not read: cloth is painted like all other cloth, as a
function of the canonical point, so an asset shirt and the body texture behind it agree.

Everything that does not depend on the person is worked out once a process and garment (about
0.2 s): what its texels show, where they lie on the body's chart, and what of the body they cover.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from crosscam.errors import DataError
from crosscam.synth import raster
from crosscam.synth.body import (
    ARM,
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
    Build,
    Texels,
    body,
    chart_texels,
)

__all__ = ["LICENSE", "Closet", "Garment", "open_closet"]

Array = npt.NDArray[Any]

LICENSE = "garments and hair of the MakeHuman community (CC0 1.0)"

HAIRSTYLES: Mapping[str, tuple[str, ...]] = {
    "short": ("short", "afro"),
    "bob": ("bob",),
    "long": ("long",),
    "ponytail": ("ponytail", "braid"),
}
"""Words in an asset's name that make it a mesh for a hairstyle of ours."""

_WAIST = 1.02  # canonical height where a one-piece suit turns from top to trousers
_TOUCH = 0.03  # bare body within this many meters of cloth counts as cloth


class Garment:
    """One asset: its mesh, its binding to the body, and what follows from both."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.name = path.parent.name if path.stem == path.parent.name else path.stem
        fit = _read_fit(path)
        self.tags = fit.tags
        shared = body()
        if fit.corners.max(initial=0) >= shared.count or fit.corners.min(initial=0) < 0:
            raise DataError(
                f"{path} binds to vertex {int(fit.corners.max())}, but the base mesh has "
                f"{shared.count}. Only assets for MakeHuman's base mesh hm08 fit."
            )
        source = path.with_name(fit.mesh)
        vertices, uv, faces, face_uv = _read_mesh(source)
        if vertices != len(fit.corners):
            raise DataError(
                f"{source} has {vertices} vertices and its fitting file {path.name} binds "
                f"{len(fit.corners)}: they do not belong together. Fetch both again."
            )
        # A vertex on a seam of the chart has two places on it: it becomes two vertices.
        pair = faces.astype(np.int64) * len(uv) + face_uv
        kept, inverse = np.unique(pair, return_inverse=True)
        self.faces = inverse.reshape(-1, 3).astype(np.int32)
        self.uv = uv[kept % len(uv)].astype(np.float32)
        self._source: Array = (kept // len(uv)).astype(np.int64)
        self._fit = fit
        self._mesh_faces = faces
        weight = np.clip(fit.weights, 0, None)
        weight /= weight.sum(1, keepdims=True) + 1e-9
        bone, share = _blend(shared.skin_bone, shared.skin_weight, fit.corners, weight)
        self.bone, self.weight = bone[self._source], share[self._source]
        self.hidden = np.zeros(shared.count, bool)
        self.hidden[fit.deleted[fit.deleted < shared.count]] = True
        self.canonical = self.fit(Build(shared.canonical, shared.canonical_heads))

    def fit(self, build: Build) -> Array:
        """The garment's vertices [V, 3] on a body at rest, meters."""
        fit = self._fit
        v = build.vertices
        base = np.einsum("nk,nkd->nd", fit.weights, v[fit.corners])
        size = [
            float(abs(v[a, axis] - v[b, axis])) / length
            for (a, b, length), axis in zip(fit.scales, (0, 2, 1), strict=True)
        ]
        x, y, z = fit.offsets.T  # of the base mesh: y up, z to the front
        base += np.stack([x * size[0], -z * size[2], y * size[1]], 1)
        result: Array = base[self._source].astype(np.float32)
        return result

    @cached_property
    def kind(self) -> str:
        """What it is worn as: suit, shoes, hat or hair."""
        if self.path.parent.parent.name == "hair":
            return "hair"
        if "shoes" in self.tags or "shoe" in self.name:
            return "shoes"
        if "hats" in self.tags or self.canonical[:, 2].min() > 1.6:
            return "hat"
        return "suit"

    @cached_property
    def long(self) -> bool:
        """Whether its trousers reach the ankle."""
        return bool(self.canonical[:, 2].min() < 0.2)

    @cached_property
    def sleeved(self) -> bool:
        """Whether its sleeves pass the elbow (0.4 m from the middle of the canonical body)."""
        return bool(np.abs(self.canonical[:, 0]).max() > 0.42)

    @cached_property
    def side(self) -> int:
        """Texels along the side of its picture."""
        return 256 if self.kind == "suit" else 128

    @cached_property
    def label(self) -> Array:
        """What each vertex counts as, [V]: top or bottom of a suit, shoes, hat, hair."""
        one = {"shoes": SHOES, "hat": HAT, "hair": HAIR}.get(self.kind)
        if one is not None:
            return np.full(len(self.canonical), one, np.uint8)
        group = _groups(len(self._fit.corners), self._mesh_faces)[self._source]
        z = self.canonical[:, 2]
        low, high = np.full(group.max() + 1, 9.0), np.zeros(group.max() + 1)
        np.minimum.at(low, group, z)
        np.maximum.at(high, group, z)
        bottom = np.where(high[group] < 1.15, True, (low[group] < 0.5) & (z < _WAIST))
        return np.where(bottom, BOTTOM, TOP).astype(np.uint8)

    @cached_property
    def texels(self) -> Texels:
        """What each texel of its picture shows; ``part`` holds the label."""
        chart = np.stack([self.uv[:, 0] % 1.0, 1 - self.uv[:, 1] % 1.0], 1) * self.side
        return chart_texels(
            chart.astype(np.float32), self.faces, self.faces, self.canonical, self.label,
            self.side, grow=4,
        )  # fmt: skip

    @cached_property
    def behind(self) -> Array:
        """Texel of the body's chart behind each texel, [side * side] flat index."""
        parts = {
            "hair": (HEAD, TORSO), "hat": (HEAD,), "shoes": (LEG, LEG + 1, FOOT, FOOT + 1),
        }.get(self.kind, (TORSO, ARM, ARM + 1, LEG, LEG + 1))  # fmt: skip
        chart = body().texels
        wanted = np.flatnonzero(chart.valid.ravel() & np.isin(chart.part, parts))[::5]
        index, _ = _nearest(self.texels.point, chart.point[wanted])
        result: Array = wanted[index]
        return result

    def cover(self, points: Array, part: Array, vertex: Array) -> Array:
        """Label of the garment at spots of the canonical body [N], 0 where it leaves it bare.

        ``vertex`` is the body's vertex nearest to each spot: what the asset says to hide is
        covered, and so is what touches the cloth.
        """
        index, distance = _nearest(points, self.canonical)
        covered = self.hidden[vertex] | (distance < _TOUCH)
        if self.kind == "suit":
            covered &= ~np.isin(part, (HEAD, HAND, HAND + 1, FOOT, FOOT + 1)) | self.hidden[vertex]
            # Between the legs of a skirt nothing touches, yet it covers down to its hem.
            low = self.canonical[self.label == BOTTOM, 2].min(initial=9.0)
            covered |= np.isin(part, (LEG, LEG + 1)) & (points[:, 2] > low)
        return np.where(covered, self.label[index], 0).astype(np.uint8)

    @cached_property
    def part(self) -> Array:
        """Body part nearest to each vertex, [V] 1..10."""
        shared = body()
        index, _ = _nearest(self.canonical, shared.canonical[shared.used])
        result: Array = shared.part[shared.used[index]]
        return result

    @cached_property
    def vertex_cover(self) -> Array:
        """``cover`` of the body's vertices."""
        shared = body()
        return self.cover(shared.canonical, shared.part, np.arange(shared.count))

    @cached_property
    def texel_cover(self) -> Array:
        """``cover`` of the painted texels of the body's chart."""
        chart = body().texels
        near = chart.near
        return self.cover(chart.point[near], chart.part[near], chart.vertex[near])


@dataclass(frozen=True)
class Closet:
    """The assets of one folder."""

    root: Path
    garments: Mapping[str, Garment]
    digest: str  # of the bytes of all files that were read

    def suits(self, female: bool, long: bool, sleeved: bool) -> list[str]:
        """Names of suits for a woman or man, with long or short legs and sleeves."""
        other = "male" if female else "female"
        own = "female" if female else "male"
        return [
            g.name
            for g in self.garments.values()
            if g.kind == "suit"
            and (g.long, g.sleeved) == (long, sleeved)
            and (own in g.tags or other not in g.tags)
        ]

    def hair(self, style: str) -> list[str]:
        """Names of hair meshes for one of our hairstyles."""
        words = HAIRSTYLES.get(style, ())
        return [
            g.name for g in self.garments.values()
            if g.kind == "hair" and g.name.startswith(words)
        ]  # fmt: skip

    def of_kind(self, kind: str) -> list[str]:
        """Names of all shoes or hats."""
        return [g.name for g in self.garments.values() if g.kind == kind]


@lru_cache(maxsize=2)
def open_closet(root: Path) -> Closet:
    """Read all garments and hair under ``root`` (``base/clothes``, ``base/hair`` or the two).

    Raises DataError where there are none, or one cannot be read.
    """
    home = root / "base" if (root / "base").is_dir() else root
    files = sorted([*home.glob("clothes/*/*.mhclo"), *home.glob("hair/*/*.mhclo")])
    if not files:
        raise DataError(
            f"{root} holds no MakeHuman garments: no clothes/*/*.mhclo and no hair/*/*.mhclo, "
            "there or in base/. Give the folder of a copy of makehuman-assets."
        )
    digest = hashlib.sha256()
    garments = {}
    for path in files:
        garment = Garment(path)
        for read in (path, path.with_name(garment._fit.mesh)):
            digest.update(str(read.relative_to(home)).encode() + b"\0" + read.read_bytes())
        garments[garment.name] = garment
    return Closet(root, garments, digest.hexdigest())


@dataclass(frozen=True)
class _Fit:
    tags: frozenset[str]
    mesh: str
    scales: tuple[tuple[int, int, float], ...]  # x, y, z of the base mesh
    corners: Array  # [V, 3]
    weights: Array  # [V, 3]
    offsets: Array  # [V, 3]
    deleted: Array  # [D] vertices of the base mesh


def _read_fit(path: Path) -> _Fit:
    tags, mesh, section = set(), "", ""
    scales: dict[str, tuple[int, int, float]] = {}
    rows: list[list[float]] = []
    deleted: list[int] = []
    try:
        for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
            words = line.split("#")[0].split()
            if not words:
                continue
            if words[0] in ("verts", "delete_verts"):
                section = words[0]
            elif words[0] == "tag":
                tags.add(" ".join(words[1:]).lower())
            elif words[0] == "obj_file":
                mesh = words[1]
            elif words[0] in ("x_scale", "y_scale", "z_scale"):
                scales[words[0][0]] = (int(words[1]), int(words[2]), float(words[3]))
            elif section == "verts" and words[0].lstrip("-").isdigit():
                numbers = [float(w) for w in words]
                rows.append(
                    numbers[:9] if len(numbers) >= 9 else [numbers[0]] * 3 + [1.0] + [0.0] * 5
                )
            elif section == "delete_verts":
                deleted += _ranges(words)
    except (ValueError, IndexError) as error:
        raise DataError(
            f"{path} is not a MakeHuman fitting file: '{line[:60]}' cannot be read ({error})."
        ) from None
    if not mesh or len(scales) != 3 or not rows:
        raise DataError(
            f"{path} is not a whole MakeHuman fitting file: it needs obj_file, x_scale, y_scale, "
            "z_scale and verts. Fetch it again."
        )
    table = np.array(rows, np.float64)
    return _Fit(
        frozenset(tags), mesh, tuple(scales[a] for a in "xyz"), table[:, :3].astype(np.int64),
        table[:, 3:6], table[:, 6:9], np.array(deleted, np.int64),
    )  # fmt: skip


def _ranges(words: Iterable[str]) -> list[int]:
    """``5 - 8 11`` -> 5 6 7 8 11."""
    out: list[int] = []
    reach = False
    for word in words:
        if word == "-":
            reach = True
        elif reach:
            out += range(out[-1] + 1, int(word) + 1)
            reach = False
        else:
            out.append(int(word))
    return out


def _read_mesh(path: Path) -> tuple[int, Array, Array, Array]:
    """(vertex count, uv [U, 2], triangles [F, 3], their uv [F, 3]) of an OBJ file."""
    if not path.is_file():
        raise DataError(f"{path} is missing, but a fitting file beside it names it. Fetch it too.")
    count = 0
    uv: list[tuple[float, float]] = []
    triangles: list[list[list[int]]] = []
    try:
        for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
            kind, *words = line.split() or [""]
            if kind == "v":
                count += 1
            elif kind == "vt":
                uv.append((float(words[0]), float(words[1])))
            elif kind == "f":
                corners = [[int(i) - 1 for i in word.split("/")[:2]] for word in words]
                for k in range(1, len(corners) - 1):
                    triangles.append([corners[0], corners[k], corners[k + 1]])
        table = np.array(triangles, np.int64).reshape(-1, 3, 2)
    except (ValueError, IndexError) as error:
        raise DataError(f"{path} is not an OBJ mesh with UV points: {error}.") from None
    if not len(table) or table[..., 0].max() >= count or table[..., 1].max() >= len(uv):
        raise DataError(f"{path} is not a whole OBJ mesh: its faces name points it lacks.")
    return count, np.array(uv), table[..., 0], table[..., 1]


def _blend(bone: Array, weight: Array, corners: Array, share: Array) -> tuple[Array, Array]:
    """Skinning of points that lie between three vertices: the four heaviest bones of all."""
    bones = bone[corners].reshape(len(corners), -1)
    shares = (weight[corners] * share[..., None]).reshape(len(corners), -1)
    order = np.argsort(bones, 1, kind="stable")
    bones = np.take_along_axis(bones, order, 1)
    shares = np.take_along_axis(shares, order, 1)
    for k in range(bones.shape[1] - 1):  # carry the share of equal bones to the last of them
        same = bones[:, k] == bones[:, k + 1]
        shares[same, k + 1] += shares[same, k]
        shares[same, k] = 0
    top = np.argsort(-shares, 1, kind="stable")[:, :4]
    shares = np.take_along_axis(shares, top, 1)
    shares /= shares.sum(1, keepdims=True) + 1e-9
    return np.take_along_axis(bones, top, 1).astype(np.int32), shares.astype(np.float32)


def _groups(count: int, faces: Array) -> Array:
    """Number of the connected piece each vertex belongs to, [count]."""
    group = np.arange(count)
    while True:
        least = group[faces].min(1)
        before = group.copy()
        for k in range(3):
            np.minimum.at(group, faces[:, k], least)
        group = group[group]
        if (group == before).all():
            break
    result: Array = np.unique(group, return_inverse=True)[1].reshape(-1)
    return result


def _nearest(query: Array, points: Array) -> tuple[Array, Array]:
    """(index [Q], distance [Q]) of the nearest of ``points`` [P, 3] to each of ``query``."""
    order = np.argsort(points[:, 2], kind="stable")
    index = np.empty(len(query), np.int64)
    distance = np.empty(len(query), np.float32)
    raster.nearest(
        np.ascontiguousarray(query, np.float32),
        np.ascontiguousarray(points[order], np.float32),
        index,
        distance,
    )
    return order[index], distance
