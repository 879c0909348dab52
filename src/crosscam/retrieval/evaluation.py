"""``evaluate``: features and labels in, the numbers of a paper's table out."""

from __future__ import annotations

from dataclasses import dataclass
from types import ModuleType
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from crosscam.errors import FeatureError
from crosscam.retrieval.device import resolve_device
from crosscam.retrieval.inputs import (
    Features,
    Labels,
    check_best,
    check_choice,
    check_count,
    check_features,
    check_labels,
)
from crosscam.retrieval.lists import Lists, lists_by_label, select
from crosscam.retrieval.metrics import AP_RULES, APRule, Metrics, from_ranks, from_values, values_of
from crosscam.retrieval.pairs import FeaturePairs, Indices, Metric, TrackPairs
from crosscam.retrieval.parallel import thread_count
from crosscam.retrieval.protocols import (
    draw_gallery,
    draws_per_query,
    group_tracks,
    pool_queries,
)
from crosscam.retrieval.rank import DEFAULT_BLOCK, MatchRanks, best_k, match_ranks
from crosscam.retrieval.reranking import RerankSettings, reranked_match_ranks
from crosscam.types import JUNK_PID, Ranking
from crosscam.wording import counted, either

__all__ = ["evaluate", "evaluate_distances", "top_k"]

SameCamera = Literal["drop", "keep"]


@dataclass(frozen=True)
class _Labels:
    """Checked labels of both sides."""

    query_pids: Labels
    query_camids: Labels | None
    gallery_pids: Labels
    gallery_camids: Labels | None
    same_camera: SameCamera
    kept: Indices  # gallery rows that are ranked at all

    def of(self, rows: Indices) -> tuple[Labels, Labels | None]:
        """Persons and cameras of gallery rows."""
        camids = self.gallery_camids
        return self.gallery_pids[rows], None if camids is None else camids[rows]

    def same_person(
        self, column_pids: Labels, column_camids: Labels | None
    ) -> tuple[Lists, npt.NDArray[np.bool_]]:
        """For every query the columns of its person, and which of these pairs are junk."""
        lists = lists_by_label(self.query_pids, column_pids)
        if self.same_camera == "keep" or self.query_camids is None or column_camids is None:
            return lists, np.zeros(len(lists.values), bool)
        return lists, np.equal(self.query_camids[lists.rows], column_camids[lists.values])

    def counts(self, column_pids: Labels, n_junk_pairs: int) -> dict[str, Any]:
        """What ``Metrics`` says of the data."""
        return {
            "n_queries": len(self.query_pids),
            "n_gallery": len(column_pids),
            "n_junk_images": len(self.gallery_pids) - len(self.kept),
            "n_junk_pairs": n_junk_pairs,
            "n_distractors": int((~np.isin(column_pids, self.query_pids)).sum()),
        }


def _check_all_labels(
    n_queries: int,
    query_pids: npt.ArrayLike,
    query_camids: npt.ArrayLike | None,
    n_gallery: int,
    gallery_pids: npt.ArrayLike,
    gallery_camids: npt.ArrayLike | None,
    same_camera: SameCamera,
) -> _Labels:
    check_choice(same_camera, "same_camera", ("drop", "keep"))
    cameras = {"query_camids": query_camids, "gallery_camids": gallery_camids}
    missing = [name for name, camids in cameras.items() if camids is None]
    if missing and same_camera == "drop":
        raise FeatureError(
            f'{" and ".join(missing)}: None given, but same_camera="drop" leaves out the images '
            "of the query's own person and camera. Give the camera of every image, or use "
            'same_camera="keep" (--same-camera keep) if cameras are not known.'
        )

    def camids(values: npt.ArrayLike | None, name: str, length: int, side: str) -> Labels | None:
        return None if values is None else check_labels(values, name, length, side)

    of_query = (
        check_labels(query_pids, "query_pids", n_queries, "query_features"),
        camids(query_camids, "query_camids", n_queries, "query_features"),
    )
    pids = check_labels(gallery_pids, "gallery_pids", n_gallery, "gallery_features")
    of_gallery = pids, camids(gallery_camids, "gallery_camids", n_gallery, "gallery_features")
    kept = np.flatnonzero(pids != JUNK_PID)
    if not len(kept):
        raise FeatureError("the gallery holds only junk (every person id is -1).")
    return _Labels(*of_query, *of_gallery, same_camera, kept)


