"""Ranking features and judging rankings: exact, fast, in bounded memory, and without torch."""

from __future__ import annotations

from crosscam.retrieval.evaluation import evaluate, evaluate_distances, top_k
from crosscam.retrieval.metrics import Metrics, PerQuery
from crosscam.retrieval.rerank import RerankSettings, rerank

__all__ = [
    "Metrics",
    "PerQuery",
    "RerankSettings",
    "evaluate",
    "evaluate_distances",
    "rerank",
    "top_k",
]
