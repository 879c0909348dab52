"""Retrieval straight from the definitions: slow loops, float64, stable sorts."""

from __future__ import annotations

import math
from typing import Any

import numpy as np


def scores(query: Any, gallery: Any, metric: str) -> np.ndarray:
    """Correctly rounded sums, so that equal vectors have equal scores wherever they stand."""
    query = np.asarray(query).astype(np.float32).astype(np.float64)
    gallery = np.asarray(gallery).astype(np.float32).astype(np.float64)
    out = np.empty((len(query), len(gallery)))
    for i, x in enumerate(query):
        for j, y in enumerate(gallery):
            if metric == "cosine":
                lengths = math.sqrt(math.fsum(x * x)) * math.sqrt(math.fsum(y * y))
                out[i, j] = math.fsum(x * y) / lengths
            else:
                out[i, j] = -math.fsum((x - y) ** 2)
    return out


def ranked_matches(
    score: np.ndarray, qp: Any, qc: Any, gp: Any, gc: Any, same_camera: str = "drop"
) -> list[list[int]]:
    """Zero-based ranks of every query's matches after junk removal."""
    found = []
    for i in range(len(score)):
        order = [j for j in np.argsort(-score[i], kind="stable") if gp[j] != -1]
        if same_camera == "drop":
            order = [j for j in order if not (gp[j] == qp[i] and gc[j] == qc[i])]
        found.append([r for r, j in enumerate(order) if gp[j] == qp[i]])
    return found


def values(ranks: list[int]) -> tuple[float, float, float]:
    """(rank-precision AP, trapezoid AP, INP) of one query with a match."""
    n, step, trapezoid = len(ranks), 0.0, 0.0
    for i, r in enumerate(ranks):
        new = (i + 1) / (r + 1)
        old = i / r if r else 1.0
        step += new / n
        trapezoid += (old + new) / 2 / n
    return step, trapezoid, n / (ranks[-1] + 1)


def clusters(
    n_query: int,
    n_gallery: int,
    *,
    ids: int = 12,
    cameras: int = 3,
    size: int = 16,
    noise: float = 1.5,
    seed: int = 0,
    copies: int = 0,
) -> tuple[np.ndarray, ...]:
    """Arguments of ``evaluate``: people as clusters; ``copies`` gallery rows are duplicates."""
    rng = np.random.default_rng(seed)
    centers = rng.standard_normal((ids, size))

    def side(n: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        pids, cams = rng.integers(0, ids, n), rng.integers(0, cameras, n)
        features = centers[pids] + noise * rng.standard_normal((n, size))
        return features.astype(np.float32), pids, cams

    query, gallery = side(n_query), side(n_gallery)
    if copies:
        gallery[0][rng.integers(0, n_gallery, copies)] = gallery[0][
            rng.integers(0, n_gallery, copies)
        ]
    return (*query, *gallery)


def reranked(
    query: np.ndarray, gallery: np.ndarray, k1: int, k2: int, weight: float, power: int
) -> np.ndarray:
    """Dense k-reciprocal re-ranking, step by step as the paper has it, for unit vectors."""
    items = np.concatenate([query, gallery]).astype(np.float64)
    items /= np.linalg.norm(items, axis=1, keepdims=True)
    n, n_query = len(items), len(query)
    cosine = items @ items.T
    distance = np.maximum(2 - (cosine + cosine.T), 0) ** power
    distance /= distance.max(axis=1, keepdims=True)
    for_order = distance.copy()
    np.fill_diagonal(for_order, -1)
    order = np.argsort(for_order, axis=1, kind="stable")

    def reciprocal(i: int, k: int) -> list[int]:
        return [j for j in order[i, : k + 1] if i in order[j, : k + 1]]

    encoding = np.zeros((n, n))
    for i in range(n):
        own = reciprocal(i, k1)
        members = set(own)
        for j in own:
            theirs = reciprocal(j, round(k1 / 2))
            if len(set(theirs) & set(own)) > 2 / 3 * len(theirs):
                members |= set(theirs)
        columns = sorted(members)
        value = np.exp(-distance[i, columns])
        encoding[i, columns] = value / value.sum()
    encoding = np.stack([encoding[order[i, :k2]].mean(axis=0) for i in range(n)])
    out = np.empty((n_query, n - n_query))
    for i in range(n_query):
        shared = np.minimum(encoding[i], encoding[n_query:]).sum(axis=1)
        out[i] = (1 - weight) * (1 - shared / (2 - shared)) + weight * distance[i, n_query:]
    return out