def _check_all(
    query_features: npt.ArrayLike,
    query_pids: npt.ArrayLike,
    query_camids: npt.ArrayLike | None,
    gallery_features: npt.ArrayLike,
    gallery_pids: npt.ArrayLike,
    gallery_camids: npt.ArrayLike | None,
    same_camera: SameCamera,
) -> tuple[Features, Features, _Labels]:
    query = check_features(query_features, "query_features")
    gallery = check_features(gallery_features, "gallery_features")
    labels = _check_all_labels(
        len(query),
        query_pids,
        query_camids,
        len(gallery),
        gallery_pids,
        gallery_camids,
        same_camera,
    )
    return query, gallery, labels


@dataclass(frozen=True)
class Prepared:
    """Checked inputs: what queries are ranked against, and which pairs show one person."""

    pairs: FeaturePairs
    pids: Labels  # of the columns
    same_person: Lists
    junk: npt.NDArray[np.bool_]  # of the values of ``same_person``


def _against(
    query: Features,
    gallery: Features,
    labels: _Labels,
    rows: Indices,
    tracks: Labels | None = None,
    *,
    metric: Metric,
    kernels: ModuleType,
) -> Prepared:
    """The queries against ``rows`` of the gallery, or against the tracks of these."""
    pairs: FeaturePairs
    if tracks is None:
        pids, camids = labels.of(rows)
        columns = rows if len(rows) < len(gallery) else None
        pairs = FeaturePairs(query, gallery, metric, kernels=kernels, columns=columns)
    else:
        columns, start, pids, camids = group_tracks(
            tracks, labels.gallery_pids, labels.gallery_camids, rows
        )
        pairs = TrackPairs(
            query, gallery, metric, kernels=kernels, columns=columns, track_start=start
        )
    return Prepared(pairs, pids, *labels.same_person(pids, camids))


def prepare(
    query_features: npt.ArrayLike,
    query_pids: npt.ArrayLike,
    query_camids: npt.ArrayLike | None,
    gallery_features: npt.ArrayLike,
    gallery_pids: npt.ArrayLike,
    gallery_camids: npt.ArrayLike | None,
    *,
    metric: Metric,
    same_camera: SameCamera,
    kernels: ModuleType,
) -> Prepared:
    """Check features and labels, and leave out the gallery images of person -1."""
    query, gallery, labels = _check_all(
        query_features,
        query_pids,
        query_camids,
        gallery_features,
        gallery_pids,
        gallery_camids,
        same_camera,
    )
    return _against(query, gallery, labels, labels.kept, metric=metric, kernels=kernels)


def _no_valid_query(labels: _Labels, n_junk_pairs: int) -> FeatureError:
    n = len(labels.query_pids)
    none = either(n, "the one query has no match", f"none of the {n:,} queries has a match")
    if n_junk_pairs:
        return FeatureError(
            f"{none}: the gallery shows their persons only from the "
            "query's own camera, and such images are left out. If this data has one camera, or "
            'camera ids are not real, use same_camera="keep" (--same-camera keep of `crosscam '
            "score`, --option same_camera=keep elsewhere)."
        )
    common = np.intersect1d(labels.query_pids, labels.gallery_pids)
    common = common[common != JUNK_PID]
    return FeatureError(
        f"{none}: query_pids and gallery_pids have {counted(len(common), 'person id')} "
        f"in common (queries {labels.query_pids[:3].tolist()}..., gallery "
        f"{labels.gallery_pids[:3].tolist()}...). Both must number persons the same way."
    )


