"""k-reciprocal re-ranking from features: sparse, exact, and never N x N.

Z. Zhong, L. Zheng, D. Cao, S. Li: Re-ranking Person Re-identification with k-reciprocal
Encoding, CVPR 2017.  All N = Q + G items are put together; D_ij is the squared Euclidean distance
(2 - 2 cos for unit vectors), and every row is divided by its largest entry m_i.

1. R(i, k): the items among i's k nearest that have i among their k nearest, and i itself.
2. Every c in R(i, k1) with |R(c, k1/2) ∩ R(i, k1)| > 2/3 |R(c, k1/2)| adds R(c, k1/2).
3. V_i[j] = exp(-D_ij / m_i) for j in that set, 0 elsewhere, divided by its sum.
4. V_i becomes the mean of V over i and its k2 - 1 nearest (local query expansion).
5. J_ij = 1 - S / (2 - S) with S = sum_t min(V_i[t], V_j[t]).
6. The new distance is (1 - lambda) J_ij + lambda D_ij / m_i.

Where published code leaves a choice, this is what is done here: an item comes first in its own
list even among duplicates; equal distances are ordered by index (queries first); k1/2 is rounded
half to even, as NumPy does; m_i is taken over all N items.  ``power=2`` squares D once more, which
is what torchreid (whose "euclidean" is squared already, and is squared again) and code that
squares cosine distances compute.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt

from crosscam.errors import FeatureError
from crosscam.retrieval.device import resolve_device
from crosscam.retrieval.inputs import COSINE, check_count, check_dimensions, check_features
from crosscam.retrieval.lists import Lists, blocks, select
from crosscam.retrieval.pairs import FeaturePairs, Floats, Indices, Metric, Singles
from crosscam.retrieval.parallel import run_tasks, thread_count
from crosscam.retrieval.rank import (
    DEFAULT_BLOCK,
    MatchRanks,
    TileMaker,
    best_k,
    candidates,
    count_better,
    finish_ranks,
    order_worst_first,
)

__all__ = ["RerankSettings", "rerank"]

Items = npt.NDArray[np.int32]


@dataclass(frozen=True)
class RerankSettings:
    """The paper's numbers; ``power`` is explained at the top of this module."""

    k1: int = 20  # neighbors that make an item's reciprocal set
    k2: int = 6  # neighbors whose encodings are averaged, itself included; 1 averages nothing
    lambda_value: float = 0.3  # weight of the original distance, in [0, 1]
    power: int = 1  # 1: D is the squared Euclidean distance; 2: its square

    def __post_init__(self) -> None:
        check_count(self.k1, "k1")
        check_count(self.k2, "k2")
        if not 0 <= self.lambda_value <= 1:
            raise FeatureError(
                f"lambda_value must be in [0, 1], got {self.lambda_value!r} (on the command line "
                "--lambda)."
            )
        if self.power not in (1, 2):
            raise FeatureError(f"power must be 1 or 2, got {self.power!r}.")

    @property
    def list_length(self) -> int:
        """How many nearest items are needed of every item, itself included."""
        return max(self.k1 + 1, self.k2)


@dataclass(frozen=True)
class _Encoding:
    """The sparse rows V of all items, the same by column for the gallery, and D's row maxima."""

    start: Indices  # [N + 1]
    column: Items
    weight: Singles
    gallery_start: Indices  # [N + 1]
    gallery_row: Items  # 0..G-1
    gallery_weight: Singles
    largest: Floats  # [N] m_i before ``power``


