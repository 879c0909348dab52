"""Scored comparisons against loops over the definition."""

from __future__ import annotations

import numpy as np
import pytest

from crosscam.decision import collect
from crosscam.decision.trials import BINS, EDGES, bin_of, of_pairs
from crosscam.errors import FeatureError


def sightings(seed: int = 0, queries: int = 9, gallery: int = 40, people: int = 5) -> tuple:
    random = np.random.default_rng(seed)
    centers = random.normal(size=(people + 1, 8))

    def some(count: int, junk: bool) -> tuple:
        pids = random.integers(1, people + 1, count)
        camids = random.integers(1, 4, count)
        x = centers[pids] + 0.7 * random.normal(size=(count, 8))
        if junk:
            pids[:3], pids[3:6] = -1, 0
        return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32), pids, camids

    return (*some(queries, False), *some(gallery, True))


def test_collect_is_the_loop_over_all_pairs() -> None:
    q, qp, qc, g, gp, gc = sightings()
    trials = collect(q, qp, qc, g, gp, gc)
    names = sorted(set(qp.tolist()))
    same, other = [], np.zeros((len(names), BINS), int)
    cameras: dict = {}
    for i in range(len(q)):
        best: dict = {}
        for j in range(len(g)):
            score = np.float32(np.clip(q[i] @ g[j], -1, 1))
            if gp[j] == -1:
                continue
            pair = tuple(sorted((int(qc[i]), int(gc[j]))))
            if gp[j] == qp[i]:
                if gc[j] != qc[i]:
                    same.append((score, names.index(qp[i])))
                    cameras.setdefault(pair, [0, 0])[0] += 1
                continue
            other[names.index(qp[i]), min(int((score + 1) * BINS / 2), BINS - 1)] += 1
            cameras.setdefault(pair, [0, 0])[1] += 1
            key = int(gp[j]) if gp[j] else f"distractor {j}"
            best[key] = max(best.get(key, -2.0), score)
        found = np.sort(trials.best_other[i][~np.isnan(trials.best_other[i])])
        np.testing.assert_allclose(found, np.sort(list(best.values())), atol=1e-6)
        own = [s for s, j in zip((q[i] @ g.T), range(len(g)), strict=True)
               if gp[j] == qp[i] and gc[j] != qc[i]]  # fmt: skip
        if own:
            assert trials.best_same[i] == pytest.approx(max(own), abs=1e-6)
        else:
            assert np.isnan(trials.best_same[i])
    got = sorted(zip(trials.same.tolist(), trials.same_person.tolist(), strict=True))
    np.testing.assert_allclose([s for s, _ in got], sorted(s for s, _ in same), atol=1e-6)
    assert sorted(p for _, p in got) == sorted(p for _, p in same)
    assert np.array_equal(trials.other.sum(1), other.sum(1))
    assert np.abs(trials.other.cumsum(1) - other.cumsum(1)).max() <= 2  # a score on an edge
    counted = {k: [int(a.sum()), int(b.sum())] for k, (a, b) in trials.cameras.items()}
    assert {k: v for k, v in counted.items() if any(v)} == cameras


def test_person_0_is_a_person_where_a_query_shows_it() -> None:
    q, qp, qc, g, gp, gc = sightings()
    one = qp[0]
    gp[gp == 0] = one
    trials = collect(q, qp, qc, g, gp, gc)
    of_zero = collect(q, np.where(qp == one, 0, qp), qc, g, np.where(gp == one, 0, gp), gc)
    np.testing.assert_allclose(sorted(of_zero.same), sorted(trials.same), atol=1e-6)
    assert of_zero.best_other.shape == trials.best_other.shape
    np.testing.assert_allclose(of_zero.best_same, trials.best_same, atol=1e-6)


def test_bins_cover_every_cosine() -> None:
    assert bin_of(np.array([-1.0, 0.0, 1.0, EDGES[7]])).tolist() == [0, BINS // 2, BINS - 1, 7]


def test_pairs_given_as_a_list() -> None:
    trials = of_pairs([0.9, 0.1, 0.8, -0.2], [True, False, True, False])
    np.testing.assert_allclose(trials.same, [0.9, 0.8])
    assert trials.other.sum() == 2
    assert trials.other[0, bin_of(np.array([0.1]))[0]] == 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda a: (*a[:3], 2 * a[3], *a[4:]), "unit length"),
        (lambda a: (a[0], a[1][:-1], *a[2:]), "query_pids"),
        (lambda a: (*a[:3], a[3][:, :4] * 1.0, *a[4:]), "unit length|same model"),
        (lambda a: (a[0], a[1] + 100, *a[2:]), "pairs of one person"),
        (lambda a: (np.zeros((0, 8)), *a[1:]), "at least one row"),
    ],
)
def test_bad_sightings_are_refused(change: object, message: str) -> None:
    with pytest.raises(FeatureError, match=message):
        collect(*change(sightings()))  # type: ignore[operator]


def test_bad_pairs_are_refused() -> None:
    with pytest.raises(FeatureError, match="one answer"):
        of_pairs([0.5, 0.2], [True])
    with pytest.raises(FeatureError, match="cosine"):
        of_pairs([0.5, 7.0], [True, False])
    with pytest.raises(FeatureError, match="pairs of two"):
        of_pairs([0.5, 0.7], [True, True])
