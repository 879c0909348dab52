"""Ranks by counting, and ranked lists, both without a Q x G matrix and without sorting it.

The order is (score, gallery position) everywhere: better scores first, and of equal scores the
earlier gallery row.  The rank of a match is the number of gallery items before it, so only the
scores of the matches are kept and everything else is compared with them tile by tile.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from types import ModuleType

import numpy as np

from crosscam.retrieval.device import candidates_on_device, count_better_on_device
from crosscam.retrieval.lists import Lists, blocks, select
from crosscam.retrieval.pairs import FeaturePairs, Floats, Indices, Singles
from crosscam.retrieval.parallel import run_tasks

__all__ = [
    "MatchRanks",
    "TileMaker",
    "best_k",
    "candidates",
    "count_better",
    "finish_ranks",
    "match_ranks",
    "order_worst_first",
]

DEFAULT_BLOCK = 1024  # rows and columns of a tile: 4 MiB, and a matrix product at full speed
_GPU_TILES = 64  # as much of them at a time fills a GPU, where a wait costs more than 256 MiB


def _spread(total: int, block: int, threads: int) -> int:
    """A block size that gives every thread several blocks, as far as ``block`` allows."""
    return max(1, min(block, max(128, -(-total // (4 * threads)))))


class TileMaker:
    """Makes tiles of ``pairs`` in memory of its own; one per worker."""

    def __init__(self, pairs: FeaturePairs) -> None:
        self.pairs = pairs
        self._packed = np.empty((0, pairs.width), np.float32)
        self._tile = np.empty(0, np.float32)

    def pack(self, start: int, stop: int) -> Singles:
        first, last = self.pairs.images(start, stop)
        if len(self._packed) < last - first:
            self._packed = np.empty((last - first, self.pairs.width), np.float32)
        return self.pairs.pack_gallery(first, last, self._packed)

    def tile(self, rows: slice, packed: Singles, start: int, stop: int) -> Singles:
        query = self.pairs.packed_query[rows]
        size = len(query) * len(packed)
        if len(self._tile) < size:
            self._tile = np.empty(size, np.float32)
        out = self._tile[:size].reshape(len(query), len(packed))
        np.matmul(query, packed.T, out=out)
        return self.pairs.reduce_tile(out, start, stop)


def count_better(
    pairs: FeaturePairs,
    thresholds: Lists,
    score: Floats,
    excluded: Lists,
    *,
    kernels: ModuleType,
    threads: int,
    block: int = DEFAULT_BLOCK,
    device: str = "cpu",
) -> Indices:
    """How many columns, other than the excluded ones, come before each threshold.

    ``thresholds`` holds positions of columns, in each query's list ordered worst first, and
    ``score`` their exact scores; a column is before a threshold if its score is larger, or equal
    and its position smaller.  ``excluded`` lists positions in ascending order.

    Memory: a tile of block x block float32 and a packed block of the gallery per thread.
    """
    n_queries, n_columns = pairs.shape
    counts = np.zeros(len(score), np.int64)
    if not len(score):
        return counts
    lower, upper = pairs.bounds(thresholds.rows, score)
    if device != "cpu":
        return count_better_on_device(
            pairs, thresholds, score, lower, upper, excluded, device=device, block=block
        )
    row_blocks = blocks(n_queries, block)
    totals: list[Indices] = []

    def worker(tasks: Iterable[tuple[int, int]]) -> None:
        own = np.zeros_like(counts)
        make = TileMaker(pairs)
        pair_rows = np.empty(block * block, np.int32)
        pair_columns = np.empty(block * block, np.int32)
        for start, stop in tasks:
            packed = make.pack(start, stop)
            for first, last in row_blocks:
                own_start = thresholds.start[first : last + 1]
                if own_start[0] == own_start[-1]:
                    continue
                tile = make.tile(slice(first, last), packed, start, stop)
                kernels.mask_tile(tile, excluded.start[first : last + 1], excluded.values, start)
                n = kernels.count_tile(tile, own_start, lower, upper, own, pair_rows, pair_columns)
                if n:
                    rows, columns = pair_rows[:n], pair_columns[:n]
                    exact = pairs.exact(rows + np.int64(first), columns + np.int64(start))
                    kernels.settle_pairs(
                        tile,
                        start,
                        rows,
                        columns,
                        exact,
                        own_start,
                        lower,
                        upper,
                        score,
                        thresholds.values,
                        own,
                    )
        totals.append(own)

    run_tasks(worker, blocks(n_columns, _spread(n_columns, block, threads)), threads)
    for own in totals:
        counts += own
    return counts


@dataclass(frozen=True)
class MatchRanks:
    """Where every query's matches stand after junk is removed, best first."""

    start: Indices  # [Q + 1]
    ranks: Indices  # [T] zero-based
    scores: Floats  # [T] exact
    columns: Indices  # [T] positions


def order_worst_first(lists: Lists, score: Floats) -> Indices:
    """The permutation that orders every query's values from worst to best."""
    return np.lexsort((-lists.values, score, lists.rows))


def finish_ranks(matches: Lists, score: Floats, better: Indices) -> MatchRanks:
    """From matches ordered worst first, with the non-matches before each, to ranks."""
    reverse = np.lexsort((-np.arange(len(score)), matches.rows))
    before = np.arange(len(score)) - np.repeat(matches.start[:-1], np.diff(matches.start))
    return MatchRanks(
        matches.start, better[reverse] + before, score[reverse], matches.values[reverse]
    )


