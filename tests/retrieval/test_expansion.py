"""Flip fusion, query expansion and database augmentation against loops."""

from __future__ import annotations

import naive_retrieval as naive
import numpy as np
import pytest

from crosscam.errors import FeatureError
from crosscam.retrieval import augment_database, evaluate, expand_queries, fuse_flip, top_k

QUERY, _, _, GALLERY, *_ = naive.clusters(12, 60)


def unit(x: np.ndarray) -> np.ndarray:
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


@pytest.mark.parametrize("alpha", [0.0, 1.0, 3.0])
@pytest.mark.parametrize("device", ["cpu", "numpy", "torch:cpu"])
def test_query_expansion_is_the_weighted_mean(alpha: float, device: str) -> None:
    q, g = unit(QUERY.astype(np.float64)), unit(GALLERY.astype(np.float64))
    expected = []
    for x in q:
        cosine = g @ x
        best = np.argsort(-cosine)[:7]
        weight = np.maximum(cosine[best], 0) ** alpha if alpha else np.ones(7)
        expected.append(unit(x + weight @ g[best]))
    found = expand_queries(QUERY, GALLERY, 7, alpha=alpha, device=device)
    np.testing.assert_allclose(found, expected, atol=3e-7)


def test_database_augmentation_leaves_the_item_out_of_its_own_neighbors() -> None:
    g = unit(GALLERY.astype(np.float64))
    cosine = g @ g.T
    np.fill_diagonal(cosine, -np.inf)
    expected = [unit(g[i] + g[np.argsort(-cosine[i])[:3]].sum(axis=0)) for i in range(60)]
    np.testing.assert_allclose(augment_database(GALLERY, 3), expected, atol=3e-7)


def test_a_negative_cosine_weighs_nothing() -> None:
    query, gallery = np.array([[1.0, 0]], "f4"), np.array([[-1.0, 0.1]], "f4")
    np.testing.assert_array_equal(expand_queries(query, gallery, 1, alpha=2.0), query)


def test_expansion_helps_where_people_are_clusters() -> None:
    data = naive.clusters(60, 300, ids=15, size=32, noise=2.0)
    better = evaluate(expand_queries(data[0], data[3], 5), *data[1:])
    assert better.mAP > evaluate(*data).mAP + 0.02


def test_flip_fusion_is_the_sum_at_unit_length() -> None:
    a, b = np.array([[1.0, 2.0]], "f4"), np.array([[2.0, 2.0]], "f4")
    np.testing.assert_allclose(fuse_flip(a, b), [[0.6, 0.8]], rtol=1e-6)
    with pytest.raises(FeatureError, match="same images"):
        fuse_flip(a, np.ones((2, 2), "f4"))
    with pytest.raises(FeatureError, match="row 0 is a zero vector"):
        fuse_flip(a, -a)


def test_bad_input_is_refused() -> None:
    with pytest.raises(FeatureError, match="k is 61, but the gallery has 60 rows"):
        expand_queries(QUERY, GALLERY, 61)
    with pytest.raises(FeatureError, match="k is 60, but a gallery of 60 rows has 59 others"):
        augment_database(GALLERY, 60)
    with pytest.raises(FeatureError, match="alpha must be 0 or larger"):
        expand_queries(QUERY, GALLERY, 3, alpha=-1.0)
    with pytest.raises(FeatureError, match="k is 61, but the gallery has 60 rows"):
        top_k(QUERY, GALLERY, 61)
    with pytest.raises(FeatureError, match="give all four, or none"):
        top_k(QUERY, GALLERY, 3, query_pids=[1] * 12)


def test_top_k_without_junk_fills_up_with_minus_one() -> None:
    gallery = np.array([[1, 0], [2, 0], [3, 0], [4, 0]], "f4")
    for device in ("cpu", "numpy", "torch:cpu"):
        ranking = top_k(
            np.zeros((2, 2), "f4"), gallery, 3, metric="euclidean", device=device,
            query_pids=[1, 2], query_camids=[0, 0],
            gallery_pids=[1, -1, 1, 2], gallery_camids=[0, 0, 1, 0],
        )  # fmt: skip
        assert ranking.indices.tolist() == [[2, 3, -1], [0, 2, -1]]
        np.testing.assert_array_equal(ranking.scores, [[3, 4, np.nan], [1, 3, np.nan]])
