"""The inner loops of retrieval, compiled by numba on first use.

``fallback`` holds them in NumPy with bit-identical results, but for ``offer_rows`` and
``offer_columns`` (see ``STREAMS``); ``kernels`` picks one of the two.  This module imports numba
and must therefore be imported late.

Two conventions run through all of it.  A *score* is larger for better pairs (the cosine
similarity, or minus the squared distance).  A *tile* holds approximate float32 scores of some
queries (rows) against some gallery items (columns), and is trusted only up to a stated error;
whatever lies closer to a decision than that error is decided by ``exact_pairs``.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from crosscam.jit import Array, jit
from crosscam.retrieval.inputs import COSINE

LANES = 32  # partial sums of an exact dot product; part of its definition, see exact_pairs
SEGMENT = 256  # columns of a tile that are counted at a time: 1 KiB, stays in the L1 cache
STREAMS = True  # the best of a row or column are kept while tiles pass, by offer_...


@jit
def _fold(lanes: Array) -> Any:
    half = LANES // 2
    while half:
        for i in range(half):
            lanes[i] += lanes[i + half]
        half //= 2
    return lanes[0]


@jit
def _dot(x: Array, y: Array, lanes: Array) -> Any:
    n = x.shape[0]
    full = n - n % LANES
    for i in range(LANES):
        lanes[i] = 0.0
    for start in range(0, full, LANES):
        for i in range(LANES):
            lanes[i] += np.float64(x[start + i]) * np.float64(y[start + i])
    for i in range(full, n):
        lanes[i - full] += np.float64(x[i]) * np.float64(y[i])
    return _fold(lanes)


@jit
def _squared_distance(x: Array, y: Array, lanes: Array) -> Any:
    n = x.shape[0]
    full = n - n % LANES
    for i in range(LANES):
        lanes[i] = 0.0
    for start in range(0, full, LANES):
        for i in range(LANES):
            difference = np.float64(x[start + i]) - np.float64(y[start + i])
            lanes[i] += difference * difference
    for i in range(full, n):
        difference = np.float64(x[i]) - np.float64(y[i])
        lanes[i - full] += difference * difference
    return _fold(lanes)


@jit
def _exact(kind: int, x: Array, y: Array, x_inverse: float, y_inverse: float, lanes: Array) -> Any:
    if kind == COSINE:
        return _dot(x, y, lanes) * (x_inverse * y_inverse)
    return -_squared_distance(x, y, lanes)


@jit
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
    """The score of pairs (x[rows[p]], y[columns[p]]) in float64, the same on every machine.

    A product of two float32 numbers is exact in float64.  The sum runs over LANES partial sums
    (component i goes to lane i mod LANES), folded in halves, so its order is fixed: it knows
    nothing of threads, blocks, vector width or position, and equal vectors tie exactly.
    """
    lanes = np.empty(LANES, np.float64)
    for p in range(rows.shape[0]):
        i, j = rows[p], columns[p]
        out[p] = _exact(kind, x[i], y[j], x_inverse[i], y_inverse[j], lanes)


@jit
def square_norms(x: Array, out: Array) -> None:
    """The squared length of every row in float64, summed as in ``exact_pairs``."""
    lanes = np.empty(LANES, np.float64)
    for i in range(x.shape[0]):
        out[i] = _dot(x[i], x[i], lanes)


@jit
def mask_tile(tile: Array, start: Array, position: Array, column: int) -> None:
    """Set the tile to -inf at ``position[start[i]:start[i + 1]]`` (ascending) of every row i.

    ``column`` is the gallery position of the tile's first column.
    """
    width = tile.shape[1]
    for i in range(tile.shape[0]):
        low, high = start[i], start[i + 1]
        if high - low > 32:  # long lists: jump to this tile's part
            low += np.searchsorted(position[low:high], column)
        for p in range(low, high):
            j = position[p] - column
            if j >= width:
                break
            if j >= 0:
                tile[i, j] = -np.inf


# The counting loops are written with an index and np.int32 throughout: only so does the compiler
# turn them into vector instructions, ten times faster.


@jit
def _count_at_least(values: Array, bound: Any) -> Any:
    n = np.int32(0)
    for i in range(values.shape[0]):
        n = np.int32(n + np.int32(values[i] >= bound))
    return n


@jit
def _count_both(values: Array, lower: Any, upper: Any) -> Any:
    at_least, above = np.int32(0), np.int32(0)
    for i in range(values.shape[0]):
        at_least = np.int32(at_least + np.int32(values[i] >= lower))
        above = np.int32(above + np.int32(values[i] > upper))
    return at_least, above


@jit
def _count_outside(values: Array, low: Any, high: Any) -> Any:
    n = np.int32(0)
    for i in range(values.shape[0]):
        n = np.int32(n + np.int32(values[i] >= high) + np.int32(values[i] <= low))
    return n


@jit
def _count_outside_each(values: Array, low: Array, high: Array) -> Any:
    n = np.int32(0)
    for i in range(values.shape[0]):
        n = np.int32(n + np.int32(values[i] >= high[i]) + np.int32(values[i] <= low[i]))
    return n


@jit
def count_tile(
    tile: Array,
    start: Array,
    lower: Array,
    upper: Array,
    counts: Array,
    pair_rows: Array,
    pair_columns: Array,
) -> Any:
    """Count per threshold the scores of its row that are above it for certain.

    Row i has the thresholds ``start[i]:start[i + 1]``, ascending; a score above ``upper`` is
    certainly better, one below ``lower`` certainly worse.  Scores between the two bounds of any
    threshold are listed in ``pair_rows``, ``pair_columns``; returned is how many there are.
    """
    n_pairs = 0
    width = tile.shape[1]
    for i in range(tile.shape[0]):
        first, last = start[i], start[i + 1]
        if first == last:
            continue
        row = tile[i]
        for begin in range(0, width, SEGMENT):
            segment = row[begin : begin + SEGMENT]
            unsure_first, unsure_last = -1, -1
            for m in range(first, last):
                at_least, above = _count_both(segment, lower[m], upper[m])
                if at_least == 0:  # then no higher threshold is reached either
                    break
                counts[m] += above
                if above != at_least:
                    if unsure_first < 0:
                        unsure_first = m
                    unsure_last = m
            if unsure_first < 0:
                continue
            floor, ceiling = lower[unsure_first], upper[unsure_last]
            for j in range(segment.shape[0]):
                value = segment[j]
                if value < floor or value > ceiling:
                    continue
                for m in range(unsure_first, unsure_last + 1):
                    if lower[m] <= value <= upper[m]:
                        pair_rows[n_pairs] = i
                        pair_columns[n_pairs] = begin + j
                        n_pairs += 1
                        break
    return n_pairs


@jit
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
    """Decide the pairs that ``count_tile`` left open: by exact score, then gallery position."""
    for p in range(pair_rows.shape[0]):
        i, j = pair_rows[p], pair_columns[p]
        value = tile[i, j]
        for m in range(start[i], start[i + 1]):
            if lower[m] > value:
                break
            if value <= upper[m] and (
                exact[p] > threshold[m] or (exact[p] == threshold[m] and column + j < position[m])
            ):
                counts[m] += 1


@jit
def _worse(score: float, index: int, other_score: float, other_index: int) -> Any:
    return score < other_score or (score == other_score and index > other_index)


@jit
def _replace_worst(scores: Array, indices: Array, score: float, index: int) -> None:
    """Put a pair in place of the root of a heap whose root is its worst pair."""
    k = scores.shape[0]
    at = 0
    while True:
        child = 2 * at + 1
        if child >= k:
            break
        right = child + 1
        if right < k and _worse(scores[right], indices[right], scores[child], indices[child]):
            child = right
        if not _worse(scores[child], indices[child], score, index):
            break
        scores[at] = scores[child]
        indices[at] = indices[child]
        at = child
    scores[at] = score
    indices[at] = index


@jit
def offer_rows(
    tile: Array,
    kind: int,
    x: Array,
    y: Array,
    x_inverse: Array,
    y_inverse: Array,
    row: int,
    columns: Array,
    column: int,
    unit: float,
    error: Array,
    scores: Array,
    indices: Array,
    farthest: Array,
) -> None:
    """Offer a tile to the k best of each of its rows, and to the one worst if asked for.

    ``scores`` and ``indices`` [N, k] are heaps by exact score (root: the worst kept),
    ``farthest`` [N] the smallest exact score so far, or empty.  The tile's rows are x[row:],
    its columns y[columns[column:]]; a tile entry differs from unit * score by at most error[i].
    Entries of -inf are left out.
    """
    lanes = np.empty(LANES, np.float64)
    width = tile.shape[1]
    want_farthest = farthest.shape[0] > 0
    for r in range(tile.shape[0]):
        i = row + r
        values = tile[r]
        floor = np.float32(unit * scores[i, 0] - error[i])
        ceiling = (
            np.float32(unit * farthest[i] + error[i]) if want_farthest else np.float32(-np.inf)
        )
        for begin in range(0, width, SEGMENT):
            segment = values[begin : begin + SEGMENT]
            if want_farthest:
                hits = _count_outside(segment, ceiling, floor)
            else:
                hits = _count_at_least(segment, floor)
            if hits == 0:
                continue
            for c in range(segment.shape[0]):
                value = segment[c]
                if (value < floor and value > ceiling) or value == -np.inf:
                    continue
                j = columns[column + begin + c]
                score = _exact(kind, x[i], y[j], x_inverse[i], y_inverse[j], lanes)
                if _worse(scores[i, 0], indices[i, 0], score, j):
                    _replace_worst(scores[i], indices[i], score, j)
                    floor = np.float32(unit * scores[i, 0] - error[i])
                if want_farthest and score < farthest[i]:
                    farthest[i] = score
                    ceiling = np.float32(unit * score + error[i])


@jit
def offer_columns(
    tile: Array,
    kind: int,
    x: Array,
    x_inverse: Array,
    row: int,
    column: int,
    unit: float,
    error: Array,
    scores: Array,
    indices: Array,
    farthest: Array,
) -> None:
    """As ``offer_rows`` for a symmetric score, but to the columns: x[row + r] for x[column + c]."""
    lanes = np.empty(LANES, np.float64)
    width = tile.shape[1]
    floor = np.empty(width, np.float32)
    ceiling = np.empty(width, np.float32)
    for c in range(width):
        j = column + c
        floor[c] = unit * scores[j, 0] - error[j]
        ceiling[c] = unit * farthest[j] + error[j]
    for r in range(tile.shape[0]):
        i = row + r
        values = tile[r]
        for begin in range(0, width, SEGMENT):
            segment = values[begin : begin + SEGMENT]
            low = ceiling[begin : begin + SEGMENT]
            high = floor[begin : begin + SEGMENT]
            if _count_outside_each(segment, low, high) == 0:
                continue
            for c in range(segment.shape[0]):
                value = segment[c]
                if value < high[c] and value > low[c]:
                    continue
                j = column + begin + c
                score = _exact(kind, x[j], x[i], x_inverse[j], x_inverse[i], lanes)
                if _worse(scores[j, 0], indices[j, 0], score, i):
                    _replace_worst(scores[j], indices[j], score, i)
                    high[c] = unit * scores[j, 0] - error[j]
                if score < farthest[j]:
                    farthest[j] = score
                    low[c] = unit * score + error[j]


@jit
def histogram_tile(tile: Array, low: float, per_bin: float, counts: Array) -> None:
    """Add the finite scores of a tile to equal bins that start at ``low``, clipped at the ends."""
    last = counts.shape[0] - 1
    for i in range(tile.shape[0]):
        for value in tile[i]:
            if value == -np.inf:
                continue
            at = int((np.float64(value) - low) * per_bin)
            counts[min(max(at, 0), last)] += 1


@jit
def _reciprocal(neighbors: Array, i: int, k: int, out: Array) -> Any:
    """R(i, k): the items of i's list of k + 1 whose own lists of k + 1 hold i."""
    n = 0
    for a in range(k + 1):
        j = neighbors[i, a]
        for b in range(k + 1):
            if neighbors[j, b] == i:
                out[n] = j
                n += 1
                break
    return n