def rerank(
    query_features: npt.ArrayLike,
    gallery_features: npt.ArrayLike,
    settings: RerankSettings | None = None,
    *,
    metric: Metric = "cosine",
    threads: int | None = None,
    device: str = "cpu",
    block: int = DEFAULT_BLOCK,
) -> Singles:
    """Re-ranked distances [Q, G], smaller is nearer, within 1e-6 of the definition above.

        distances = rerank(query_features, gallery_features)
        m = evaluate_distances(distances, query_pids, query_camids, gallery_pids, gallery_camids)

    Only to judge, ``evaluate(..., rerank=RerankSettings())`` gives the numbers without this
    matrix.  ``metric="cosine"`` brings rows to unit length first.

    Memory: the result (4 Q G bytes), two float32 copies of all features while neighbors are
    looked for, then some 3 KB per item, and a few tiles per thread.
    """
    settings = settings or RerankSettings()
    kernels, device = resolve_device(device)
    threads, block = thread_count(threads), check_count(block, "block")
    query = check_features(query_features, "query_features")
    gallery = check_features(gallery_features, "gallery_features")
    pairs = FeaturePairs(query, gallery, metric, kernels=kernels)
    encoding = _encode(pairs, settings, kernels, threads, block, device)
    out = np.empty((len(query), len(gallery)), np.float32)

    def worker(tasks: Iterable[tuple[int, int]]) -> None:
        for first, last in tasks:
            items, overlap, starts = _overlaps(encoding, first, last, len(gallery), kernels)
            left = _rows64(pairs, query, pairs.query_inverse, slice(first, last))
            largest = encoding.largest[first:last, None]
            for begin, end in blocks(len(gallery), 1024):
                right = _rows64(pairs, gallery, pairs.gallery_inverse, slice(begin, end))
                squared = _squared64(pairs, left, right)
                original = _normalized(squared, largest, settings)
                share = np.ones_like(original)
                row = np.repeat(np.arange(last - first), np.diff(starts))
                inside = (items >= begin) & (items < end)
                share[row[inside], items[inside] - begin] = _jaccard(overlap[inside])
                out[first:last, begin:end] = _blend(share, original, settings)

    run_tasks(worker, blocks(len(query), 256), threads)
    return out


def _rows64(pairs: FeaturePairs, features: Singles, inverse: Floats, rows: slice) -> Floats:
    wide = features[rows].astype(np.float64)
    return wide * inverse[rows, None] if pairs.kind == COSINE else wide


def _squared64(pairs: FeaturePairs, left: Floats, right: Floats) -> Floats:
    product = left @ right.T
    product *= -2
    if pairs.kind == COSINE:
        product += 2
    else:
        product += (left * left).sum(axis=1)[:, None]
        product += (right * right).sum(axis=1)
    return np.maximum(product, 0, out=product)


def _squared(pairs: FeaturePairs, score: Floats) -> Floats:
    """The squared Euclidean distance from an exact score."""
    return np.maximum(2 - 2 * score, 0) if pairs.kind == COSINE else -score


def _normalized(squared: Floats, largest: Floats, settings: RerankSettings) -> Floats:
    """D_ij / m_i; 0 where all items are one and the same point."""
    ratio = np.divide(squared, largest, out=np.zeros_like(squared), where=largest > 0)
    return ratio if settings.power == 1 else ratio * ratio


def _jaccard(overlap: npt.NDArray[np.floating]) -> Floats:
    wide = overlap.astype(np.float64)
    return 1 - wide / (2 - wide)


def _blend(jaccard: Floats, original: Floats, settings: RerankSettings) -> Floats:
    weight = settings.lambda_value
    return (1 - weight) * jaccard + weight * original


def _nearest(
    pairs: FeaturePairs,
    k: int,
    kernels: ModuleType,
    threads: int,
    block: int,
    device: str,
) -> tuple[Items, Floats]:
    """Every item's k nearest, itself first, and the exact score of its farthest.

    ``pairs`` compares the items with themselves.  The score is symmetric, so each tile of the
    upper triangle serves its rows and its columns: half the matrix product.
    """
    n = len(pairs.query)
    nearest = np.empty((n, k), np.int32)
    nearest[:, 0] = np.arange(n)
    farthest = np.full(n, np.inf)
    if device != "cpu" or not kernels.STREAMS:
        itself = Lists(np.arange(n + 1), np.arange(n))
        options: dict[str, Any] = {"kernels": kernels, "block": block, "device": device}
        if k > 1:
            rows, _ = best_k(pairs, k - 1, itself, threads=threads, **options)
            nearest[:, 1:] = rows
        for queries, columns in candidates(pairs, None, None, **options):
            np.minimum.at(farthest, queries, pairs.exact(queries, columns))
        return nearest, farthest

    scores = np.full((n, max(1, k - 1)), -np.inf)
    rows = np.full(scores.shape, np.iinfo(np.int64).max)
    parts = blocks(n, block)
    locks = [threading.Lock() for _ in parts]

    def worker(tasks: Iterable[tuple[int, int]]) -> None:
        make = TileMaker(pairs)
        for i, j in tasks:
            (row, row_end), (column, column_end) = parts[i], parts[j]
            packed = make.pack(column, column_end)
            tile = make.tile(slice(row, row_end), packed, column, column_end)
            if i == j:
                np.fill_diagonal(tile, -np.inf)
            with locks[i]:
                kernels.offer_rows(
                    tile,
                    pairs.kind,
                    pairs.query,
                    pairs.query,
                    pairs.query_inverse,
                    pairs.query_inverse,
                    row,
                    pairs.columns,
                    column,
                    pairs.unit,
                    pairs.error,
                    scores,
                    rows,
                    farthest,
                )
            if i == j:
                continue
            with locks[j]:
                kernels.offer_columns(
                    tile,
                    pairs.kind,
                    pairs.query,
                    pairs.query_inverse,
                    row,
                    column,
                    pairs.unit,
                    pairs.error,
                    scores,
                    rows,
                    farthest,
                )

    # Diagonal tiles first: they give every item a first list at once.
    tasks = [(i, i + d) for d in range(len(parts)) for i in range(len(parts) - d)]
    run_tasks(worker, tasks, threads)
    if k > 1:
        order = np.lexsort((rows, -scores), axis=1)
        nearest[:, 1:] = np.take_along_axis(rows, order, axis=1)
    return nearest, np.minimum(farthest, 1.0 if pairs.kind == COSINE else 0.0)


