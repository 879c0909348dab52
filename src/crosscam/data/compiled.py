"""The inner loop of augmentation on a CPU, compiled by numba on first use.

``augment`` holds the same arithmetic in torch, for GPUs, with the same bits.  This module
imports numba and must therefore be imported late.

Indices that run backwards or come from a table are unsigned: numba lets signed ones count from
the end of an array, and the test for that keeps a loop from being vectorized.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from crosscam.jit import Array, jit


@jit
def luminance(picture: Array) -> Any:
    """Sum over [H, W * 3] uint8 of the luma of Rec. 601, in units of 1 / 65536."""
    total = np.int64(0)
    height, length = picture.shape
    for y in range(height):
        row = picture[y]
        red = green = blue = np.int64(0)
        for x in range(length // 3):
            red += row[3 * x]
            green += row[3 * x + 1]
            blue += row[3 * x + 2]
        total += 19595 * red + 38470 * green + 7471 * blue
    return total


@jit
def _enlarge(
    above: Array,
    below: Array,
    weight: Any,
    left: Array,
    right: Array,
    weights: Array,
    first: Any,
    tall: Array,
    line: Array,
) -> None:
    """One row of the enlarged picture, columns ``first`` on, from the two rows around it."""
    for j in range(len(tall)):
        tall[j] = above[j] * (1024 - weight) + below[j] * weight
    for x in range(len(line) // 3):
        at = np.uint64(first + x)
        a, b, w = np.uint64(3 * left[at]), np.uint64(3 * right[at]), weights[at]
        for c in range(3):
            k = np.uint64(c)
            value = tall[a + k] * (1024 - w) + tall[b + k] * w
            line[3 * x + c] = (value + 524288) >> 20


@jit
def _recolor(row: Array, matrix: Array, offset: Any, line: Array) -> None:
    m0, m1, m2, m3, m4, m5, m6, m7, m8 = matrix
    for x in range(len(row) // 3):
        r, g, b = np.int32(row[3 * x]), np.int32(row[3 * x + 1]), np.int32(row[3 * x + 2])
        red = (m0 * r + m1 * g + m2 * b + offset) >> 12
        green = (m3 * r + m4 * g + m5 * b + offset) >> 12
        blue = (m6 * r + m7 * g + m8 * b + offset) >> 12
        line[3 * x] = min(max(red, 0), 255)
        line[3 * x + 1] = min(max(green, 0), 255)
        line[3 * x + 2] = min(max(blue, 0), 255)


@jit
def render(
    pictures: Array,  # [N, H, W * 3] uint8
    rows: Array,  # [B] int64
    moves: Array,  # [B, 6] int64: zoomed, top, left; flip; down, right
    boxes: Array,  # [B, 4] int64: top, left, height, width of what is erased
    tall_taps: Array,  # [H', 3] int32: row above, row below, weight of the latter / 1024
    wide_taps: Array,  # [3, W'] int32: the same for columns
    recolor: bool,
    matrices: Array,  # [B, 9] int32, in units of 1 / 4096
    offsets: Array,  # [B] float64, per luminance, in units of 1 / 4096
    shift: Array,  # [W * 3] float32
    scale: Array,  # [W * 3] float32
    fill: Array,  # [3] float32
    out: Array,  # [B, H, W * 3] float32
) -> None:
    """Move, recolor, normalize and erase in one pass over every picture."""
    _, height, length = pictures.shape
    width = length // 3
    tall = np.empty(length, np.int32)
    enlarged, colored, mirrored = (
        np.empty(length, np.uint8),
        np.empty(length, np.uint8),
        np.empty(length, np.uint8),
    )
    blank = (np.float32(0) - shift) * scale
    for b in range(len(rows)):
        picture = pictures[rows[b]]
        zoomed, top, left, flip, down, right = moves[b]
        first = min(max(0, -right), width)  # columns from first to last show the picture
        last = max(min(width, width - right), first)
        offset = np.int32(2048)
        if recolor:
            gray = luminance(picture) / (65536.0 * height * width)
            offset += np.int32(np.rint(offsets[b] * gray))
        for y in range(height):
            line = out[b, y]
            if not 0 <= y + down < height:
                line[:] = blank
                continue
            if zoomed:
                tap = tall_taps[y + down + top]
                _enlarge(
                    picture[tap[0]],
                    picture[tap[1]],
                    tap[2],
                    wide_taps[0],
                    wide_taps[1],
                    wide_taps[2],
                    left,
                    tall,
                    enlarged,
                )
                row = enlarged
            else:
                row = picture[y + down]
            if recolor:
                _recolor(row, matrices[b], offset, colored)
                row = colored
            begin = 3 * (first + right)
            if flip:
                end = 3 * (width - 1 - first - right)  # what is shown at column first
                for x in range(last - first):
                    k, j = np.uint64(end - 3 * x), np.uint64(3 * x)
                    mirrored[j] = row[k]
                    mirrored[j + np.uint64(1)] = row[k + np.uint64(1)]
                    mirrored[j + np.uint64(2)] = row[k + np.uint64(2)]
                row = mirrored
                begin = 0
            count = 3 * (last - first)
            shown, source = line[3 * first : 3 * last], row[begin : begin + count]
            mean, factor = shift[:count], scale[:count]
            for i in range(count):
                shown[i] = (np.float32(source[i]) - mean[i]) * factor[i]
            line[: 3 * first] = blank[: 3 * first]
            line[3 * last :] = blank[3 * last :]
        box = boxes[b]
        for y in range(box[0], box[0] + box[2]):
            line = out[b, y]
            for x in range(box[1], box[1] + box[3]):
                line[3 * x] = fill[0]
                line[3 * x + 1] = fill[1]
                line[3 * x + 2] = fill[2]