def evaluate(
    query_features: npt.ArrayLike,
    query_pids: npt.ArrayLike,
    query_camids: npt.ArrayLike | None,
    gallery_features: npt.ArrayLike,
    gallery_pids: npt.ArrayLike,
    gallery_camids: npt.ArrayLike | None,
    *,
    metric: Metric = "cosine",
    same_camera: SameCamera = "drop",
    ap: APRule = "rank-precision",
    max_rank: int = 50,
    gallery_shots: int | None = None,
    shots_per: Literal["set", "query"] = "set",
    repeats: int = 1,
    seed: int = 0,
    multi_query: Literal["mean", "max"] | None = None,
    multi_query_features: npt.ArrayLike | None = None,
    multi_query_pids: npt.ArrayLike | None = None,
    multi_query_camids: npt.ArrayLike | None = None,
    gallery_tracks: npt.ArrayLike | None = None,
    rerank: RerankSettings | None = None,
    threads: int | None = None,
    device: str = "cpu",
    block: int = DEFAULT_BLOCK,
) -> Metrics:
    """CMC, mAP and mINP of features, exact and in bounded memory.

        from crosscam.retrieval import evaluate
        m = evaluate(qf, query_pids, query_camids, gf, gallery_pids, gallery_camids)
        print(m.rank1, m.mAP, m.mINP)

    Features are [Q, D] and [G, D] floating-point numbers (computed with as float32), ids and
    cameras whole numbers [Q] and [G].  Gallery images of person -1 are left out for everyone and
    those of the query's own person and camera for that query; everything else stays in.  Person 0
    is a distractor, who matches nobody, where no query shows it, as in every data set that
    crosscam reads; in ids from elsewhere that give a query 0 it is a person like others.
    Equal scores are ordered by gallery row.  Queries without a match are not counted.

    metric: "cosine", or "euclidean" and "sqeuclidean", which rank alike.
    same_camera: "keep" for sets without a camera rule; the cameras may then be None.
    ap: which rule ``mAP`` follows; both are computed always.
    max_rank: length of the CMC.
    gallery_shots, shots_per, repeats, seed: draw that many gallery images per person, once for
        all queries ("set", partial sets) or anew for each query ("query", CUHK03 classic:
        ``gallery_shots=1, shots_per="query", repeats=10``), and average over the repeats.
    multi_query: pool all images of the query's person and camera from ``multi_query_features``
        [M, D] (Market-1501 ``gt_bbox``) in place of the query's own feature.
    gallery_tracks: track of each gallery image [G]; ranks tracks by their nearest image
        (VeRi-776 image-to-track).
    rerank: k-reciprocal re-ranking before judging, see ``rerank``.
    threads: at most so many; None takes all processors.  The result does not depend on it.
    device: "cpu", or a torch device for the matrix products; the result is the same.
    block: queries and gallery items per tile; the result does not depend on it.

    Memory over the features: a float32 copy of the queries, about 50 bytes per gallery row and
    per pair of one person, and per thread a tile of block x block float32.  Features that are
    not C-contiguous float32 are copied to it.

    Raises ``FeatureError`` for features or labels that do not fit, naming the row.
    """
    kernels, device = resolve_device(device)
    work: dict[str, Any] = {
        "kernels": kernels,
        "threads": thread_count(threads),
        "block": check_count(block, "block"),
        "device": device,
    }
    check_choice(ap, "ap", AP_RULES)
    check_choice(shots_per, "shots_per", ("set", "query"))
    max_rank, repeats = check_count(max_rank, "max_rank"), check_count(repeats, "repeats")
    seed = check_count(seed, "seed", least=0)
    if gallery_shots is not None:
        gallery_shots = check_count(gallery_shots, "gallery_shots")
    elif repeats != 1:
        raise FeatureError("repeats > 1 needs gallery_shots: without a draw all repeats are equal.")
    query, gallery, labels = _check_all(
        query_features,
        query_pids,
        query_camids,
        gallery_features,
        gallery_pids,
        gallery_camids,
        same_camera,
    )
    if multi_query is not None:
        query = _pooled(
            labels, multi_query, metric, multi_query_features, multi_query_pids, multi_query_camids
        )
    tracks = None
    if gallery_tracks is not None:
        tracks = check_labels(gallery_tracks, "gallery_tracks", len(gallery), "gallery_features")
    if rerank is not None:
        _check_rerank(rerank, whole=tracks is None and gallery_shots is None)

    def against(rows: Indices) -> Prepared:
        return _against(query, gallery, labels, rows, tracks, metric=metric, kernels=kernels)

    if gallery_shots is not None and shots_per == "set":
        values, n_junk_pairs = [], 0
        for rows in draw_gallery(labels.gallery_pids, labels.kept, gallery_shots, repeats, seed):
            given = against(rows)
            n_junk_pairs += int(given.junk.sum())
            ranks = match_ranks(given.pairs, given.same_person, given.junk, **work)
            values.append(values_of(ranks))
        if not any(draw.n.any() for draw in values):
            raise _no_valid_query(labels, n_junk_pairs)
        n_junk_pairs //= repeats
    else:
        given = against(labels.kept)
        pairs, same_person, junk = given.pairs, given.same_person, given.junk
        n_junk_pairs = int(junk.sum())
        if junk.all():  # also when there are no pairs at all
            raise _no_valid_query(labels, n_junk_pairs)
        if gallery_shots is not None:
            matches, left_out = select(same_person, ~junk), select(same_person, junk)
            values = draws_per_query(
                pairs, given.pids, matches, left_out, gallery_shots, repeats, seed
            )
        elif rerank is not None:
            values = [values_of(reranked_match_ranks(pairs, same_person, junk, rerank, **work))]
        else:
            values = [values_of(match_ranks(pairs, same_person, junk, **work))]
    counts = labels.counts(given.pids, n_junk_pairs)
    return from_values(values, max_rank, **counts, ap_rule=ap, repeats=repeats)