def _encode(
    between: FeaturePairs,
    settings: RerankSettings,
    kernels: ModuleType,
    threads: int,
    block: int,
    device: str,
) -> _Encoding:
    """V of all items: the queries of ``between``, then its columns."""
    n_queries = len(between.query)
    gallery = between.gallery if between.all_columns else between.gallery[between.columns]
    items = np.concatenate([between.query, gallery])
    n, k = len(items), settings.list_length
    if n < k:
        raise FeatureError(
            f"re-ranking with k1={settings.k1}, k2={settings.k2} needs at least {k} items "
            f"(queries and gallery together), got {n}. Use k1 of at most {n - 1} and k2 of at "
            f"most {n} (on the command line --k1 and --k2)."
        )
    metric: Metric = "cosine" if between.kind == COSINE else "sqeuclidean"
    pairs = FeaturePairs(items, items, metric, kernels=kernels)
    nearest, farthest = _nearest(pairs, k, kernels, threads, block, device)
    largest = _squared(pairs, farthest)
    pairs.packed_query = pairs.packed_query[:0]  # no more tiles are made of it

    start, column, weight = _weights(pairs, nearest, largest, settings, kernels, threads)
    del pairs, items
    if settings.k2 > 1:
        start, column, weight = _averaged(
            nearest, settings.k2, start, column, weight, kernels, threads
        )
    of_gallery = int(start[-1] - start[n_queries])
    by_start = np.empty(n + 1, np.int64)
    by_row = np.empty(of_gallery, np.int32)
    by_weight = np.empty(of_gallery, np.float32)
    kernels.transpose_rows(start, column, weight, n_queries, by_start, by_row, by_weight)
    return _Encoding(start, column, weight, by_start, by_row, by_weight, largest)


def _join(
    parts: dict[int, tuple[Items, Singles]], sizes: Indices
) -> tuple[Indices, Items, Singles]:
    """Sparse rows from their chunks, keyed by first row."""
    start = np.zeros(len(sizes) + 1, np.int64)
    np.cumsum(sizes, out=start[1:])
    column = np.empty(start[-1], np.int32)
    weight = np.empty(start[-1], np.float32)
    for first in sorted(parts):
        columns, weights = parts.pop(first)
        column[start[first] : start[first] + len(columns)] = columns
        weight[start[first] : start[first] + len(columns)] = weights
    return start, column, weight


def _weights(
    pairs: FeaturePairs,
    nearest: Items,
    largest: Floats,
    settings: RerankSettings,
    kernels: ModuleType,
    threads: int,
) -> tuple[Indices, Items, Singles]:
    """Steps 1 to 3: the expanded reciprocal sets and their weights, as sparse rows."""
    half = round(settings.k1 / 2)
    capacity = (settings.k1 + 1) * (half + 2)
    sizes = np.zeros(len(nearest), np.int64)
    parts: dict[int, tuple[Items, Singles]] = {}

    def worker(tasks: Iterable[tuple[int, int]]) -> None:
        for first, last in tasks:
            members = np.empty((last - first, capacity), np.int32)
            kernels.expand_neighbors(nearest, settings.k1, half, first, last, members, sizes)
            size = sizes[first:last]
            columns = members[np.arange(capacity) < size[:, None]]
            own = np.repeat(np.arange(last - first), size)
            squared = _squared(pairs, pairs.exact(own + first, columns.astype(np.int64)))
            value = np.exp(-_normalized(squared, largest[own + first], settings))
            total = np.bincount(own, value, last - first)  # adds in order
            parts[first] = columns, (value / total[own]).astype(np.float32)

    run_tasks(worker, blocks(len(nearest), 512), threads)
    return _join(parts, sizes)


