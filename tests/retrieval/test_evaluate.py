"""The numbers of ``evaluate``: by hand, against naive loops, and what it refuses."""

from __future__ import annotations

import json
from fractions import Fraction
from typing import Any

import naive_retrieval as naive
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crosscam.errors import CrosscamError, FeatureError
from crosscam.retrieval import evaluate, evaluate_distances, top_k


def line(distances: list[float]) -> np.ndarray:
    """Points on a line at these distances from a query at 0 (Euclidean)."""
    return np.array([[d, 0.0] for d in distances], np.float32)


QUERY = np.zeros((1, 2), np.float32)


def one_query(gallery_pids: list[int], gallery_cams: list[int] | None = None, **options: Any):
    """Person 1 at camera 0 against a gallery that is already in the order of distance."""
    n = len(gallery_pids)
    cams = [1] * n if gallery_cams is None else gallery_cams
    gallery = line([float(i + 1) for i in range(n)])
    return evaluate(QUERY, [1], [0], gallery, gallery_pids, cams, metric="euclidean", **options)


@pytest.mark.parametrize(
    ("pids", "step", "trapezoid", "inp", "first"),
    [
        ([1, 2, 3], Fraction(1), Fraction(1), Fraction(1), 1),
        # matches at ranks 2 and 4: (1/2 + 2/4)/2; trapezoid (0+1/2)/2/2 + (1/3+1/2)/2/2
        ([2, 1, 3, 1], Fraction(1, 2), Fraction(1, 3), Fraction(1, 2), 2),
        # ranks 1, 3, 6: (1 + 2/3 + 3/6)/3 and (1 + (1/2+2/3)/2 + (2/5+3/6)/2)/3
        ([1, 2, 1, 3, 4, 1], Fraction(13, 18), Fraction(61, 90), Fraction(1, 2), 1),
        # last of five
        ([2, 3, 4, 5, 1], Fraction(1, 5), Fraction(1, 10), Fraction(1, 5), 5),
    ],
)
def test_rankings_worked_by_hand(
    pids: list[int], step: Fraction, trapezoid: Fraction, inp: Fraction, first: int
) -> None:
    m = one_query(pids)
    assert m.mAP == pytest.approx(float(step), abs=1e-15)
    assert m.mAP_trapezoid == pytest.approx(float(trapezoid), abs=1e-15)
    assert m.mINP == float(inp)
    assert m.per_query.first_match.tolist() == [first]
    assert m.cmc.tolist() == [float(k >= first) for k in range(1, 51)]


def test_junk_is_left_out_and_distractors_stay() -> None:
    # junk by camera, person -1, distractor 0, match, other, match: ranks 2 and 4
    m = one_query([1, -1, 0, 1, 2, 1], [0, 3, 3, 1, 1, 2])
    assert (m.mAP, m.mINP) == (0.5, 0.5)
    assert (m.n_junk_images, m.n_junk_pairs, m.n_distractors, m.n_gallery) == (1, 1, 2, 5)
    kept = one_query([1, -1, 0, 1, 2, 1], [0, 3, 3, 1, 1, 2], same_camera="keep")
    assert kept.per_query.first_match.tolist() == [1]
    assert kept.mAP == pytest.approx((1 + 2 / 3 + 3 / 5) / 3)


def test_person_zero_is_a_person_when_a_query_shows_it() -> None:
    gallery = line([1.0, 2.0])
    m = evaluate(QUERY, [0], [0], gallery, [0, 5], [1, 1], metric="euclidean")
    assert m.rank1 == 1.0
    assert m.n_distractors == 1


def test_queries_without_a_match_are_not_counted() -> None:
    gallery = line([1.0, 2.0])
    m = evaluate(
        np.zeros((3, 2), np.float32), [1, 9, 2], [0, 0, 1], gallery, [2, 1], [1, 1],
        metric="euclidean",
    )  # fmt: skip
    assert (m.n_queries, m.n_valid_queries) == (3, 1)
    assert m.per_query.valid.tolist() == [True, False, False]
    assert m.mAP == 0.5
    assert np.isnan(m.per_query.ap).tolist() == [False, True, True]


def test_equal_distances_are_ordered_by_gallery_row() -> None:
    gallery = np.ones((4, 2), np.float32)
    for place in range(4):
        pids = [2, 2, 2, 2]
        pids[place] = 1
        m = evaluate(QUERY, [1], [0], gallery, pids, [1] * 4, metric="euclidean")
        assert m.per_query.first_match.tolist() == [place + 1]