@jit
def expand_neighbors(
    neighbors: Array, k1: int, half: int, begin: int, end: int, out: Array, sizes: Array
) -> None:
    """The expanded k-reciprocal set of items begin..end-1, ascending, into out[i - begin]."""
    own = np.empty(k1 + 1, np.int32)
    theirs = np.empty(half + 1, np.int32)
    for i in range(begin, end):
        n_own = _reciprocal(neighbors, i, k1, own)
        members = out[i - begin]
        n = n_own
        members[:n] = own[:n]
        for a in range(n_own):
            n_theirs = _reciprocal(neighbors, own[a], half, theirs)
            common = 0
            for b in range(n_theirs):
                for c in range(n_own):
                    if theirs[b] == own[c]:
                        common += 1
                        break
            if 3 * common > 2 * n_theirs:
                members[n : n + n_theirs] = theirs[:n_theirs]
                n += n_theirs
        members[:n].sort()
        unique = 0
        for a in range(n):
            if a == 0 or members[a] != members[a - 1]:
                members[unique] = members[a]
                unique += 1
        sizes[i] = unique


@jit
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
) -> Any:
    """Rows begin..end-1 of the mean of the sparse rows of each item's k2 nearest, ascending."""
    n = neighbors.shape[0]
    total = np.zeros(n, np.float64)
    seen = np.zeros(n, np.bool_)
    filled = 0
    for i in range(begin, end):
        size = 0
        members = out_column[filled:]
        for t in range(k2):
            j = neighbors[i, t]
            for p in range(start[j], start[j + 1]):
                c = column[p]
                if not seen[c]:
                    seen[c] = True
                    members[size] = c
                    size += 1
                total[c] += weight[p]
        members[:size].sort()
        for a in range(size):
            c = members[a]
            out_weight[filled + a] = total[c] / k2
            total[c] = 0.0
            seen[c] = False
        sizes[i] = size
        filled += size
    return filled