def _check_rerank(rerank: RerankSettings, *, whole: bool) -> None:
    if not isinstance(rerank, RerankSettings):
        raise FeatureError(f"rerank must be RerankSettings(...) or None, got {rerank!r}.")
    if not whole:
        raise FeatureError(
            "rerank is defined on whole galleries of images; use it without gallery_tracks "
            "and gallery_shots."
        )


def _pooled(
    labels: _Labels,
    how: Literal["mean", "max"],
    metric: Metric,
    features: npt.ArrayLike | None,
    pids: npt.ArrayLike | None,
    camids: npt.ArrayLike | None,
) -> Features:
    if features is None or pids is None or camids is None or labels.query_camids is None:
        raise FeatureError(
            "multi_query needs multi_query_features, multi_query_pids, multi_query_camids and "
            "query_camids: the images to pool, and which query they belong to."
        )
    return pool_queries(
        labels.query_pids,
        labels.query_camids,
        features,
        pids,
        camids,
        how,
        normalize=metric == "cosine",
    )


def evaluate_distances(
    distances: npt.ArrayLike,
    query_pids: npt.ArrayLike,
    query_camids: npt.ArrayLike | None,
    gallery_pids: npt.ArrayLike,
    gallery_camids: npt.ArrayLike | None,
    *,
    same_camera: SameCamera = "drop",
    ap: APRule = "rank-precision",
    max_rank: int = 50,
) -> Metrics:
    """As ``evaluate``, for distances [Q, G] that are there already (smaller is nearer).

    The numbers are compared as they are; equal distances are ordered by gallery row.
    """
    array = np.asarray(distances)
    if array.ndim != 2 or not np.issubdtype(array.dtype, np.floating) or 0 in array.shape:
        raise FeatureError(
            "distances must be floating-point numbers [Q, G] of at least one query and gallery "
            f"item, got {array.dtype} of shape {list(array.shape)}."
        )
    check_choice(ap, "ap", AP_RULES)
    n_queries, n_gallery = array.shape
    labels = _check_all_labels(
        n_queries, query_pids, query_camids, n_gallery, gallery_pids, gallery_camids, same_camera
    )
    pids, camids = labels.of(labels.kept)
    lists, junk = labels.same_person(pids, camids)
    if junk.all():
        raise _no_valid_query(labels, int(junk.sum()))
    matches = select(lists, ~junk)
    found: list[Indices] = []
    for q in range(n_queries):
        row = array[q, labels.kept]
        if np.isnan(row).any():
            raise FeatureError(f"distances row {q} holds NaN. Leave that query out.")
        own = slice(lists.start[q], lists.start[q + 1])
        row_junk = lists.values[own][junk[own]]
        mine = matches.values[matches.start[q] : matches.start[q + 1]]
        order = np.lexsort((mine, row[mine]))
        ranks = np.empty(len(mine), np.int64)
        for place, column in enumerate(mine[order]):
            before = (row < row[column]).sum() + (row[:column] == row[column]).sum()
            at_junk = row[row_junk]
            before -= (
                (at_junk < row[column]) | ((at_junk == row[column]) & (row_junk < column))
            ).sum()
            ranks[place] = before
        found.append(ranks)
    ranked = MatchRanks(matches.start, np.concatenate(found), np.empty(0), matches.values)
    counts = labels.counts(pids, int(junk.sum()))
    return from_ranks(ranked, check_count(max_rank, "max_rank"), **counts, ap_rule=ap)


