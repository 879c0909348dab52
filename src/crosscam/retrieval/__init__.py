"""Ranking features and judging rankings: exact, fast, in bounded memory, and without torch.

    from crosscam.retrieval import evaluate
    m = evaluate(qf, query_pids, query_camids, gf, gallery_pids, gallery_camids)

Needs nothing but NumPy; numba, if installed, makes it quick.
"""

from __future__ import annotations

from crosscam.retrieval.evaluation import evaluate, evaluate_distances, top_k
from crosscam.retrieval.expansion import augment_database, expand_queries, fuse_flip
from crosscam.retrieval.metrics import Metrics, PerQuery
from crosscam.retrieval.protocols import pool_queries
from crosscam.retrieval.reranking import RerankSettings, rerank
from crosscam.retrieval.score import read_features, score_file
from crosscam.retrieval.verification import OpenSet, Roc, open_set, roc

__all__ = [
    "Metrics",
    "OpenSet",
    "PerQuery",
    "RerankSettings",
    "Roc",
    "augment_database",
    "evaluate",
    "evaluate_distances",
    "expand_queries",
    "fuse_flip",
    "open_set",
    "pool_queries",
    "read_features",
    "rerank",
    "roc",
    "score_file",
    "top_k",
]