def _averaged(
    nearest: Items,
    k2: int,
    start: Indices,
    column: Items,
    weight: Singles,
    kernels: ModuleType,
    threads: int,
) -> tuple[Indices, Items, Singles]:
    """Step 4: every sparse row replaced by the mean over the item's k2 nearest."""
    before = np.diff(start)
    sizes = np.zeros(len(nearest), np.int64)
    parts: dict[int, tuple[Items, Singles]] = {}

    def worker(tasks: Iterable[tuple[int, int]]) -> None:
        for first, last in tasks:
            capacity = int(before[nearest[first:last, :k2]].sum())
            columns = np.empty(capacity, np.int32)
            weights = np.empty(capacity, np.float32)
            n = kernels.average_rows(
                nearest, k2, start, column, weight, first, last, columns, weights, sizes
            )
            parts[first] = columns[:n].copy(), weights[:n].copy()

    run_tasks(worker, blocks(len(nearest), 1024), threads)
    return _join(parts, sizes)


def _overlaps(
    encoding: _Encoding, first: int, last: int, n_gallery: int, kernels: ModuleType
) -> tuple[Items, Singles, Indices]:
    """Step 5: the gallery items (ascending) with S > 0 of queries first..last-1, and S."""
    own = encoding.column[encoding.start[first] : encoding.start[last]]
    touched = np.diff(encoding.gallery_start)[own]
    ends = (encoding.start[first : last + 1] - encoding.start[first]).astype(np.int64)
    running = np.concatenate([[0], np.cumsum(touched)])
    capacity = int(np.minimum(np.diff(running[ends]), n_gallery).sum())
    items = np.empty(capacity, np.int32)
    overlap = np.empty(capacity, np.float32)
    sizes = np.empty(last - first, np.int64)
    n = kernels.overlap_rows(
        encoding.start,
        encoding.column,
        encoding.weight,
        encoding.gallery_start,
        encoding.gallery_row,
        encoding.gallery_weight,
        first,
        last,
        n_gallery,
        items,
        overlap,
        sizes,
    )
    starts = np.zeros(last - first + 1, np.int64)
    np.cumsum(sizes, out=starts[1:])
    return items[:n], overlap[:n], starts


class _Remote(FeaturePairs):
    """Pairs that share no neighbor: J = 1, so the new distance grows with the original one.

    A score is minus the re-ranked distance.
    """

    def __init__(self, pairs: FeaturePairs, largest: Floats, settings: RerankSettings) -> None:
        vars(self).update(vars(pairs))
        self._largest, self._settings = largest, settings

    def bounds(self, rows: Indices, score: Floats) -> tuple[Singles, Singles]:
        weight, power = self._settings.lambda_value, self._settings.power
        if weight == 0:  # all are equally far: every one is decided by its position
            top = np.full(len(rows), np.finfo(np.float32).max, np.float32)
            return -top, top
        largest = self._largest[rows]
        ratio = np.maximum((-score - (1 - weight)) / weight, 0) ** (1 / power)
        # The way back from the new distance loses some digits, more so for a small lambda.
        slack = self.unit * 2 * largest * (2.0**-50 / weight) ** (1 / power)
        squared = ratio * largest
        middle = self.unit * (1 - squared / 2 if self.kind == COSINE else -squared)
        error = self.error[rows] + slack
        return (middle - error).astype(np.float32), (middle + error).astype(np.float32)

    def exact(self, rows: Indices, columns: Indices) -> Floats:
        squared = _squared(self, super().exact(rows, columns))
        original = _normalized(squared, self._largest[rows], self._settings)
        return -_blend(np.ones_like(original), original, self._settings)