def match_ranks(
    pairs: FeaturePairs,
    same_person: Lists,
    junk: np.ndarray[tuple[int], np.dtype[np.bool_]],
    *,
    kernels: ModuleType,
    threads: int,
    block: int = DEFAULT_BLOCK,
    device: str = "cpu",
) -> MatchRanks:
    """The rank of every match among the columns that are not junk.

    ``same_person`` lists for every query the columns of its person, ``junk`` [T] which of them
    do not count.  All of them are kept out of the counting: a match is preceded by the better
    non-matches, which are counted, and the better matches, which are known.
    """
    matches = select(same_person, ~junk)
    score = pairs.exact(matches.rows, matches.values)
    order = order_worst_first(matches, score)
    matches, score = Lists(matches.start, matches.values[order]), score[order]
    better = count_better(
        pairs,
        matches,
        score,
        same_person,
        kernels=kernels,
        threads=threads,
        block=block,
        device=device,
    )
    return finish_ranks(matches, score, better)


def best_k(
    pairs: FeaturePairs,
    k: int,
    excluded: Lists | None,
    *,
    kernels: ModuleType,
    threads: int,
    block: int = DEFAULT_BLOCK,
    device: str = "cpu",
) -> tuple[Indices, Floats]:
    """The gallery rows and exact scores of the k best columns of every query, best first.

    Places that stay empty (more columns excluded than the list can spare) hold row -1 and score
    -inf.  The columns must be single images.
    """
    n_queries = pairs.shape[0]
    scores = np.full((n_queries, k), -np.inf)
    rows = np.full((n_queries, k), np.iinfo(np.int64).max)
    if device == "cpu" and kernels.STREAMS:
        _stream_best(pairs, excluded, scores, rows, kernels, threads, block)
    else:
        found = candidates(pairs, k, excluded, kernels=kernels, block=block, device=device)
        for queries, columns in found:
            _keep_best(pairs, queries, columns, scores, rows)
    order = np.lexsort((rows, -scores), axis=1)
    scores = np.take_along_axis(scores, order, axis=1)
    rows = np.take_along_axis(rows, order, axis=1)
    return np.where(np.isfinite(scores), rows, -1), scores


def candidates(
    pairs: FeaturePairs,
    k: int | None,
    excluded: Lists | None,
    *,
    kernels: ModuleType,
    block: int,
    device: str = "cpu",
) -> Iterator[tuple[Indices, Indices]]:
    """(queries, columns) among which the k best are for certain, some queries at a time.

    ``k=None`` asks for the worst one instead.
    """
    n_queries, n_columns = pairs.shape
    area = block * block * (1 if device in ("cpu", "torch:cpu") else _GPU_TILES)
    rows = blocks(n_queries, max(1, area // n_columns))
    if device != "cpu":
        yield from candidates_on_device(pairs, k, excluded, rows, device=device, block=block)
        return
    make = TileMaker(pairs)
    packed = make.pack(0, n_columns)
    for first, last in rows:
        tile = make.tile(slice(first, last), packed, 0, n_columns)
        # The true k-th best is at least kth - error, and shows as no less than kth - 2 error.
        slack = 2.1 * pairs.error[first:last, None]
        if k is None:
            found = tile <= tile.min(axis=1, keepdims=True) + slack
        else:
            if excluded is not None:
                kernels.mask_tile(tile, excluded.start[first : last + 1], excluded.values, 0)
            at = max(0, n_columns - k)
            kth = np.partition(tile, at, axis=1)[:, at : at + 1]
            found = (tile >= kth - slack) & (tile > -np.inf)
        queries, columns = np.nonzero(found)
        yield queries + first, columns


def _keep_best(
    pairs: FeaturePairs, queries: Indices, columns: Indices, scores: Floats, rows: Indices
) -> None:
    """Of the candidates of each query (ascending) keep the best by (exact score, position)."""
    score = pairs.exact(queries, columns)
    order = np.lexsort((columns, -score, queries))
    place = np.arange(len(order)) - np.searchsorted(queries, queries)
    keep = place < scores.shape[1]
    order, place = order[keep], place[keep]
    scores[queries[order], place] = score[order]
    rows[queries[order], place] = pairs.columns[columns[order]]


def _stream_best(
    pairs: FeaturePairs,
    excluded: Lists | None,
    scores: Floats,
    rows: Indices,
    kernels: ModuleType,
    threads: int,
    block: int,
) -> None:
    """Fill heaps tile by tile; memory per thread as in ``count_better``."""
    n_queries, n_columns = pairs.shape

    def worker(tasks: Iterable[tuple[int, int]]) -> None:
        make = TileMaker(pairs)
        for first, last in tasks:
            for start, stop in blocks(n_columns, block):
                tile = make.tile(slice(first, last), make.pack(start, stop), start, stop)
                if excluded is not None:
                    kernels.mask_tile(
                        tile, excluded.start[first : last + 1], excluded.values, start
                    )
                kernels.offer_rows(
                    tile,
                    pairs.kind,
                    pairs.query,
                    pairs.gallery,
                    pairs.query_inverse,
                    pairs.gallery_inverse,
                    first,
                    pairs.columns,
                    start,
                    pairs.unit,
                    pairs.error,
                    scores,
                    rows,
                    np.empty(0),
                )

    run_tasks(worker, blocks(n_queries, _spread(n_queries, block, threads)), threads)
