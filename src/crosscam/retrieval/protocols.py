"""What is done to queries and gallery before anything is ranked, protocol by protocol."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import numpy as np
import numpy.typing as npt

from crosscam.errors import FeatureError
from crosscam.retrieval import kernels as kernel_choice
from crosscam.retrieval.inputs import (
    Features,
    Labels,
    check_choice,
    check_features,
    check_labels,
    check_norms,
)
from crosscam.retrieval.lists import Lists
from crosscam.retrieval.metrics import RankValues, values_of
from crosscam.retrieval.pairs import FeaturePairs, Indices
from crosscam.retrieval.rank import MatchRanks

__all__ = ["draw_gallery", "group_tracks", "pool_queries", "unit_rows"]


def unit_rows(features: Features, name: str = "features") -> Features:
    """``features`` [N, D] with rows of unit length; the lengths are taken in float64."""
    squares = np.empty(len(features), np.float64)
    kernel_choice.load().square_norms(features, squares)
    check_norms(squares, name, cosine=True)
    return (features / np.sqrt(squares)[:, None]).astype(np.float32)


def pool_queries(
    query_pids: npt.ArrayLike,
    query_camids: npt.ArrayLike,
    features: npt.ArrayLike,
    pids: npt.ArrayLike,
    camids: npt.ArrayLike,
    how: Literal["mean", "max"] = "mean",
    *,
    normalize: bool = True,
) -> Features:
    """One feature per query from all images of its person and camera (Market-1501 multi-query).

    ``features`` [M, D] with ``pids`` [M] and ``camids`` [M] are the extra images (``gt_bbox``).
    Rows are brought to unit length first unless ``normalize=False``, then averaged or maximized
    number by number.  Returns [Q, D].  A query without any image is a ``FeatureError``.
    """
    check_choice(how, "multi_query", ("mean", "max"))
    features = check_features(features, "multi_query_features")
    pids = check_labels(pids, "multi_query_pids", len(features), "multi_query_features")
    camids = check_labels(camids, "multi_query_camids", len(features), "multi_query_features")
    query_pids = check_labels(query_pids, "query_pids", len(np.asarray(query_pids)), "the queries")
    query_camids = check_labels(query_camids, "query_camids", len(query_pids), "query_pids")
    if normalize:
        features = unit_rows(features, "multi_query_features")
    groups: dict[tuple[int, int], list[int]] = {}
    for row, key in enumerate(zip(pids.tolist(), camids.tolist(), strict=True)):
        groups.setdefault(key, []).append(row)
    pooled = np.empty((len(query_pids), features.shape[1]), np.float32)
    for q, key in enumerate(zip(query_pids.tolist(), query_camids.tolist(), strict=True)):
        if key not in groups:
            raise FeatureError(
                f"query {q} (person {key[0]}, camera {key[1]}) has no multi-query image. "
                "Every query needs at least one image of its person and camera, itself included."
            )
        rows = features[groups[key]].astype(np.float64)
        pooled[q] = rows.mean(axis=0) if how == "mean" else rows.max(axis=0)
    return pooled


def group_tracks(
    tracks: Labels, pids: Labels, camids: Labels | None, rows: Indices
) -> tuple[Indices, Indices, Labels, Labels | None]:
    """Gallery rows track by track: (rows in order, track starts, pids and camids of tracks).

    Tracks keep the order of their first image, and a track must show one person from one camera.
    """
    _, first, inverse = np.unique(tracks[rows], return_index=True, return_inverse=True)
    by_first = np.argsort(first, kind="stable")
    place = np.empty_like(by_first)
    place[by_first] = np.arange(len(by_first))
    track_of = place[inverse]
    order = np.argsort(track_of, kind="stable")
    start = np.zeros(len(first) + 1, np.int64)
    np.cumsum(np.bincount(track_of), out=start[1:])
    ordered = rows[order]
    heads = ordered[start[:-1]]
    lengths = np.diff(start)
    for name, labels in (("gallery_pids", pids), ("gallery_camids", camids)):
        if labels is None:
            continue
        odd = np.flatnonzero(labels[ordered] != np.repeat(labels[heads], lengths))
        if odd.size:
            row = ordered[odd[0]]
            raise FeatureError(
                f"track {tracks[row]} has more than one number in {name} (gallery row {row}). "
                "A track must show one person from one camera; number tracks per camera."
            )
    return ordered, start, pids[heads], None if camids is None else camids[heads]


def draw_gallery(
    pids: Labels, rows: Indices, shots: int, repeats: int, seed: int
) -> Iterator[Indices]:
    """``repeats`` random draws of at most ``shots`` gallery rows per person, ascending."""
    persons = np.unique(pids[rows], return_inverse=True)[1]
    for repeat in range(repeats):
        keys = np.random.default_rng([seed, repeat]).random(len(rows))
        yield rows[np.sort(_first_of_groups(persons, keys, shots))]


def _first_of_groups(groups: Indices, keys: npt.NDArray[np.float64], shots: int) -> Indices:
    """The places of the ``shots`` smallest keys of each group."""
    order = np.lexsort((keys, groups))
    grouped = groups[order]
    nth = np.arange(len(order)) - np.searchsorted(grouped, grouped)
    return order[nth < shots]


def draws_per_query(
    pairs: FeaturePairs,
    column_pids: Labels,
    matches: Lists,
    junk: Lists,
    shots: int,
    repeats: int,
    seed: int,
) -> list[RankValues]:
    """Every query ranked against ``repeats`` draws of its own (CUHK03 single-gallery-shot).

    A draw holds at most ``shots`` columns of each person, junk left out first.  Query i draws
    from the generator seeded with [seed, i].  All pairs are scored exactly, which is meant for
    galleries of some thousand columns.
    """
    n_queries, n_columns = pairs.shape
    persons = np.unique(column_pids, return_inverse=True)[1]
    group_start = np.searchsorted(np.sort(persons), np.arange(persons.max() + 1))
    found: list[list[Indices]] = [[] for _ in range(repeats)]
    for q in range(n_queries):
        own = matches.values[matches.start[q] : matches.start[q + 1]]
        if not len(own):
            for draw in found:
                draw.append(np.empty(0, np.int64))
            continue
        dropped = junk.values[junk.start[q] : junk.start[q + 1]]
        score = pairs.exact(np.full(n_columns, q), np.arange(n_columns))
        best_first = np.lexsort((np.arange(n_columns), -score))
        keys = np.random.default_rng([seed, q]).random((repeats, n_columns))
        keys[:, dropped] = 1.0  # after all others of the person, and taken out again below
        # One sort per draw orders by (person, key): the keys are below 1, or 1 and last.
        order = np.argsort(persons + keys * 0.5, axis=1)
        nth = np.arange(n_columns) - group_start[persons[order]]
        drawn = np.zeros((repeats, n_columns), bool)
        np.put_along_axis(drawn, order, nth < shots, axis=1)
        drawn[:, dropped] = False
        is_match = np.zeros(n_columns, bool)
        is_match[own] = True
        in_order = drawn[:, best_first]
        before = np.cumsum(in_order, axis=1) - in_order
        for draw, taken, rank in zip(found, in_order, before, strict=True):
            draw.append(rank[taken & is_match[best_first]])
    values = []
    for draw in found:
        start = np.zeros(n_queries + 1, np.int64)
        np.cumsum([len(ranks) for ranks in draw], out=start[1:])
        ranks = np.concatenate(draw)
        values.append(values_of(MatchRanks(start, ranks, np.empty(0), np.empty(0, np.int64))))
    return values
