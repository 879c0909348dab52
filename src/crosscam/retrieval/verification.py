"""Decisions instead of rankings: which threshold accepts how many, right and wrong.

Scores are what pairs are ordered by, larger is better: cosine similarities, or minus the
distance.  A pair is accepted if its score is *above* the threshold.  The threshold for a rate f
is the lowest observed wrong score that lets no more than the share f of wrong ones pass: with n
wrong scores in descending order it is number floor(f n) + 1, or -inf where there is none.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt

from crosscam.errors import FeatureError
from crosscam.retrieval.device import resolve_device
from crosscam.retrieval.evaluation import SameCamera, prepare
from crosscam.retrieval.inputs import COSINE, check_count
from crosscam.retrieval.lists import Lists, blocks, select
from crosscam.retrieval.pairs import FeaturePairs, Floats, Metric
from crosscam.retrieval.parallel import run_tasks, thread_count
from crosscam.retrieval.rank import DEFAULT_BLOCK, TileMaker, best_k, match_ranks

__all__ = ["OpenSet", "Roc", "open_set", "roc"]

_BINS = 1 << 16


@dataclass(frozen=True)
class Roc:
    """Verification of (query, gallery) pairs: same person or not."""

    fpr: Floats  # [F] the false-positive rates asked for
    tpr: Floats  # [F] the share of right pairs accepted
    threshold: Floats  # [F] accept above this: cosine similarity, or minus the distance
    n_positive: int
    n_negative: int


@dataclass(frozen=True)
class OpenSet:
    """Identification where the person may not be in the gallery.

    DIR (detection and identification rate): the share of queries with a match in the gallery
    that have it among the first ``rank`` and above the threshold.  FAR (false-alarm rate): the
    share of queries without any match whose best score is above it (P. J. Grother et al.,
    Face Recognition Vendor Test, NIST; Phillips, Grother, Micheals, Handbook of Face
    Recognition, chapter 14).
    """

    far: Floats  # [F] the false-alarm rates asked for
    dir: Floats  # [F]
    threshold: Floats  # [F] accept above this: cosine similarity, or minus the distance
    rank: int
    n_known: int  # queries with a match
    n_unknown: int


def roc(
    query_features: npt.ArrayLike,
    query_pids: npt.ArrayLike,
    query_camids: npt.ArrayLike | None,
    gallery_features: npt.ArrayLike,
    gallery_pids: npt.ArrayLike,
    gallery_camids: npt.ArrayLike | None,
    *,
    fpr: Sequence[float] = (1e-4, 1e-3, 1e-2),
    metric: Metric = "cosine",
    same_camera: SameCamera = "drop",
    threads: int | None = None,
    block: int = DEFAULT_BLOCK,
) -> Roc:
    """The true-positive rate at given false-positive rates, over all pairs that are not junk.

    Exact, in two passes over the pairs: a histogram finds where the threshold must lie, and only
    the scores around it are then looked at one by one.  Memory as ``evaluate``.
    """
    kernels, _ = resolve_device("cpu")
    threads, block = thread_count(threads), check_count(block, "block")
    rates = _rates(fpr, "fpr")
    given = prepare(
        query_features,
        query_pids,
        query_camids,
        gallery_features,
        gallery_pids,
        gallery_camids,
        metric=metric,
        same_camera=same_camera,
        kernels=kernels,
    )
    matches = select(given.same_person, ~given.junk)
    right = given.pairs.exact(matches.rows, matches.values)
    n_queries, n_columns = given.pairs.shape
    n_wrong = n_queries * n_columns - len(given.same_person.values)
    if not len(right) or not n_wrong:
        raise FeatureError(
            f"a ROC needs right and wrong pairs, got {len(right)} right and {n_wrong} wrong."
        )
    order = [_place(rate, n_wrong) for rate in rates]
    nth = _nth_wrong_scores(given.pairs, given.same_person, order, n_wrong, kernels, threads, block)
    threshold = np.array([nth[place] if place < n_wrong else -np.inf for place in order])
    tpr = np.array([(right > t).sum() / len(right) for t in threshold])
    return Roc(rates, tpr, _shown(threshold, metric), len(right), n_wrong)


def open_set(
    query_features: npt.ArrayLike,
    query_pids: npt.ArrayLike,
    query_camids: npt.ArrayLike | None,
    gallery_features: npt.ArrayLike,
    gallery_pids: npt.ArrayLike,
    gallery_camids: npt.ArrayLike | None,
    *,
    far: Sequence[float] = (0.01, 0.1),
    rank: int = 1,
    metric: Metric = "cosine",
    same_camera: SameCamera = "drop",
    threads: int | None = None,
    device: str = "cpu",
    block: int = DEFAULT_BLOCK,
) -> OpenSet:
    """DIR at given false-alarm rates; queries without a match play the unknown persons.

    Junk is left out as in ``evaluate``.
    """
    kernels, device = resolve_device(device)
    threads, block = thread_count(threads), check_count(block, "block")
    rank, rates = check_count(rank, "rank"), _rates(far, "far")
    given = prepare(
        query_features,
        query_pids,
        query_camids,
        gallery_features,
        gallery_pids,
        gallery_camids,
        metric=metric,
        same_camera=same_camera,
        kernels=kernels,
    )
    work: dict[str, Any] = {
        "kernels": kernels,
        "threads": threads,
        "block": block,
        "device": device,
    }
    ranked = match_ranks(given.pairs, given.same_person, given.junk, **work)
    known = np.diff(ranked.start) > 0
    if known.all() or not known.any():
        raise FeatureError(
            f"open-set rates need queries with and without a match in the gallery, got "
            f"{int(known.sum())} with and {int((~known).sum())} without."
        )
    first = ranked.start[:-1][known]
    found, score = ranked.ranks[first] < rank, ranked.scores[first]
    _, best = best_k(given.pairs, 1, select(given.same_person, given.junk), **work)
    alarms = np.sort(best[~known, 0])[::-1]
    order = [_place(rate, len(alarms)) for rate in rates]
    threshold = np.array([alarms[p] if p < len(alarms) else -np.inf for p in order])
    dir_ = np.array([(found & (score > t)).sum() / len(first) for t in threshold])
    return OpenSet(rates, dir_, _shown(threshold, metric), rank, len(first), len(alarms))


def _rates(values: Sequence[float], name: str) -> Floats:
    rates = np.atleast_1d(np.asarray(values, np.float64))
    if rates.ndim != 1 or not len(rates) or not ((rates >= 0) & (rates <= 1)).all():
        raise FeatureError(f"{name} must be one or more rates in [0, 1], got {values!r}.")
    return rates


def _place(rate: float, n: int) -> int:
    """floor(rate n); a product like 0.07 * 100 that falls short by rounding counts as whole."""
    return math.floor(rate * n * (1 + 2**-50))


def _shown(threshold: Floats, metric: Metric) -> Floats:
    return -np.sqrt(-threshold) if metric == "euclidean" else threshold


def _nth_wrong_scores(
    pairs: FeaturePairs,
    same_person: Lists,
    places: list[int],
    n_wrong: int,
    kernels: ModuleType,
    threads: int,
    block: int,
) -> dict[int, float]:
    """The exact scores that stand at ``places`` (zero-based, descending) among wrong pairs."""
    error = float(pairs.error.max())
    # No tile value is outside this range: a cosine is within 1, and no squared distance exceeds
    # four times the largest squared length, which ``scale`` has brought to at most 1.
    reach = 1.0 if pairs.kind == COSINE else 2.0
    low = -reach - error
    high = (reach if pairs.kind == COSINE else 0.0) + error
    width = (high - low) / _BINS

    def over_tiles(visit: Any) -> None:
        def worker(tasks: Iterable[tuple[int, int]]) -> None:
            make = TileMaker(pairs)
            for start, stop in tasks:
                packed = make.pack(start, stop)
                for first, last in blocks(pairs.shape[0], block):
                    tile = make.tile(slice(first, last), packed, start, stop)
                    bounds = same_person.start[first : last + 1]
                    kernels.mask_tile(tile, bounds, same_person.values, start)
                    visit(tile, first, start)

        run_tasks(worker, blocks(pairs.shape[1], block), threads)

    counts = np.zeros(_BINS, np.int64)
    lock = threading.Lock()

    def add(tile: npt.NDArray[np.float32], _: int, __: int) -> None:
        own = np.zeros(_BINS, np.int64)
        kernels.histogram_tile(tile, low, 1 / width, own)
        with lock:
            counts[:] += own

    over_tiles(add)
    from_top = np.cumsum(counts[::-1])
    wanted = sorted({place for place in places if place < n_wrong})
    # The score at a place is within ``error`` of the bin where the approximate one is.
    bins = {place: _BINS - 1 - int(np.searchsorted(from_top, place, "right")) for place in wanted}
    spans = _merged(
        [
            (low + b * width - 2.5 * error, low + (b + 1) * width + 2.5 * error)
            for b in bins.values()
        ]
    )
    above = np.zeros(len(spans), np.int64)
    exact: list[list[Floats]] = [[] for _ in spans]

    def collect(tile: npt.NDArray[np.float32], first: int, start: int) -> None:
        for s, (bottom, top) in enumerate(spans):
            rows, columns = np.nonzero((tile >= bottom) & (tile <= top))
            scores = pairs.exact(rows + first, columns + start)
            higher = int((tile > top).sum())
            with lock:
                above[s] += higher
                exact[s].append(scores)

    over_tiles(collect)
    found = {}
    for s, (bottom, top) in enumerate(spans):
        scores = np.sort(np.concatenate(exact[s]))[::-1]
        for place in wanted:
            middle = low + (bins[place] + 0.5) * width
            if bottom <= middle <= top:
                found[place] = float(scores[place - above[s]])
    return found


def _merged(spans: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """Spans as float32 bounds rounded outwards, overlapping ones joined."""
    merged: list[tuple[float, float]] = []
    for bottom, top in sorted(spans):
        bottom = float(np.nextafter(np.float32(bottom), np.float32(-np.inf)))
        top = float(np.nextafter(np.float32(top), np.float32(np.inf)))
        if merged and bottom <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(top, merged[-1][1]))
        else:
            merged.append((bottom, top))
    return merged
