"""From the ranks of matches to the numbers people quote: CMC, mAP by both rules, mINP."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from crosscam.errors import FeatureError
from crosscam.retrieval.inputs import check_count
from crosscam.retrieval.rank import MatchRanks

__all__ = ["APRule", "Metrics", "PerQuery", "from_ranks"]

APRule = Literal["rank-precision", "trapezoid"]
AP_RULES = ("rank-precision", "trapezoid")


@dataclass(frozen=True)
class PerQuery:
    """The values of each query [Q]; NaN, and rank 0, where it has no match.

    With random gallery draws ``ap``, ``ap_trapezoid`` and ``inp`` are means over the draws in
    which the query has a match, and ``first_match`` is the rank in the first of them.
    """

    ap: npt.NDArray[np.float64]  # rank-precision rule
    ap_trapezoid: npt.NDArray[np.float64]
    inp: npt.NDArray[np.float64]
    first_match: npt.NDArray[np.int64]  # one-based rank of the best match
    n_matches: npt.NDArray[np.int64]
    valid: npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Metrics:
    """How well rankings find the right person; all rates are fractions in [0, 1].

    CMC@k is the share of valid queries with a match among the first k, mAP and mINP are means
    over valid queries, and a query is valid if it has a match at all.  ``mAP`` follows the rule
    asked for by ``ap_rule``; both rules are always there.
    """

    cmc: npt.NDArray[np.float64]  # [max_rank], cmc[0] is rank-1
    mAP_rank_precision: float
    mAP_trapezoid: float
    mINP: float
    per_query: PerQuery = field(repr=False)
    n_queries: int
    n_valid_queries: int
    n_gallery: int  # columns ranked against: images, or tracks
    n_junk_images: int = 0  # gallery images of person -1, dropped for everyone
    n_junk_pairs: int = 0  # (query, gallery) pairs dropped: same person and same camera
    n_distractors: int = 0  # gallery columns whose person no query shows
    ap_rule: APRule = "rank-precision"
    repeats: int = 1

    @property
    def mAP(self) -> float:
        """Mean average precision by ``ap_rule``."""
        if self.ap_rule == "trapezoid":
            return self.mAP_trapezoid
        return self.mAP_rank_precision

    def rank(self, k: int) -> float:
        """CMC@k, for k from 1 to ``len(cmc)``."""
        if check_count(k, "k") > len(self.cmc):
            raise FeatureError(
                f"rank {k} was not computed, only ranks 1 to {len(self.cmc)}. "
                f"Evaluate with max_rank={k}."
            )
        return float(self.cmc[k - 1])

    @property
    def rank1(self) -> float:
        """Share of valid queries whose first result is right."""
        return self.rank(1)

    @property
    def rank5(self) -> float:
        """CMC@5."""
        return self.rank(5)

    @property
    def rank10(self) -> float:
        """CMC@10."""
        return self.rank(10)

    @property
    def rank20(self) -> float:
        """CMC@20."""
        return self.rank(20)

    def to_json(self) -> dict[str, float | int]:
        """The usual numbers under their usual names, ready for ``json.dumps``."""
        return {
            "rank1": self.rank1,
            "rank5": self.rank5,
            "rank10": self.rank10,
            "rank20": self.rank20,
            "mAP": self.mAP,
            "mINP": self.mINP,
            "n_queries": self.n_queries,
            "n_valid_queries": self.n_valid_queries,
        }

    def table(self) -> str:
        """The same as text, in percent, with what was counted out."""
        other = "trapezoid" if self.ap_rule == "rank-precision" else "rank-precision"
        other_map = self.mAP_trapezoid if other == "trapezoid" else self.mAP_rank_precision
        lines = [(f"rank-{k}", f"{self.rank(k):8.2%}") for k in (1, 5, 10, 20)]
        lines += [
            (f"mAP ({self.ap_rule})", f"{self.mAP:8.2%}"),
            (f"mAP ({other})", f"{other_map:8.2%}"),
            ("mINP", f"{self.mINP:8.2%}"),
            ("queries", f"{self.n_queries:7d}"),
            ("  with a match", f"{self.n_valid_queries:7d}"),
            ("gallery", f"{self.n_gallery:7d}"),
            ("  distractors", f"{self.n_distractors:7d}"),
            ("junk images dropped", f"{self.n_junk_images:7d}"),
            ("same-camera pairs dropped", f"{self.n_junk_pairs:7d}"),
        ]
        if self.repeats > 1:
            lines.append(("gallery draws averaged", f"{self.repeats:7d}"))
        return "\n".join(f"{name:<28s}{value}" for name, value in lines)


@dataclass(frozen=True)
class RankValues:
    """What one set of rankings gives, before averaging: per query, and the CMC counts."""

    ap: npt.NDArray[np.float64]
    ap_trapezoid: npt.NDArray[np.float64]
    inp: npt.NDArray[np.float64]
    first: npt.NDArray[np.int64]
    n: npt.NDArray[np.int64]


def values_of(ranks: MatchRanks) -> RankValues:
    """AP by both rules, INP and first match of every query; NaN where there is no match.

    With r_i the zero-based rank of match i = 0..n-1 (junk removed):
    rank-precision AP = 1/n sum (i+1)/(r_i+1);
    trapezoid AP = 1/n sum (p_old + p_new)/2 with p_new = (i+1)/(r_i+1) and p_old = i/r_i, or 1
    if r_i = 0 (the Oxford buildings code, which Market-1501's own evaluation uses);
    INP = n / (r_{n-1} + 1) (Ye et al., Deep Learning for Person Re-identification, TPAMI 2021).
    """
    n_queries = len(ranks.start) - 1
    n = np.diff(ranks.start)
    rows = np.repeat(np.arange(n_queries), n)
    i = np.arange(len(rows)) - ranks.start[rows]
    r = ranks.ranks
    new = (i + 1) / (r + 1)
    old = np.where(r == 0, 1.0, i / np.maximum(r, 1))
    first = np.zeros(n_queries, np.int64)
    last = np.zeros(n_queries, np.int64)
    valid = n > 0
    first[valid] = r[ranks.start[:-1][valid]] + 1
    last[valid] = r[ranks.start[1:][valid] - 1] + 1
    with np.errstate(invalid="ignore"):  # 0 / 0 = NaN marks queries without a match
        return RankValues(
            np.bincount(rows, new, n_queries) / n,
            np.bincount(rows, (old + new) / 2, n_queries) / n,
            n / last,
            first,
            n,
        )


def mean(values: npt.NDArray[np.float64]) -> float:
    """The mean over valid queries; the sum is correctly rounded, whatever their order."""
    values = values[~np.isnan(values)]
    return math.fsum(values) / len(values)


def cmc_of(first: npt.NDArray[np.int64], max_rank: int) -> npt.NDArray[np.float64]:
    """CMC [max_rank] from one-based ranks of first matches, 0 where there is none."""
    found = first[first > 0]
    hits = np.bincount(np.minimum(found, max_rank + 1), minlength=max_rank + 2)[1:-1]
    cmc: npt.NDArray[np.float64] = np.cumsum(hits) / len(found)
    return cmc


def from_ranks(ranks: MatchRanks, max_rank: int, **counts: Any) -> Metrics:
    """``Metrics`` of one set of rankings with at least one valid query."""
    return from_values([values_of(ranks)], max_rank, **counts)


def from_values(draws: list[RankValues], max_rank: int, **counts: Any) -> Metrics:
    """``Metrics`` as the mean over one or more draws of the gallery."""
    ap = np.array([draw.ap for draw in draws])
    trapezoid = np.array([draw.ap_trapezoid for draw in draws])
    inp = np.array([draw.inp for draw in draws])
    first = np.array([draw.first for draw in draws])
    valid: npt.NDArray[np.bool_] = np.any(first > 0, axis=0)
    first_valid = first[(first > 0).argmax(axis=0), np.arange(first.shape[1])]
    per_query = PerQuery(
        ap=_mean_over_draws(ap),
        ap_trapezoid=_mean_over_draws(trapezoid),
        inp=_mean_over_draws(inp),
        first_match=first_valid,
        n_matches=np.array([draw.n for draw in draws]).max(axis=0),
        valid=valid,
    )
    counted = [d for d in range(len(draws)) if (first[d] > 0).any()]

    def average(values: npt.NDArray[np.float64]) -> float:
        return math.fsum(mean(values[d]) for d in counted) / len(counted)

    return Metrics(
        cmc=np.array([cmc_of(first[d], max_rank) for d in counted]).sum(axis=0) / len(counted),
        mAP_rank_precision=average(ap),
        mAP_trapezoid=average(trapezoid),
        mINP=average(inp),
        per_query=per_query,
        n_valid_queries=int(valid.sum()),
        **counts,
    )


def _mean_over_draws(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    known = ~np.isnan(values)
    with np.errstate(invalid="ignore"):
        result: npt.NDArray[np.float64] = np.where(known, values, 0).sum(axis=0) / known.sum(axis=0)
    return result