@jit
def transpose_rows(
    start: Array,
    column: Array,
    weight: Array,
    first_row: int,
    out_start: Array,
    out_row: Array,
    out_weight: Array,
) -> None:
    """The sparse rows from ``first_row`` on, by column; rows are renumbered from 0."""
    n = start.shape[0] - 1
    out_start[:] = 0
    for p in range(start[first_row], start[n]):
        out_start[column[p] + 1] += 1
    for c in range(n):
        out_start[c + 1] += out_start[c]
    at = out_start[:-1].copy()
    for i in range(first_row, n):
        for p in range(start[i], start[i + 1]):
            c = column[p]
            out_row[at[c]] = i - first_row
            out_weight[at[c]] = weight[p]
            at[c] += 1


@jit
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
) -> Any:
    """S(i, g) = sum over t of min(V_i[t], V_g[t]) for queries begin..end-1, where it is not 0.

    Returned is how much of ``out_item`` was needed; -1 if it is too small.
    """
    total = np.zeros(n_gallery, np.float64)
    members = np.empty(n_gallery, np.int32)
    filled = 0
    for i in range(begin, end):
        size = 0
        for p in range(start[i], start[i + 1]):
            c = column[p]
            for b in range(by_start[c], by_start[c + 1]):
                g = by_row[b]
                if total[g] == 0.0:
                    members[size] = g
                    size += 1
                total[g] += min(weight[p], by_weight[b])
        if filled + size > out_item.shape[0]:
            return -1
        members[:size].sort()
        for a in range(size):
            g = members[a]
            out_item[filled + a] = g
            out_overlap[filled + a] = total[g]
            total[g] = 0.0
        sizes[i - begin] = size
        filled += size
    return filled