def _case(seed: int) -> tuple[dict[str, Any], np.ndarray]:
    """A small random case full of ties, junk, lone persons, odd types and odd memory layouts."""
    rng = np.random.default_rng(seed)
    n_query, n_gallery = rng.integers(1, 7), rng.integers(1, 13)
    size = int(rng.integers(2, 70))
    metric = ["cosine", "euclidean", "sqeuclidean"][seed % 3]
    kind = [np.float16, np.float32, np.float64][rng.integers(3)]

    def features(n: int) -> np.ndarray:
        if metric == "cosine":
            x = rng.standard_normal((n, size)).astype(np.float32)
        else:
            x = rng.integers(-2, 3, (n, min(size, 4))).astype(np.float32)
        x = x[rng.integers(0, n, n)] if rng.random() < 0.5 else x  # duplicates
        x = x.astype(kind)
        layout = rng.integers(3)
        if layout == 1:
            return np.asfortranarray(x)
        if layout == 2:
            return np.repeat(x, 2, axis=1)[:, ::2]
        return x

    case = {
        "query_features": features(n_query),
        "query_pids": rng.integers(0, 4, n_query),
        "query_camids": rng.integers(0, 3, n_query).astype(np.uint8),
        "gallery_features": features(n_gallery),
        "gallery_pids": rng.integers(-1, 4, n_gallery).astype(np.int32),
        "gallery_camids": rng.integers(0, 3, n_gallery),
        "metric": metric,
        "same_camera": "keep" if seed % 5 == 0 else "drop",
    }
    return case, naive.scores(case["query_features"], case["gallery_features"], metric)


def _check_case(seed: int, device: str = "cpu") -> bool:
    case, score = _case(seed)
    labels = [case[k] for k in ("query_pids", "query_camids", "gallery_pids", "gallery_camids")]
    expected = naive.ranked_matches(score, *labels, case["same_camera"])
    valid = [ranks for ranks in expected if ranks]
    options = {"threads": 1 + seed % 2, "block": 1 + seed % 9, "device": device}
    if not valid:
        with pytest.raises(FeatureError, match=r"none of the|the one query has no match|only junk"):
            evaluate(**case, **options)
        return False
    m = evaluate(**case, **options, max_rank=20)
    by_hand = np.array([naive.values(ranks) for ranks in valid])
    assert m.n_valid_queries == len(valid)
    found = np.stack([m.per_query.ap, m.per_query.ap_trapezoid, m.per_query.inp], axis=1)
    np.testing.assert_allclose(found[m.per_query.valid], by_hand, rtol=1e-14)
    np.testing.assert_allclose([m.mAP, m.mAP_trapezoid, m.mINP], by_hand.mean(axis=0), rtol=1e-14)
    firsts = np.array([ranks[0] for ranks in valid])
    assert m.cmc.tolist() == [(firsts < k).mean() for k in range(1, 21)]
    if case["metric"] != "cosine":
        distances = evaluate_distances(-score, *labels, same_camera=case["same_camera"])
        assert distances.mAP == m.mAP
        assert distances.mINP == m.mINP
    return True


def test_random_cases_agree_with_naive_loops() -> None:
    assert sum(_check_case(seed) for seed in range(200)) > 100


@pytest.mark.slow
def test_four_thousand_random_cases_agree_with_naive_loops() -> None:
    assert sum(_check_case(seed) for seed in range(10_000, 14_000)) > 2000


@pytest.mark.parametrize("device", ["numpy", "torch:cpu"])
def test_random_cases_agree_on_the_other_paths(device: str) -> None:
    assert sum(_check_case(seed, device) for seed in range(5000, 5060)) > 30


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_permuting_the_gallery_changes_nothing_but_ties(seed: int) -> None:
    rng = np.random.default_rng(seed)
    data = naive.clusters(20, 60, seed=seed % 1000)
    order = rng.permutation(60)
    shuffled = (*data[:3], *(part[order] for part in data[3:]))
    a, b = evaluate(*data), evaluate(*shuffled)
    assert a.to_json() == b.to_json()
    np.testing.assert_array_equal(a.per_query.ap, b.per_query.ap)
    back = top_k(data[0], shuffled[3], 10).indices
    np.testing.assert_array_equal(order[back], top_k(data[0], data[3], 10).indices)


def test_permuting_the_queries_changes_no_bit_of_the_means() -> None:
    data = naive.clusters(50, 80)
    order = np.random.default_rng(0).permutation(50)
    shuffled = (*(part[order] for part in data[:3]), *data[3:])
    assert evaluate(*data).to_json() == evaluate(*shuffled).to_json()


def test_lengths_of_any_size_are_ranked_right() -> None:
    data = naive.clusters(10, 40)
    plain = evaluate(*data, metric="euclidean")
    for power in (-120, -60, 60, 100):
        scaled = list(data)
        scaled[0], scaled[3] = data[0] * np.float32(2.0**power), data[3] * np.float32(2.0**power)
        assert evaluate(*scaled, metric="euclidean").to_json() == plain.to_json()
        assert evaluate(*scaled).to_json() == evaluate(*data).to_json()


