"""``evaluate``: features and labels in, the numbers of a paper's table out."""

from __future__ import annotations

from dataclasses import dataclass
from types import ModuleType
from typing import TYPE_CHECKING, Any, Literal

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
from crosscam.types import JUNK_PID, Ranking
from crosscam.wording import counted, either

if TYPE_CHECKING:
    from crosscam.retrieval.reranking import RerankSettings

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

    def require_kept(self) -> Indices:
        """Gallery rows that are ranked at all; an error if there are none."""
        kept = np.flatnonzero(self.gallery_pids != JUNK_PID)
        if not len(kept):
            raise FeatureError("the gallery holds only junk (every person id is -1).")
        return kept


def _check_all_labels(
    query: Features,
    query_pids: npt.ArrayLike,
    query_camids: npt.ArrayLike | None,
    gallery: Features,
    gallery_pids: npt.ArrayLike,
    gallery_camids: npt.ArrayLike | None,
    same_camera: SameCamera,
) -> _Labels:
    check_choice(same_camera, "same_camera", ("drop", "keep"))
    missing = [
        name
        for name, camids in (("query_camids", query_camids), ("gallery_camids", gallery_camids))
        if camids is None
    ]
    if missing and same_camera == "drop":
        raise FeatureError(
            f'{" and ".join(missing)}: None given, but same_camera="drop" leaves out the images '
            "of the query's own person and camera. Give the camera of every image, or use "
            'same_camera="keep" (--same-camera keep) if cameras are not known.'
        )

    def labels(values: npt.ArrayLike | None, name: str, of: Features, side: str) -> Labels | None:
        return None if values is None else check_labels(values, name, len(of), side)

    return _Labels(
        check_labels(query_pids, "query_pids", len(query), "query_features"),
        labels(query_camids, "query_camids", query, "query_features"),
        check_labels(gallery_pids, "gallery_pids", len(gallery), "gallery_features"),
        labels(gallery_camids, "gallery_camids", gallery, "gallery_features"),
        same_camera,
    )


def _same_camera_pairs(
    labels: _Labels, lists: Lists, column_camids: Labels | None
) -> npt.NDArray[np.bool_]:
    """Which of the pairs of one person are junk."""
    if labels.same_camera == "keep" or labels.query_camids is None or column_camids is None:
        return np.zeros(len(lists.values), bool)
    return np.equal(labels.query_camids[lists.rows], column_camids[lists.values])


