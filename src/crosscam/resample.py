"""Pillow's antialiased resize, compiled by numba: the same bits in a sixth of the time.

This module imports numba and must therefore be imported late; ``image.resize`` decides when.

The definition (Pillow's ``Resample.c``): a picture is resized along one axis and then along the
other, with bytes in between.  An output pixel is a weighted sum of the pixels under a filter that
is as wide as the filter's support, or that times the ratio where the picture shrinks.  Weights are
made in float64, divided by their sum and rounded to multiples of 2^-22; sums are integers, rounded
to the nearest and clipped to 0..255.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from crosscam.jit import Array, jit

__all__ = ["resample", "taps"]

_BITS = 22  # of a weight behind the point: 32, less 8 of a pixel, less 2 for sums beyond 255
_HALF = 1 << (_BITS - 1)


@jit
def _weight(x: Any, cubic: bool) -> Any:
    """The filter at ``x`` pixels: a triangle, or Keys' cubic convolution with a = -0.5."""
    x = abs(x)
    if not cubic:
        return 1.0 - x if x < 1.0 else 0.0
    if x < 1.0:
        return (1.5 * x - 2.5) * x * x + 1
    if x < 2.0:
        return (((x - 5) * x + 8) * x - 4) * -0.5
    return 0.0


@jit
def taps(size: int, target: int, cubic: bool) -> Any:
    """Which pixels of a line of ``size`` make up each pixel of a line of ``target``.

    Returns:
        The first of them, int32 [target], and their weights, int32 [target, n] in units of 2^-22;
        first + n is nowhere beyond ``size``.
    """
    scale = size / target
    stretch = max(scale, 1.0)
    support = (2.0 if cubic else 1.0) * stretch
    starts = np.empty((target, 2), np.int64)
    for place in range(target):
        center = (place + 0.5) * scale
        starts[place, 0] = max(int(center - support + 0.5), 0)
        starts[place, 1] = min(int(center + support + 0.5), size)
    count = max(1, (starts[:, 1] - starts[:, 0]).max())
    first = np.empty(target, np.int32)
    weights = np.zeros((target, count), np.int32)
    line = np.empty(count, np.float64)
    for place in range(target):
        center = (place + 0.5) * scale
        start, stop = starts[place]
        total = 0.0
        for i in range(stop - start):
            line[i] = _weight((i + start - center + 0.5) * (1.0 / stretch), cubic)
            total += line[i]
        shifted = min(start, size - count)
        first[place] = shifted
        for i in range(stop - start):
            weight = line[i] / total if total != 0.0 else line[i]
            rounding = -0.5 if weight < 0 else 0.5
            weights[place, start - shifted + i] = int(rounding + weight * (1 << _BITS))
    return first, weights


@jit
def _along_rows(picture: Array, first: Array, weights: Array, between: bool, out: Array) -> None:
    """[h, w * 3] to [h, W * 3]; ``between``: of two pixels, never beyond them."""
    count = weights.shape[1]
    for y in range(len(picture)):
        row, line = picture[y], out[y]
        if between:
            for x in range(len(first)):
                at = np.uint64(3 * first[x])
                to = np.uint64(3 * x)
                a, b = weights[x, 0], weights[x, 1]
                for c in range(3):
                    k = np.uint64(c)
                    value = row[at + k] * a + row[at + k + np.uint64(3)] * b
                    line[to + k] = (value + np.int32(_HALF)) >> np.int32(_BITS)
            continue
        for x in range(len(first)):
            at = np.uint64(3 * first[x])
            to = np.uint64(3 * x)
            red = green = blue = np.int32(_HALF)
            for t in range(count):
                weight = weights[x, t]
                red += row[at] * weight
                green += row[at + np.uint64(1)] * weight
                blue += row[at + np.uint64(2)] * weight
                at += np.uint64(3)
            line[to] = min(max(red >> _BITS, 0), 255)
            line[to + np.uint64(1)] = min(max(green >> _BITS, 0), 255)
            line[to + np.uint64(2)] = min(max(blue >> _BITS, 0), 255)


@jit
def _along_columns(picture: Array, first: Array, weights: Array, between: bool, out: Array) -> None:
    """[h, w * 3] to [H, w * 3]."""
    length = picture.shape[1]
    count = weights.shape[1]
    total = np.empty(length, np.int32)
    for y in range(len(first)):
        line, start = out[y], first[y]
        if between:
            above, below = picture[start], picture[start + 1]
            a, b = weights[y, 0], weights[y, 1]
            for i in range(length):
                value = above[i] * a + below[i] * b
                line[i] = (value + np.int32(_HALF)) >> np.int32(_BITS)
            continue
        total[:] = _HALF
        for t in range(count):
            row, weight = picture[start + t], weights[y, t]
            for i in range(length):
                total[i] += row[i] * weight
        for i in range(length):
            line[i] = min(max(total[i] >> _BITS, 0), 255)


def resample(picture: Array, out: Array, cubic: bool, rows_first: bool) -> None:
    """Fill ``out`` [H, W, 3] with ``picture`` [h, w, 3], both uint8, as Pillow would, to the bit.

    Args:
        picture: what is resized.
        out: in one piece; of any size.
        cubic: bicubic; else bilinear.
        rows_first: which of the two passes comes first.
    """
    height, width, _ = out.shape
    # Of one memory order, and never read-only: the loops are compiled for each kind anew.
    lines = np.require(np.asarray(picture), requirements=("C", "W")).reshape(picture.shape[0], -1)
    result = np.asarray(out).reshape(height, width * 3)
    sizes = [(picture.shape[0], height), (picture.shape[1], width)]
    axes = [axis for axis in ((1, 0) if rows_first else (0, 1)) if sizes[axis][0] != sizes[axis][1]]
    for axis in axes:
        first, weights = taps(*sizes[axis], cubic)
        between = not cubic and weights.shape[1] == 2
        into = result
        if axis != axes[-1]:
            shape = (len(lines), width * 3) if axis else (height, lines.shape[1])
            into = np.empty(shape, np.uint8)
        (_along_rows if axis else _along_columns)(lines, first, weights, between, into)
        lines = into
    if not axes:
        result[...] = lines
