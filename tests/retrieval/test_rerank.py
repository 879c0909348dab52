"""k-reciprocal re-ranking against the dense definition."""

from __future__ import annotations

from typing import Any

import naive_retrieval as naive
import numpy as np
import pytest

from crosscam.errors import FeatureError
from crosscam.retrieval import RerankSettings, evaluate, evaluate_distances, rerank

SETTINGS = [
    RerankSettings(),
    RerankSettings(k1=10, k2=1),
    RerankSettings(k1=5, k2=9),  # 5/2 rounds to 2: half to even
    RerankSettings(k1=7, k2=3, lambda_value=0.0),
    RerankSettings(lambda_value=1.0),
    RerankSettings(power=2),
    RerankSettings(k1=1, k2=1),
]


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
@pytest.mark.parametrize("device", ["cpu", "numpy", "torch:cpu"])
def test_distances_are_those_of_the_definition(settings: RerankSettings, device: str) -> None:
    data = naive.clusters(25, 120, size=24, noise=1.2, copies=0)
    expected = naive.reranked(
        data[0], data[3], settings.k1, settings.k2, settings.lambda_value, settings.power
    )
    found = rerank(data[0], data[3], settings, device=device, block=40, threads=2)
    np.testing.assert_allclose(found, expected, rtol=0, atol=2e-7)
    direct = evaluate(*data, rerank=settings, device=device, block=40)
    dense = evaluate_distances(expected, data[1], data[2], data[4], data[5])
    assert direct.mAP == pytest.approx(dense.mAP, abs=1e-12)
    assert direct.mINP == pytest.approx(dense.mINP, abs=1e-12)
    np.testing.assert_array_equal(direct.per_query.first_match, dense.per_query.first_match)


def test_duplicates_and_collapsed_features_do_no_harm() -> None:
    """Exact copies of items; copies of unit vectors have equal distances in the oracle too."""
    rng = np.random.default_rng(0)
    corners = np.sign(rng.standard_normal((30, 16))).astype(np.float32)  # exact distances
    query, gallery = corners[rng.integers(0, 30, 15)], corners[rng.integers(0, 30, 90)]
    settings = RerankSettings(k1=6, k2=3)
    expected = naive.reranked(query, gallery, 6, 3, 0.3, 1)
    for device in ("cpu", "numpy"):
        found = rerank(query, gallery, settings, device=device, block=20)
        np.testing.assert_allclose(found, expected, rtol=0, atol=2e-7)
    same = rerank(np.ones((4, 8), np.float32), np.ones((40, 8), np.float32))
    assert np.isfinite(same).all()
    assert same.min() >= 0


def test_lambda_one_keeps_the_order() -> None:
    data = naive.clusters(30, 150)
    plain = evaluate(*data)
    kept = evaluate(*data, rerank=RerankSettings(lambda_value=1.0))
    assert kept.to_json() == plain.to_json()
    np.testing.assert_array_equal(kept.per_query.ap, plain.per_query.ap)


def test_euclidean_of_unit_vectors_is_cosine() -> None:
    query, _, _, gallery, *_ = naive.clusters(20, 90)
    query, gallery = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (query, gallery))
    np.testing.assert_allclose(
        rerank(query, gallery), rerank(query, gallery, metric="euclidean"), atol=1e-6
    )


def test_euclidean_knows_lengths() -> None:
    query, _, _, gallery, *_ = naive.clusters(20, 90)
    grown = gallery * np.linspace(0.2, 5, 90, dtype=np.float32)[:, None]
    assert np.abs(rerank(query, grown) - rerank(query, gallery)).max() < 1e-5
    assert np.abs(
        rerank(query, grown, metric="euclidean") - rerank(query, gallery, metric="euclidean")
    ).max() > 0.01  # fmt: skip


def test_junk_images_of_person_minus_one_take_no_part() -> None:
    data: list[Any] = list(naive.clusters(20, 90))
    data[4] = data[4].copy()
    data[4][::7] = -1
    kept = data[4] != -1
    without = [*data[:3], *(part[kept] for part in data[3:])]
    settings = RerankSettings(k1=6, k2=3)
    a, b = evaluate(*data, rerank=settings), evaluate(*without, rerank=settings)
    assert a.to_json() == b.to_json()
    assert a.n_junk_images == (~kept).sum()


def test_it_helps_where_people_are_clusters() -> None:
    data = naive.clusters(60, 300, ids=15, size=32, noise=2.0)
    assert evaluate(*data, rerank=RerankSettings()).mAP > evaluate(*data).mAP + 0.02


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"k1": 0}, "k1 must be a whole number"),
        ({"k2": 0}, "k2 must be a whole number"),
        ({"lambda_value": 1.5}, r"lambda_value must be in \[0, 1\]"),
        ({"lambda_value": float("nan")}, "lambda_value"),
        ({"power": 3}, "power must be 1 or 2"),
    ],
)
def test_settings_are_checked(options: dict[str, Any], message: str) -> None:
    with pytest.raises(FeatureError, match=message):
        RerankSettings(**options)


def test_too_few_items_are_refused() -> None:
    data = naive.clusters(4, 10)
    with pytest.raises(FeatureError, match=r"needs at least 21 items .* got 14"):
        rerank(data[0], data[3])
    with pytest.raises(FeatureError, match="without gallery_tracks"):
        evaluate(*data, gallery_shots=1, rerank=RerankSettings())