@dataclass(frozen=True)
class Prepared:
    """Checked inputs: what queries are ranked against, and which pairs show one person."""

    pairs: FeaturePairs
    same_person: Lists
    junk: npt.NDArray[np.bool_]  # of the values of ``same_person``


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
    query = check_features(query_features, "query_features")
    gallery = check_features(gallery_features, "gallery_features")
    labels = _check_all_labels(
        query, query_pids, query_camids, gallery, gallery_pids, gallery_camids, same_camera
    )
    kept = labels.require_kept()
    columns = kept if len(kept) < len(gallery) else None
    camids = None if labels.gallery_camids is None else labels.gallery_camids[kept]
    same_person = lists_by_label(labels.query_pids, labels.gallery_pids[kept])
    return Prepared(
        FeaturePairs(query, gallery, metric, kernels=kernels, columns=columns),
        same_person,
        _same_camera_pairs(labels, same_person, camids),
    )


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
    those of the query's own person and camera for that query; everything else, distractors of
    person 0 included, stays in.  Person 0 is otherwise an ordinary person (MSMT17 has one).
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
    threads, block = thread_count(threads), check_count(block, "block")
    check_choice(ap, "ap", AP_RULES)
    check_choice(shots_per, "shots_per", ("set", "query"))
    max_rank, repeats = check_count(max_rank, "max_rank"), check_count(repeats, "repeats")
    seed = check_count(seed, "seed", least=0)
    if gallery_shots is not None:
        gallery_shots = check_count(gallery_shots, "gallery_shots")
    elif repeats != 1:
        raise FeatureError("repeats > 1 needs gallery_shots: without a draw all repeats are equal.")
    query = check_features(query_features, "query_features")
    gallery = check_features(gallery_features, "gallery_features")
    labels = _check_all_labels(
        query, query_pids, query_camids, gallery, gallery_pids, gallery_camids, same_camera
    )
    if multi_query is not None:
        query = _pooled(
            labels, multi_query, metric, multi_query_features, multi_query_pids, multi_query_camids
        )
    kept = labels.require_kept()
    tracks = None
    if gallery_tracks is not None:
        tracks = check_labels(gallery_tracks, "gallery_tracks", len(gallery), "gallery_features")
    if rerank is not None:
        from crosscam.retrieval import reranking

        if not isinstance(rerank, reranking.RerankSettings):
            raise FeatureError(f"rerank must be RerankSettings(...) or None, got {rerank!r}.")
        if tracks is not None or gallery_shots is not None:
            raise FeatureError(
                "rerank is defined on whole galleries of images; use it without gallery_tracks "
                "and gallery_shots."
            )

    def counts(column_pids: Labels, n_junk_pairs: int) -> dict[str, Any]:
        return {
            "n_queries": len(query),
            "n_gallery": len(column_pids),
            "n_junk_images": len(gallery) - len(kept),
            "n_junk_pairs": n_junk_pairs,
            "n_distractors": int((~np.isin(column_pids, labels.query_pids)).sum()),
            "ap_rule": ap,
            "repeats": repeats,
        }

    def columns_of(rows: Indices) -> tuple[FeaturePairs, Labels, Lists, npt.NDArray[np.bool_]]:
        """What the queries are ranked against, and which pairs show one person."""
        options: dict[str, Any] = {"kernels": kernels, "columns": rows}
        pids = labels.gallery_pids[rows]
        camids = None if labels.gallery_camids is None else labels.gallery_camids[rows]
        if tracks is not None:
            ordered, start, pids, camids = group_tracks(
                tracks, labels.gallery_pids, labels.gallery_camids, rows
            )
            options |= {"columns": ordered, "track_start": start}
        elif len(rows) == len(gallery):
            options["columns"] = None
        pairs = (FeaturePairs if tracks is None else TrackPairs)(query, gallery, metric, **options)
        lists = lists_by_label(labels.query_pids, pids)
        return pairs, pids, lists, _same_camera_pairs(labels, lists, camids)

    work: dict[str, Any] = {
        "kernels": kernels,
        "threads": threads,
        "block": block,
        "device": device,
    }
    if gallery_shots is None or shots_per == "query":
        pairs, pids, lists, junk = columns_of(kept)
        if junk.all():  # also when there are no pairs at all
            raise _no_valid_query(labels, int(junk.sum()))
        figures = counts(pids, int(junk.sum()))
        if gallery_shots is not None:
            values = draws_per_query(
                pairs, pids, select(lists, ~junk), select(lists, junk), gallery_shots, repeats, seed
            )
            return from_values(values, max_rank, **figures)
        if rerank is not None:
            ranks = reranking.reranked_match_ranks(pairs, lists, junk, rerank, **work)
        else:
            ranks = match_ranks(pairs, lists, junk, **work)
        return from_ranks(ranks, max_rank, **figures)

    values, n_junk_pairs, column_pids = [], 0, labels.gallery_pids[kept]
    for rows in draw_gallery(labels.gallery_pids, kept, gallery_shots, repeats, seed):
        pairs, column_pids, lists, junk = columns_of(rows)
        n_junk_pairs += int(junk.sum())
        values.append(values_of(match_ranks(pairs, lists, junk, **work)))
    if not any(draw.n.any() for draw in values):
        raise _no_valid_query(labels, n_junk_pairs)
    return from_values(values, max_rank, **counts(column_pids, n_junk_pairs // repeats))


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
    labels = _check_all_labels(
        array,
        query_pids,
        query_camids,
        array.T,
        gallery_pids,
        gallery_camids,
        same_camera,
    )
    kept = labels.require_kept()
    camids = None if labels.gallery_camids is None else labels.gallery_camids[kept]
    lists = lists_by_label(labels.query_pids, labels.gallery_pids[kept])
    junk = _same_camera_pairs(labels, lists, camids)
    if junk.all():
        raise _no_valid_query(labels, int(junk.sum()))
    matches = select(lists, ~junk)
    found: list[Indices] = []
    for q in range(len(array)):
        row = array[q, kept]
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
    return from_ranks(
        ranked,
        check_count(max_rank, "max_rank"),
        n_queries=len(array),
        n_gallery=len(kept),
        n_junk_images=array.shape[1] - len(kept),
        n_junk_pairs=int(junk.sum()),
        n_distractors=int((~np.isin(labels.gallery_pids[kept], labels.query_pids)).sum()),
        ap_rule=ap,
    )


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
    if not any(labels is None for labels in given):
        prepared = prepare(
            query,
            given[0],  # type: ignore[arg-type]  # none of them is None here
            given[1],
            gallery,
            given[2],  # type: ignore[arg-type]
            given[3],
            metric=metric,
            same_camera="drop",
            kernels=kernels,
        )
        pairs, excluded = prepared.pairs, select(prepared.same_person, prepared.junk)
    elif all(labels is None for labels in given):
        pairs = FeaturePairs(query, gallery, metric, kernels=kernels)
    else:
        raise FeatureError(
            "leaving out junk needs query_pids, query_camids, gallery_pids and gallery_camids; "
            "give all four, or none."
        )
    rows, scores = best_k(
        pairs, k, excluded, kernels=kernels, threads=threads, block=block, device=device
    )
    if metric != "cosine":
        scores = -scores if metric == "sqeuclidean" else np.sqrt(-scores)
    scores[rows < 0] = np.nan
    return Ranking(rows, scores.astype(np.float32), higher_is_better=metric == "cosine")
