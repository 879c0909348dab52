"""The functions of ``compiled`` in plain NumPy: slower, the same results to the last bit.

The heaps of ``offer_rows`` and ``offer_columns`` are not among them: one pair at a time, they would
be slower here than to look for the best in whole rows (``rank.candidates``).

The order of every floating-point sum is that of the compiled loops (NumPy's own ``sum`` and
``dot`` promise no order, so they are not used where it matters).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from crosscam.retrieval.inputs import COSINE

Array = np.ndarray[Any, Any]

LANES = 32
STREAMS = False
_PAIRS_AT_ONCE = 4096  # bounds the float64 scratch to this many rows


def _sum_lanes(terms: Array) -> Array:
    """Sum [P, D] along D in the order that defines an exact score (see compiled.exact_pairs)."""
    n, size = terms.shape
    lanes = np.zeros((n, LANES), np.float64)
    for start in range(0, size, LANES):
        part = terms[:, start : start + LANES]
        lanes[:, : part.shape[1]] += part
    half = LANES // 2
    while half:
        lanes[:, :half] += lanes[:, half : 2 * half]
        half //= 2
    return lanes[:, 0]


def exact_pairs(
    kind: int,
    x: Array,
    y: Array,
    x_inverse: Array,
    y_inverse: Array,
    rows: Array,
    columns: Array,
    out: Array,
) -> None:
    for start in range(0, len(rows), _PAIRS_AT_ONCE):
        part = slice(start, start + _PAIRS_AT_ONCE)
        i, j = rows[part], columns[part]
        a, b = x[i].astype(np.float64), y[j].astype(np.float64)
        if kind == COSINE:
            out[part] = _sum_lanes(a * b) * (x_inverse[i] * y_inverse[j])
        else:
            difference = a - b
            out[part] = -_sum_lanes(difference * difference)


def square_norms(x: Array, out: Array) -> None:
    for start in range(0, len(x), _PAIRS_AT_ONCE):
        part = x[start : start + _PAIRS_AT_ONCE].astype(np.float64)
        out[start : start + _PAIRS_AT_ONCE] = _sum_lanes(part * part)


def mask_tile(tile: Array, start: Array, position: Array, column: int) -> None:
    rows = np.repeat(np.arange(len(tile)), np.diff(start[: len(tile) + 1]))
    columns = position[start[0] : start[len(tile)]] - column
    inside = (columns >= 0) & (columns < tile.shape[1])
    tile[rows[inside], columns[inside]] = -np.inf


def count_tile(
    tile: Array,
    start: Array,
    lower: Array,
    upper: Array,
    counts: Array,
    pair_rows: Array,
    pair_columns: Array,
) -> int:
    n_pairs = 0
    for i, row in enumerate(tile):
        own = slice(start[i], start[i + 1])
        if own.start == own.stop:
            continue
        columns = np.flatnonzero(row >= lower[own.start])
        values = row[columns]
        counts[own] += len(values) - np.searchsorted(np.sort(values), upper[own], "right")
        reached = np.searchsorted(lower[own], values, "right")
        passed = np.searchsorted(upper[own], values, "left")
        unsure = columns[reached > passed]
        pair_rows[n_pairs : n_pairs + len(unsure)] = i
        pair_columns[n_pairs : n_pairs + len(unsure)] = unsure
        n_pairs += len(unsure)
    return n_pairs


def settle_pairs(
    tile: Array,
    column: int,
    pair_rows: Array,
    pair_columns: Array,
    exact: Array,
    start: Array,
    lower: Array,
    upper: Array,
    threshold: Array,
    position: Array,
    counts: Array,
) -> None:
    for i, j, score in zip(pair_rows, pair_columns, exact, strict=True):
        own = slice(start[i], start[i + 1])
        value = tile[i, j]
        unsure = (lower[own] <= value) & (value <= upper[own])
        better = (score > threshold[own]) | (
            (score == threshold[own]) & (column + j < position[own])
        )
        counts[own] += unsure & better


def histogram_tile(tile: Array, low: float, per_bin: float, counts: Array) -> None:
    values = tile[tile != -np.inf].astype(np.float64)
    at = np.clip(((values - low) * per_bin).astype(np.int64), 0, len(counts) - 1)
    counts += np.bincount(at, minlength=len(counts))


def _reciprocal(neighbors: Array, i: int, k: int) -> Array:
    own = neighbors[i, : k + 1]
    held = (neighbors[own, : k + 1] == i).any(axis=1)
    return np.asarray(own[held])


def expand_neighbors(
    neighbors: Array, k1: int, half: int, begin: int, end: int, out: Array, sizes: Array
) -> None:
    for i in range(begin, end):
        own = _reciprocal(neighbors, i, k1)
        parts = [own]
        for j in own:
            theirs = _reciprocal(neighbors, j, half)
            if 3 * int(np.isin(theirs, own).sum()) > 2 * len(theirs):
                parts.append(theirs)
        members = np.unique(np.concatenate(parts))
        out[i - begin, : len(members)] = members
        sizes[i] = len(members)


def average_rows(
    neighbors: Array,
    k2: int,
    start: Array,
    column: Array,
    weight: Array,
    begin: int,
    end: int,
    out_column: Array,
    out_weight: Array,
    sizes: Array,
) -> int:
    filled = 0
    for i in range(begin, end):
        parts = [slice(start[j], start[j + 1]) for j in neighbors[i, :k2]]
        columns = np.concatenate([column[p] for p in parts])
        weights = np.concatenate([weight[p] for p in parts]).astype(np.float64)
        members, inverse = np.unique(columns, return_inverse=True)
        end_of = filled + len(members)
        out_column[filled:end_of] = members
        out_weight[filled:end_of] = np.bincount(inverse, weights) / k2  # adds in order
        sizes[i] = len(members)
        filled = end_of
    return filled


def transpose_rows(
    start: Array,
    column: Array,
    weight: Array,
    first_row: int,
    out_start: Array,
    out_row: Array,
    out_weight: Array,
) -> None:
    n = len(start) - 1
    columns = column[start[first_row] : start[n]]
    rows = np.repeat(np.arange(n - first_row), np.diff(start[first_row:]))
    order = np.argsort(columns, kind="stable")
    out_row[: len(order)] = rows[order]
    out_weight[: len(order)] = weight[start[first_row] : start[n]][order]
    out_start[0] = 0
    np.cumsum(np.bincount(columns, minlength=n), out=out_start[1:])


def overlap_rows(
    start: Array,
    column: Array,
    weight: Array,
    by_start: Array,
    by_row: Array,
    by_weight: Array,
    begin: int,
    end: int,
    n_gallery: int,
    out_item: Array,
    out_overlap: Array,
    sizes: Array,
) -> int:
    filled = 0
    for i in range(begin, end):
        items, shares = [np.empty(0, np.int64)], [np.empty(0, np.float32)]
        for p in range(start[i], start[i + 1]):
            part = slice(by_start[column[p]], by_start[column[p] + 1])
            items.append(by_row[part])
            shares.append(np.minimum(weight[p], by_weight[part]))
        item = np.concatenate(items)
        share = np.concatenate(shares).astype(np.float64)
        total = np.bincount(item, share, minlength=n_gallery)  # adds in order
        members = np.flatnonzero(total)
        if filled + len(members) > len(out_item):
            return -1
        out_item[filled : filled + len(members)] = members
        out_overlap[filled : filled + len(members)] = total[members]
        sizes[i - begin] = len(members)
        filled += len(members)
    return filled
