"""Draws of the gallery, pooled queries and tracks."""

from __future__ import annotations

from typing import Any

import naive_retrieval as naive
import numpy as np
import pytest

from crosscam.errors import FeatureError
from crosscam.retrieval import evaluate, pool_queries

DATA = naive.clusters(30, 120, ids=10, noise=2.5)


def test_single_gallery_shot_has_the_expected_cmc() -> None:
    """CUHK03 classic against its expectation, which a tiny gallery lets one write down.

    Query at 0; person 1 at 2 and 6, person 2 at 1 and 4, person 3 at 3.  The match drawn is at 2
    (rank 1 + [person 2 at 1], even odds) or at 6 (rank 3).
    """
    query = np.zeros((1, 2), np.float32)
    gallery = np.array([[2, 0], [6, 0], [1, 0], [4, 0], [3, 0]], np.float32)
    m = evaluate(
        query, [1], [0], gallery, [1, 1, 2, 2, 3], [1] * 5, metric="euclidean",
        gallery_shots=1, shots_per="query", repeats=4000,
    )  # fmt: skip
    np.testing.assert_allclose(m.cmc[:3], [0.25, 0.5, 1.0], atol=0.03)
    assert m.mAP == pytest.approx(0.25 * 1 + 0.25 / 2 + 0.5 / 3, abs=0.02)
    assert m.repeats == 4000


def test_single_gallery_shot_never_draws_junk() -> None:
    """The nearest image is junk; of the person only the far one may be drawn."""
    gallery = np.array([[0.1, 0], [1, 0], [2, 0]], np.float32)
    m = evaluate(
        np.zeros((1, 2), np.float32), [1], [0], gallery, [1, 2, 1], [0, 0, 1],
        metric="euclidean", gallery_shots=1, shots_per="query", repeats=50,
    )  # fmt: skip
    assert m.per_query.first_match.tolist() == [2]
    assert m.mAP == 0.5


@pytest.mark.parametrize("shots_per", ["set", "query"])
def test_as_many_shots_as_there_are_is_the_whole_gallery(shots_per: Any) -> None:
    whole = evaluate(*DATA)
    drawn = evaluate(*DATA, gallery_shots=1000, shots_per=shots_per, repeats=2)
    assert drawn.to_json() == whole.to_json()
    np.testing.assert_array_equal(drawn.per_query.ap, whole.per_query.ap)


@pytest.mark.parametrize("shots_per", ["set", "query"])
def test_draws_follow_the_seed_alone(shots_per: Any) -> None:
    options: dict[str, Any] = {"gallery_shots": 2, "shots_per": shots_per, "repeats": 5}
    first = evaluate(*DATA, **options, seed=7, threads=1)
    again = evaluate(*DATA, **options, seed=7, threads=2, block=16)
    other = evaluate(*DATA, **options, seed=8)
    assert first.to_json() == again.to_json() != other.to_json()


def test_n_shots_per_set_is_the_mean_over_reduced_galleries() -> None:
    """Person 1 has two images, one near and one far; a draw of one takes either."""
    gallery = np.array([[1, 0], [3, 0], [2, 0]], np.float32)
    one = {"metric": "euclidean", "same_camera": "keep", "gallery_shots": 1}
    found = {
        evaluate(
            np.zeros((1, 2), np.float32), [1], None, gallery, [1, 1, 2], None, **one, seed=seed
        ).mAP
        for seed in range(20)
    }  # fmt: skip
    assert found == {1.0, 0.5}
    mean = evaluate(
        np.zeros((1, 2), np.float32), [1], None, gallery, [1, 1, 2], None, **one, repeats=400
    )
    assert mean.mAP == pytest.approx(0.75, abs=0.05)
    assert mean.n_gallery == 2


def test_multi_query_pools_the_images_of_person_and_camera() -> None:
    features = np.array([[3, 4], [4, 3], [0, 2], [1, 0]], np.float32)
    args = ([1, 1], [0, 1], features, [1, 1, 1, 2], [0, 0, 1, 0])
    mean = pool_queries(*args)
    np.testing.assert_allclose(mean, [[0.7, 0.7], [0, 1]], rtol=1e-6)
    np.testing.assert_allclose(pool_queries(*args, "max"), [[0.8, 0.8], [0, 1]], rtol=1e-6)
    np.testing.assert_allclose(pool_queries(*args, normalize=False)[0], [3.5, 3.5])
    with pytest.raises(FeatureError, match=r"query 0 \(person 9, camera 0\) has no multi-query"):
        pool_queries([9], [0], *args[2:])


def test_multi_query_replaces_the_query() -> None:
    query, query_pids, query_cams, *gallery = DATA
    pooled = pool_queries(query_pids, query_cams, query, query_pids, query_cams)
    expected = evaluate(pooled, query_pids, query_cams, *gallery)
    noise = np.random.default_rng(0).standard_normal(query.shape).astype(np.float32)
    m = evaluate(
        noise, query_pids, query_cams, *gallery, multi_query="mean",
        multi_query_features=query, multi_query_pids=query_pids, multi_query_camids=query_cams,
    )  # fmt: skip
    assert m.to_json() == expected.to_json()


def _tracks() -> tuple[np.ndarray, np.ndarray]:
    """Tracks of up to four images of one person and camera, and their numbers shuffled."""
    _, _, _, _, pids, cams = DATA
    numbers = np.zeros(120, np.int64)
    seen: dict[tuple[int, int], int] = {}
    for i, key in enumerate(zip(pids.tolist(), cams.tolist(), strict=True)):
        seen[key] = seen.get(key, -1) + 1
        numbers[i] = 1000 * key[0] + 100 * key[1] + seen[key] // 4
    renumber = np.random.default_rng(1).permutation(20_000)
    return renumber[numbers], numbers


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
@pytest.mark.parametrize("device", ["cpu", "numpy", "torch:cpu"])
def test_a_track_is_as_near_as_its_nearest_image(metric: Any, device: str) -> None:
    tracks, _ = _tracks()
    score = naive.scores(DATA[0], DATA[3], metric)
    heads = sorted(np.unique(tracks, return_index=True)[1])  # tracks in order of appearance
    best = np.stack([score[:, tracks == tracks[h]].max(axis=1) for h in heads], axis=1)
    ranks = naive.ranked_matches(best, DATA[1], DATA[2], DATA[4][heads], DATA[5][heads])
    m = evaluate(*DATA, metric=metric, gallery_tracks=tracks, device=device, block=9)
    expected = [naive.values(r)[0] for r in ranks]
    np.testing.assert_allclose(m.per_query.ap, expected, rtol=1e-13)
    assert m.n_gallery == len(heads) < 120


def test_a_track_shows_one_person_from_one_camera() -> None:
    with pytest.raises(FeatureError, match="more than one number in gallery_pids"):
        evaluate(*DATA, gallery_tracks=np.zeros(120, int))
    with pytest.raises(FeatureError, match="more than one number in gallery_camids"):
        evaluate(*DATA, gallery_tracks=DATA[4])
    with pytest.raises(FeatureError, match="gallery_tracks must have one number"):
        evaluate(*DATA, gallery_tracks=[1, 2])