def test_trapezoid_is_what_map_means_when_asked_for() -> None:
    data = naive.clusters(20, 60)
    step, trapezoid = evaluate(*data), evaluate(*data, ap="trapezoid")
    assert trapezoid.mAP == step.mAP_trapezoid != step.mAP
    assert trapezoid.mAP_rank_precision == step.mAP


def test_json_and_table_hold_the_numbers() -> None:
    m = evaluate(*naive.clusters(20, 60))
    assert list(json.loads(json.dumps(m.to_json()))) == [
        "rank1", "rank5", "rank10", "rank20", "mAP", "mINP", "n_queries", "n_valid_queries",
    ]  # fmt: skip
    assert f"{m.mAP:.2%}" in m.table()
    with pytest.raises(FeatureError, match="max_rank=51"):
        m.rank(51)


DATA = naive.clusters(4, 6, size=3)


def changed(place: int, value: Any) -> list[Any]:
    data = list(DATA)
    data[place] = value
    return data


def with_row(place: int, row: int, value: float) -> list[Any]:
    features = DATA[place].copy()
    features[row] = value
    return changed(place, features)


@pytest.mark.parametrize(
    ("data", "options", "message"),
    [
        (with_row(0, 2, np.nan), {}, "query_features row 2 holds NaN or infinity"),
        (with_row(3, 5, np.inf), {}, "gallery_features row 5 holds NaN or infinity"),
        (with_row(3, 5, -np.inf), {"metric": "euclidean"}, "row 5 holds NaN"),
        (changed(3, DATA[3].astype(np.float64) * 1e300), {}, "row 0 holds numbers beyond float32"),
        (with_row(3, 1, 0.0), {}, "gallery_features row 1 is a zero vector"),
        (changed(0, DATA[0][:3]), {}, "query_pids must have one number for each of the 3 rows"),
        (changed(4, DATA[4][:3]), {}, "gallery_pids .* 6 rows of gallery_features"),
        (changed(0, DATA[0][:, :2]), {}, "query_features has 2 numbers per row"),
        (changed(0, DATA[0][0]), {}, r"must be \[N, D\]"),
        (changed(3, DATA[3][:0]), {}, "gallery_features is empty"),
        (changed(0, DATA[0].astype(np.int64)), {}, "floating-point numbers, got dtype int64"),
        (changed(1, DATA[1].astype(float)), {}, "query_pids must be whole numbers"),
        (changed(2, None), {}, 'query_camids: None given, but same_camera="drop"'),
        (changed(4, np.full(6, -1)), {}, "gallery holds only junk"),
        (changed(4, np.full(6, 99)), {}, "0 person ids in common"),
        (DATA, {"metric": "manhattan"}, "metric must be one of 'cosine'"),
        (DATA, {"ap": "interpolated"}, "ap must be one of 'rank-precision'"),
        (DATA, {"threads": 0}, "threads must be a whole number"),
        (DATA, {"block": 0}, "block must be a whole number of at least 1"),
        (DATA, {"rerank": True}, r"rerank must be RerankSettings\(...\) or None, got True"),
        (changed(0, [[1.0, 2.0], [3.0]]), {}, "query_features cannot be read as an array"),
        (DATA, {"repeats": 3}, "repeats > 1 needs gallery_shots"),
        (DATA, {"multi_query": "mean"}, "multi_query needs multi_query_features"),
        (DATA, {"device": "abacus"}, 'device="abacus" cannot be used here'),
    ],
)
def test_bad_input_is_refused_with_a_reason(
    data: list[Any], options: dict[str, Any], message: str
) -> None:
    with pytest.raises(CrosscamError, match=message):
        evaluate(*data, **options)


def test_matches_from_the_own_camera_only_are_explained() -> None:
    with pytest.raises(FeatureError, match='same_camera="keep"'):
        evaluate(DATA[0], [1] * 4, [0] * 4, DATA[3], [1] * 6, [0] * 6)
    m = evaluate(DATA[0], [1] * 4, None, DATA[3], [1] * 6, None, same_camera="keep")
    assert m.mAP == 1.0


def test_zero_vectors_are_fine_for_euclidean_distance() -> None:
    assert evaluate(*with_row(3, 1, 0.0), metric="euclidean").n_gallery == 6


def test_inputs_are_left_as_they_were() -> None:
    data = naive.clusters(10, 30)
    copies = [part.copy() for part in data]
    for part in data:
        part.flags.writeable = False
    evaluate(*data)
    for part, copy in zip(data, copies, strict=True):
        np.testing.assert_array_equal(part, copy)


def test_distances_are_checked() -> None:
    ok = np.ones((4, 6))
    bad = ok.copy()
    bad[2, 3] = np.nan
    labels = (DATA[1], DATA[2], DATA[4], DATA[5])
    with pytest.raises(FeatureError, match="row 2 holds NaN"):
        evaluate_distances(bad, *labels)
    with pytest.raises(FeatureError, match=r"distances must be floating-point numbers \[Q, G\]"):
        evaluate_distances(ok.astype(int), *labels)
