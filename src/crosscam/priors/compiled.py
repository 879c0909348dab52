"""Drawing part masks and finding the nearest points, compiled by numba on first use.

A function that draws draws one figure of N people into their label maps [N, h, w]: a cell is
inside if its center is.  Coordinates are (x, y) in cells, the first cell reaching from 0 to 1; a
person with a NaN among them is left out.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from crosscam.jit import Array, jit

__all__ = ["capsules", "halves", "nearest", "triangles"]


@jit
def _cells(low: float, high: float, count: int) -> Any:
    """First and last + 1 of the cells whose centers may lie between two numbers."""
    first = max(0.0, min(np.ceil(low - 0.5), float(count)))
    last = max(0.0, min(np.floor(high - 0.5) + 1, float(count)))
    return int(first), int(last)


@jit
def capsules(maps: Array, a: Array, b: Array, radius: Array, label: int) -> None:
    """Give ``label`` to all within ``radius`` [N] of the segments from ``a`` to ``b`` [N, 2]."""
    people, height, width = maps.shape
    for n in range(people):
        ax, ay, bx, by, reach = a[n, 0], a[n, 1], b[n, 0], b[n, 1], radius[n]
        if not np.isfinite(ax + ay + bx + by + reach):
            continue
        dx, dy = bx - ax, by - ay
        length = max(dx * dx + dy * dy, 1e-12)
        top, bottom = _cells(min(ay, by) - reach, max(ay, by) + reach, height)
        left, right = _cells(min(ax, bx) - reach, max(ax, bx) + reach, width)
        for y in range(top, bottom):
            for x in range(left, right):
                px, py = x + 0.5 - ax, y + 0.5 - ay
                share = min(max((px * dx + py * dy) / length, 0.0), 1.0)
                px, py = px - share * dx, py - share * dy
                if px * px + py * py <= reach * reach:
                    maps[n, y, x] = label


@jit
def triangles(maps: Array, a: Array, b: Array, c: Array, label: int) -> None:
    """Give ``label`` to the triangles of ``a``, ``b`` and ``c`` [N, 2]."""
    people, height, width = maps.shape
    for n in range(people):
        ax, ay, bx, by, cx, cy = a[n, 0], a[n, 1], b[n, 0], b[n, 1], c[n, 0], c[n, 1]
        if not np.isfinite(ax + ay + bx + by + cx + cy):
            continue
        top, bottom = _cells(min(ay, by, cy), max(ay, by, cy), height)
        left, right = _cells(min(ax, bx, cx), max(ax, bx, cx), width)
        for y in range(top, bottom):
            for x in range(left, right):
                px, py = x + 0.5, y + 0.5
                one = (bx - ax) * (py - ay) - (by - ay) * (px - ax)
                two = (cx - bx) * (py - by) - (cy - by) * (px - bx)
                three = (ax - cx) * (py - cy) - (ay - cy) * (px - cx)
                if min(one, two, three) >= 0 or max(one, two, three) <= 0:
                    maps[n, y, x] = label


@jit
def halves(maps: Array, at: Array, direction: Array, old: int, label: int) -> None:
    """Give ``label`` to cells of ``old`` that lie beyond ``at`` [N, 2] along ``direction``."""
    people, height, width = maps.shape
    for n in range(people):
        if not np.isfinite(at[n].sum() + direction[n].sum()):
            continue
        for y in range(height):
            for x in range(width):
                ahead = (x + 0.5 - at[n, 0]) * direction[n, 0]
                ahead += (y + 0.5 - at[n, 1]) * direction[n, 1]
                if maps[n, y, x] == old and ahead > 0:
                    maps[n, y, x] = label


@jit
def nearest(asked: Array, points: Array, numbers: Array, reach: float) -> Array:
    """[Q] number of the nearest of some points, -1 if none lies within ``reach``.

    Args:
        asked: [Q, 3]; -1 is the answer for those with a NaN.
        points: [P, 3], sorted by their last coordinate.
        numbers: [P] of the points; of equally near ones the smallest wins.
        reach: largest distance, included.
    """
    found = np.full(len(asked), -1, np.int64)
    for q in range(len(asked)):
        x, y, z = asked[q, 0], asked[q, 1], asked[q, 2]
        if not np.isfinite(x + y + z):
            continue
        start = np.searchsorted(points[:, 2], z)
        least, which = reach * reach, np.int64(-1)
        # Down and up from the same height, until height alone is farther than the best.
        for step in (-1, 1):
            p = start - 1 if step < 0 else start
            while 0 <= p < len(points):
                dz = (points[p, 2] - z) * (points[p, 2] - z)
                if dz > least:
                    break
                dx, dy = points[p, 0] - x, points[p, 1] - y
                far = dx * dx + dy * dy + dz
                if far < least or (far == least and (which < 0 or numbers[p] < which)):
                    least, which = far, numbers[p]
                p += step
        found[q] = which
    return found
