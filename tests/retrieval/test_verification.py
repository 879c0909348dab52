"""Thresholds: ROC over pairs, and open-set identification."""

from __future__ import annotations

from typing import Any

import naive_retrieval as naive
import numpy as np
import pytest

from crosscam.errors import FeatureError
from crosscam.retrieval import kernels, open_set, roc

RATES = [0.0, 1e-3, 0.01, 0.05, 0.5, 1.0]


def data_with_strangers(seed: int = 0) -> list[np.ndarray]:
    data = list(naive.clusters(60, 200, ids=12, noise=2.0, seed=seed, copies=80))
    data[4] = data[4].copy()
    data[4][data[4] >= 8] += 100  # persons 8 to 11 are not in the gallery
    data[4][::17] = -1
    return data


@pytest.mark.parametrize("metric", ["cosine", "euclidean", "sqeuclidean"])
@pytest.mark.parametrize("threads", [1, 2])
def test_roc_is_that_of_all_pairs_in_one_list(metric: Any, threads: int) -> None:
    data = data_with_strangers()
    score = naive.scores(data[0], data[3], metric)
    same = data[1][:, None] == data[4]
    junk = (same & (data[2][:, None] == data[5])) | (data[4] == -1)
    right, wrong = score[same & ~junk], np.sort(score[~same & ~junk])[::-1]
    found = roc(*data, fpr=RATES, metric=metric, threads=threads, block=33)
    assert (found.n_positive, found.n_negative) == (len(right), len(wrong))
    for rate, tpr, threshold in zip(RATES, found.tpr, found.threshold, strict=True):
        place = int(rate * len(wrong) + 1e-9)
        expected = wrong[place] if place < len(wrong) else -np.inf
        assert tpr == (right > expected).mean()
        shown = -np.sqrt(-expected) if metric == "euclidean" else expected
        assert threshold == pytest.approx(shown, rel=1e-12)
        assert (wrong > expected).mean() <= rate
    assert found.tpr[-1] == 1.0


def test_roc_of_four_pairs_by_hand() -> None:
    """Wrong distances 2, 4, 6, 8, right ones 1, 3, 5, 7: each quarter lets one more pass."""
    gallery = np.array([[d, 0.0] for d in range(1, 9)], np.float32)
    pids = [1, 2, 1, 2, 1, 2, 1, 2]
    found = roc(
        np.zeros((1, 2), np.float32), [1], [0], gallery, pids, [1] * 8,
        fpr=[0, 0.25, 0.5, 0.75, 1], metric="euclidean",
    )  # fmt: skip
    assert found.tpr.tolist() == [0.25, 0.5, 0.75, 1.0, 1.0]
    assert found.threshold.tolist() == [-2.0, -4.0, -6.0, -8.0, -np.inf]


def test_roc_of_collapsed_features_accepts_nothing() -> None:
    data = data_with_strangers()
    data[0], data[3] = np.ones_like(data[0]), np.ones_like(data[3])
    assert roc(*data, fpr=[0.0, 0.9]).tpr.tolist() == [0.0, 0.0]


def test_roc_does_not_depend_on_blocks_or_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    data = data_with_strangers()
    first = roc(*data, fpr=RATES, block=1000)
    blocked = roc(*data, fpr=RATES, block=7, threads=2)
    load = kernels.load
    monkeypatch.setattr(kernels, "load", lambda compiled=True: load(compiled=False))
    plain = roc(*data, fpr=RATES)
    for other in (blocked, plain):
        np.testing.assert_array_equal(first.tpr, other.tpr)
        np.testing.assert_array_equal(first.threshold, other.threshold)


@pytest.mark.parametrize("rank", [1, 5])
@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
def test_open_set_rates_are_those_of_the_definition(metric: Any, rank: int) -> None:
    data = data_with_strangers(3)
    score = naive.scores(data[0], data[3], metric)
    hits, known, alarms = [], 0, []
    for i in range(len(score)):
        mine = (data[4] == data[1][i]) & (data[5] == data[2][i])
        rest = [j for j in np.argsort(-score[i], kind="stable") if data[4][j] != -1 and not mine[j]]
        right = [j for j in rest if data[4][j] == data[1][i]]
        if right:
            known += 1
            if right[0] in rest[:rank]:
                hits.append(score[i, right[0]])
        else:
            alarms.append(score[i, rest[0]])
    alarms.sort(reverse=True)
    found = open_set(*data, far=RATES, rank=rank, metric=metric, block=50)
    assert (found.n_known, found.n_unknown) == (known, len(alarms))
    for rate, dir_ in zip(RATES, found.dir, strict=True):
        place = int(rate * len(alarms) + 1e-9)
        threshold = alarms[place] if place < len(alarms) else -np.inf
        assert dir_ == sum(hit > threshold for hit in hits) / known


def test_open_set_of_four_queries_by_hand() -> None:
    """Known persons at distances 1 and 4, strangers at 2 and 3 from their nearest image."""
    gallery = np.array([[0, 0], [100, 0]], np.float32)
    query = np.array([[1, 0], [104, 0], [2, 0], [97, 0]], np.float32)
    found = open_set(
        query, [1, 2, 7, 8], None, gallery, [1, 2], None,
        far=[0, 0.5, 1], metric="euclidean", same_camera="keep",
    )  # fmt: skip
    assert found.dir.tolist() == [0.5, 0.5, 1.0]
    assert found.threshold.tolist() == [-2.0, -3.0, -np.inf]


def test_bad_input_is_refused() -> None:
    data = data_with_strangers()
    with pytest.raises(FeatureError, match=r"fpr must be one or more rates in \[0, 1\]"):
        roc(*data, fpr=[2.0])
    with pytest.raises(FeatureError, match="needs right and wrong pairs"):
        roc(data[0], np.zeros(60, int), None, data[3], np.zeros(200, int), None, same_camera="keep")
    with pytest.raises(FeatureError, match="queries with and without a match"):
        open_set(*naive.clusters(10, 100, ids=2))