def top_k(
    query_features: npt.ArrayLike,
    gallery_features: npt.ArrayLike,
    k: int,
    *,
    metric: Metric = "cosine",
    query_pids: npt.ArrayLike | None = None,
    query_camids: npt.ArrayLike | None = None,
    gallery_pids: npt.ArrayLike | None = None,
    gallery_camids: npt.ArrayLike | None = None,
    threads: int | None = None,
    device: str = "cpu",
    block: int = DEFAULT_BLOCK,
) -> Ranking:
    """The k best gallery rows of every query in the order (score, gallery row).

    Scores are cosine similarities, or distances if ``metric`` is "euclidean" or "sqeuclidean".
    If all four labels are given, junk is left out as in ``evaluate`` (person -1, and the query's
    own person and camera); a query with fewer than k gallery images left is filled with -1.

    Memory over the features: as ``evaluate``, and 16 bytes per query and place of the list.
    """
    kernels, device = resolve_device(device)
    threads, block = thread_count(threads), check_count(block, "block")
    query = check_features(query_features, "query_features")
    gallery = check_features(gallery_features, "gallery_features")
    k = check_best(k, gallery)
    given = (query_pids, query_camids, gallery_pids, gallery_camids)
    excluded: Lists | None = None
    if all(labels is None for labels in given):
        pairs = FeaturePairs(query, gallery, metric, kernels=kernels)
    elif (
        query_pids is None or query_camids is None or gallery_pids is None or gallery_camids is None
    ):
        raise FeatureError(
            "leaving out junk needs query_pids, query_camids, gallery_pids and gallery_camids; "
            "give all four, or none."
        )
    else:
        prepared = prepare(
            query,
            query_pids,
            query_camids,
            gallery,
            gallery_pids,
            gallery_camids,
            metric=metric,
            same_camera="drop",
            kernels=kernels,
        )
        pairs, excluded = prepared.pairs, select(prepared.same_person, prepared.junk)
    rows, scores = best_k(
        pairs, k, excluded, kernels=kernels, threads=threads, block=block, device=device
    )
    if metric != "cosine":
        scores = -scores if metric == "sqeuclidean" else np.sqrt(-scores)
    scores[rows < 0] = np.nan
    return Ranking(rows, scores.astype(np.float32), higher_is_better=metric == "cosine")