def reranked_match_ranks(
    pairs: FeaturePairs,
    same_person: Lists,
    junk: npt.NDArray[np.bool_],
    settings: RerankSettings,
    *,
    kernels: ModuleType,
    threads: int,
    block: int,
    device: str,
) -> MatchRanks:
    """``rank.match_ranks`` by re-ranked distance, still without a Q x G matrix.

    The few gallery items that share a neighbor with a query (S > 0) get their exact distance;
    all others have J = 1 and are counted tile by tile like unranked ones.
    """
    check_dimensions(pairs.query, pairs.gallery)
    encoding = _encode(pairs, settings, kernels, threads, block, device)
    n_queries, n_columns = pairs.shape
    largest = encoding.largest[:n_queries]
    matches = select(same_person, ~junk)
    is_match = ~junk
    distance = np.empty(len(same_person.values))  # of every pair of one person
    shared_better = np.zeros(len(same_person.values), np.int64)
    shared: dict[int, tuple[Items, Indices]] = {}

    def worker(tasks: Iterable[tuple[int, int]]) -> None:
        for first, last in tasks:
            items, overlap, starts = _overlaps(encoding, first, last, n_columns, kernels)
            row = np.repeat(np.arange(first, last), np.diff(starts))
            squared = _squared(pairs, pairs.exact(row, items.astype(np.int64)))
            original = _normalized(squared, largest[row], settings)
            new = _blend(_jaccard(overlap), original, settings)
            person = slice(same_person.start[first], same_person.start[last])
            own_row, own = same_person.rows_of(first, last), same_person.values[person]
            squared = _squared(pairs, pairs.exact(own_row, own))
            original = _normalized(squared, largest[own_row], settings)
            distance[person] = _blend(np.ones_like(original), original, settings)
            for q in range(first, last):
                part = slice(starts[q - first], starts[q - first + 1])
                mine = slice(same_person.start[q], same_person.start[q + 1])
                _count_shared(
                    items[part],
                    new[part],
                    same_person.values[mine],
                    distance[mine],
                    shared_better[mine],
                )
            shared[first] = items, np.diff(starts)

    run_tasks(worker, blocks(n_queries, 64), threads)
    score = -distance[is_match]
    order = order_worst_first(matches, score)
    ordered = Lists(matches.start, matches.values[order])
    score, better = score[order], shared_better[is_match][order]

    # Only a match farther than 1 - lambda can have an unshared item before it.
    reached = -score >= 1 - settings.lambda_value
    open_ = select(ordered, reached)
    excluded = _union(same_person, shared, open_, n_queries)
    better[reached] += count_better(
        _Remote(pairs, largest, settings),
        open_,
        score[reached],
        excluded,
        kernels=kernels,
        threads=threads,
        block=block,
        device=device,
    )
    return finish_ranks(ordered, score, better)


def _count_shared(
    items: Items, new: Floats, own: Indices, distance: Floats, better: Indices
) -> None:
    """Set the distances of the own items that are shared; count the other shared before each."""
    place = np.searchsorted(items, own)
    found = place < len(items)
    found[found] = items[place[found]] == own[found]
    distance[found] = new[place[found]]
    rest = np.ones(len(items), bool)
    rest[place[found]] = False
    others, other_items = new[rest], items[rest]
    order = np.lexsort((other_items, others))
    others, other_items = others[order], other_items[order]
    low = np.searchsorted(others, distance, "left")
    high = np.searchsorted(others, distance, "right")
    better[:] = low
    for t in np.flatnonzero(high > low):
        better[t] += np.searchsorted(other_items[low[t] : high[t]], own[t])


def _union(
    same_person: Lists,
    shared: dict[int, tuple[Items, Indices]],
    open_: Lists,
    n_queries: int,
) -> Lists:
    """Own and shared columns of the queries that have an open match, ascending."""
    wanted = np.diff(open_.start) > 0
    parts: list[Indices] = []
    sizes = np.zeros(n_queries, np.int64)
    for first in sorted(shared):
        items, counts = shared.pop(first)
        ends = np.cumsum(counts)
        for q, (end, count) in enumerate(zip(ends, counts, strict=True), start=first):
            if wanted[q]:
                own = same_person.values[same_person.start[q] : same_person.start[q + 1]]
                part = np.union1d(items[end - count : end], own)
                sizes[q] = len(part)
                parts.append(part)
    start = np.zeros(n_queries + 1, np.int64)
    np.cumsum(sizes, out=start[1:])
    return Lists(start, np.concatenate(parts) if parts else np.empty(0, np.int64))
