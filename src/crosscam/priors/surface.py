"""Where on the body something lies, and textures made by looking there.

A *place* is (part 1 to 10, column, row) of the 256 x 256 texture, as the IUV maps of rendered
people write it; (0, 0, 0) is none.  A *point* is the same place on the mean body at rest, in
meters: x towards the person's left, y towards the back, z up from the ground; NaN is none.

The chart is cut, so neighbors on the body may be far apart in the texture (along the spine, around
the neck), and a mean of two places may lie anywhere.  Points have no cuts: neighbors are near each
other, and the mirrored place of a point is the one at -x.  So places are learned and compared as
points, and looked up in the chart at the end.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import numpy.typing as npt

from crosscam.errors import InputError
from crosscam.image import Picture
from crosscam.priors import compiled
from crosscam.synth.body import CHART as PAINTED
from crosscam.synth.body import body
from crosscam.synth.person import TEXTURE, texture_mask

__all__ = ["REACH", "VERSION", "chart_points", "fill", "mirrored", "places", "points",
           "side_of", "unwrap"]  # fmt: skip

Floats = npt.NDArray[np.float32]
Bytes = npt.NDArray[np.uint8]

REACH = 0.05
"""How far from a texel, in meters on the body at rest, a cell may lie to color it."""

VERSION = 1
"""Of the unwrapping; other versions give other texels."""


@lru_cache(maxsize=1)
def _table() -> tuple[Floats, Bytes]:
    """Point [256, 256, 3] and part [256, 256] of each texel, those beside the chart included."""
    texels, f = body().texels, PAINTED // TEXTURE
    near = texels.near.reshape(TEXTURE, f, TEXTURE, f)
    weight = near.sum((1, 3))
    point = np.where(near[..., None], texels.point.reshape(TEXTURE, f, TEXTURE, f, 3), 0)
    with np.errstate(invalid="ignore"):
        mean = point.sum((1, 3)) / weight[..., None]  # NaN away from the chart
    return mean.astype(np.float32), texels.part.reshape(PAINTED, PAINTED)[::f, ::f]


@lru_cache(maxsize=4)
def chart_points(side: int) -> Floats:
    """[side, side, 3]: the point that each texel of a texture shows, NaN off the body.

    A texel of a smaller texture is the mean of those of the 256 x 256 one that it covers.

    Raises:
        InputError: a side that does not divide 256.
    """
    if side < 1 or TEXTURE % side:
        raise InputError(f"the side of an unwrapped texture must divide {TEXTURE}, got {side}.")
    f = TEXTURE // side
    known = texture_mask().reshape(side, f, side, f)
    point = np.where(known[..., None], _table()[0].reshape(side, f, side, f, 3), 0)
    with np.errstate(invalid="ignore"):
        mean: Floats = (point.sum((1, 3)) / known.sum((1, 3))[..., None]).astype(np.float32)
    return mean


def side_of(height: int) -> int:
    """Side of the texture that is unwrapped from pictures so high: a divisor of 256."""
    return 1 << (min(height, TEXTURE).bit_length() - 1)


def points(found: Bytes) -> Floats:
    """Points [..., 3] of places [..., 3]."""
    table = _table()[0]
    at = table[found[..., 2], found[..., 1]]
    result: Floats = np.where(found[..., :1] > 0, at, np.float32(np.nan))
    return result


def places(found: Floats) -> Bytes:
    """Places [..., 3] of points [..., 3]: those of the nearest texels on the body."""
    inside = texture_mask()
    rows, columns = np.nonzero(inside)
    part = _table()[1][inside]
    asked = found.reshape(-1, 3).astype(np.float64)
    best = compiled.nearest(asked, *_sorted(chart_points(TEXTURE)[inside]), np.inf)
    at = np.maximum(best, 0)
    result = np.stack([part[at], columns[at], rows[at]], 1) * (best >= 0)[:, None]
    return result.astype(np.uint8).reshape(found.shape)


def unwrap(picture: Picture, found: Floats, side: int, reach: float = REACH) -> Bytes:
    """The texture of a picture: every texel takes the color of the cell nearest to it on the body.

    Args:
        picture: [h, w, 3].
        found: [h, w, 3] the point that each cell shows, NaN for none.
        side: of the texture; it divides 256.
        reach: texels with no cell within so many meters are not known.

    Returns:
        [side, side, 4]: R G B, and 255 where known, else four zeros.  Of cells that are equally
        near the first in reading order is taken.
    """
    shown = ~np.isnan(found[..., 0])
    best = compiled.nearest(
        chart_points(side).reshape(-1, 3).astype(np.float64), *_sorted(found[shown]), reach
    )
    colors = np.concatenate([picture[shown], np.zeros((1, 3), np.uint8)])
    known = best >= 0
    texture = np.concatenate([colors[np.where(known, best, -1)], 255 * known[:, None]], 1)
    return texture.astype(np.uint8).reshape(side, side, 4)


@lru_cache(maxsize=4)
def mirrored(side: int) -> npt.NDArray[np.int64]:
    """[side * side]: number of the texel that shows the mirrored place, -1 off the body."""
    at = chart_points(side).reshape(-1, 3)
    inside = np.flatnonzero(~np.isnan(at[:, 0]))
    other = at * np.array([-1.0, 1.0, 1.0])
    best = compiled.nearest(other, *_sorted(at[inside]), np.inf)
    return np.where(best >= 0, inside[np.maximum(best, 0)], -1)


def fill(texture: Bytes) -> Bytes:
    """A texture [T, T, 4] whose unknown texels take the color of the mirrored place, if known."""
    side = len(texture)
    flat, other = texture.reshape(-1, 4), mirrored(side)
    take = (flat[:, 3] == 0) & (other >= 0)
    filled = flat.copy()
    filled[take] = flat[other[take]]
    return filled.reshape(texture.shape)


def _sorted(at: Floats) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.int64]]:
    """Points by height, as ``compiled.nearest`` wants them, and their numbers."""
    order = np.argsort(at[:, 2], kind="stable")
    return at[order].astype(np.float64), order
