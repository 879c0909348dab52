"""Decisions against enumeration, closed forms and sorted scores."""

from __future__ import annotations

import dataclasses
import itertools
import json
from pathlib import Path

import numpy as np
import pytest

from crosscam.decision import Calibration, Trials, collect, fit
from crosscam.decision.calibration import RATES, search_alarms
from crosscam.decision.likelihood import Likelihood
from crosscam.decision.trials import BINS, EDGES, of_pairs
from crosscam.errors import CheckpointError, InputError


def people(seed: int, count: int = 60, sightings: int = 6, spread: float = 0.55) -> tuple:
    """Unit vectors of people seen by three cameras, half as queries."""
    random = np.random.default_rng(seed)
    centers = random.normal(size=(count, 32)) / np.sqrt(32)
    pids = np.repeat(np.arange(1, count + 1), sightings)
    x = centers[pids - 1] + spread * random.normal(size=(len(pids), 32)) / np.sqrt(32)
    x = (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)
    camids = np.tile(np.arange(sightings) % 3 + 1, count)
    query = np.tile(np.arange(sightings) < sightings // 2, count)
    return x[query], pids[query], camids[query], x[~query], pids[~query], camids[~query]


@pytest.fixture(scope="module")
def trials() -> Trials:
    return collect(*people(0))


@pytest.fixture(scope="module")
def calibration(trials: Trials) -> Calibration:
    return fit(trials, model="abc", data="people of these tests")


def test_search_alarms_are_the_mean_over_all_galleries() -> None:
    scores = np.array([[0.1, 0.5, -0.3, 0.7, 0.2, np.nan]], np.float32)
    valid = scores[0, :5]
    for n in (1, 2, 3, 5):
        got = search_alarms(scores, n)[0]
        for place in (0, 700, 2100, 2400, 3000, 3900, BINS - 1):
            galleries = list(itertools.combinations(valid, n))
            binned = [max(np.floor((s + 1) * BINS / 2) for s in g) >= place for g in galleries]
            assert got[place] == pytest.approx(np.mean(binned), abs=1e-12)


def test_beyond_the_strangers_there_are_the_threshold_is_on_the_safe_side() -> None:
    """Learned from 15 people and held against galleries of 60 of the same kind."""
    few = fit(collect(*people(0, 15)), model="m", data="d")
    q, qp, _, g, gp, _ = people(11, 61)
    alarms = [
        max((q[i] @ g.T)[gp != qp[i]]) > few.threshold(0.3, people=60).score for i in range(len(q))
    ]
    assert np.mean(alarms) <= 0.4
    assert few.threshold(0.3, people=60).score > few.threshold(0.3, people=14).score


def test_pair_thresholds_are_the_lowest_edges_that_keep_the_promise(
    trials: Trials, calibration: Calibration
) -> None:
    q, qp, _, g, gp, _ = people(0)
    wrong = (q @ g.T)[qp[:, None] != gp[None, :]]
    for threshold in calibration.pair_thresholds:
        assert (wrong > threshold.score).mean() <= threshold.far
        assert (wrong >= threshold.score - 2 * (EDGES[1] - EDGES[0])).mean() > threshold.far
        assert threshold.low <= threshold.score <= threshold.high


def test_search_thresholds_keep_their_promise_and_rise_with_the_gallery(
    calibration: Calibration,
) -> None:
    q, qp, _, g, gp, _ = people(0)
    random = np.random.default_rng(3)
    scores = q @ g.T
    alarms = []
    threshold = calibration.threshold(0.1, people=10).score
    for i in range(len(q)):
        strangers = [p for p in set(gp.tolist()) if p != qp[i]]
        for _ in range(20):
            gallery = random.choice(strangers, 10, replace=False)
            alarms.append(scores[i][np.isin(gp, gallery)].max() > threshold)
    assert np.mean(alarms) == pytest.approx(0.1, abs=0.02)
    rising = [calibration.threshold(0.03, people=n).score for n in (1, 10, 30, 100, 1000)]
    assert rising == sorted(rising)
    assert calibration.threshold(0.1, people=100_000).extrapolated
    assert not calibration.threshold(0.1, people=10).extrapolated


def test_probabilities_hold_on_other_people() -> None:
    calibration = fit(collect(*people(4, 250, spread=1.0)), model="m", data="d")
    q, qp, qc, g, gp, gc = people(1, 250, spread=1.0)
    scores = (q @ g.T).ravel()
    same = (qp[:, None] == gp[None, :]).ravel()
    seen = ~(same & (qc[:, None] == gc[None, :]).ravel())
    scores, same = scores[seen], same[seen]
    prior = float(same.mean())
    p = calibration.probability(scores, prior)
    for low, high in ((0.05, 0.2), (0.2, 0.4), (0.4, 0.6), (0.6, 0.8), (0.8, 0.95)):
        there = (p >= low) & (p < high)
        assert same[there].mean() == pytest.approx(p[there].mean(), abs=0.08)
    assert p.mean() == pytest.approx(prior, rel=0.1)


def test_identify_is_bayes_rule_by_hand(calibration: Calibration) -> None:
    it = dataclasses.replace(calibration, person=Likelihood(0.0, 0.0, np.log(3.0)))
    probabilities, unknown = it.identify([0.5, 0.2], people=4, present=0.8)
    # w = 0.8 / 4; total = 0.2 + 0.2 * 3 + 0.2 * 3
    np.testing.assert_allclose(probabilities, [0.6 / 1.4, 0.6 / 1.4])
    assert unknown == pytest.approx(0.2 / 1.4)


def test_identify_knows_when_nobody_fits(calibration: Calibration) -> None:
    """Half of the people leave the gallery; the probabilities say how often that is."""
    q, qp, _, g, gp, _ = people(2)
    stay = gp <= 30
    right, said = [], []
    for i in range(len(q)):
        row = q[i] @ g.T
        persons = np.unique(gp[stay])
        best = np.array([row[gp == p].max() for p in persons])
        chances, unknown = calibration.identify(best, people=len(persons), present=0.5)
        assert chances.sum() + unknown == pytest.approx(1.0)
        right.append(persons[chances.argmax()] == qp[i])
        said.append(chances.max())
    said_array, right_array = np.array(said), np.array(right)
    assert right_array.mean() == pytest.approx(said_array.mean(), abs=0.05)
    sure = said_array > 0.9
    assert right_array[sure].mean() > 0.85
    assert right_array[said_array < 0.1].mean() < 0.15


def test_sightings_per_person_are_those_of_the_gallery(calibration: Calibration) -> None:
    assert calibration.sightings_per_person == pytest.approx(3.0)


def test_camera_pairs_are_counted(trials: Trials, calibration: Calibration) -> None:
    q, qp, qc, g, gp, gc = people(0)
    scores = q @ g.T
    edge = EDGES[np.searchsorted(EDGES, calibration.threshold(0.01).score, "left")]
    for pair in calibration.cameras:
        a, b = pair.cameras
        there = ((qc[:, None] == a) & (gc == b)) | ((qc[:, None] == b) & (gc == a))
        wrong = scores[there & (qp[:, None] != gp)]
        assert pair.pairs == len(wrong)
        assert pair.far == pytest.approx((wrong >= edge).mean(), abs=2 / len(wrong))
        if a == b:
            assert pair.tpr is None
    assert {p.cameras for p in calibration.cameras} >= {(1, 2), (1, 3), (2, 3)}


def test_intervals_narrow_with_more_people() -> None:
    widths = []
    for count in (20, 200):
        found = fit(collect(*people(5, count, 4)), model="m", data="d").threshold(0.1)
        widths.append(found.high - found.low)
    assert widths[1] < 0.7 * widths[0]


def test_drift_warns_of_strangers_that_look_alike(calibration: Calibration) -> None:
    random = np.random.default_rng(0)
    q, qp, _, g, gp, _ = people(9)
    as_then = (q @ g.T)[qp[:, None] != gp][:5000]
    assert calibration.drift(as_then).warning == ""
    assert calibration.drift(as_then).now == pytest.approx(0.01, abs=0.01)
    closer = calibration.drift(np.clip(as_then + 0.25, -1, 1))
    assert "more alike" in closer.warning
    assert closer.now > 0.05
    broken = calibration.drift(random.uniform(-1.0, -0.95, 500))
    assert "below everything" in broken.warning
    with pytest.raises(InputError, match="100 or more"):
        calibration.drift([0.1] * 10)


def test_round_trip(calibration: Calibration, tmp_path: Path) -> None:
    calibration.save(tmp_path / "c.json")
    assert Calibration.load(tmp_path / "c.json", "abc") == calibration


def test_another_encoder_a_newer_format_and_garbage_are_refused(
    calibration: Calibration, tmp_path: Path
) -> None:
    path = tmp_path / "c.json"
    with pytest.raises(CheckpointError, match="no calibration"):
        Calibration.load(path)
    calibration.save(path)
    with pytest.raises(CheckpointError, match="Calibrate this encoder"):
        Calibration.load(path, "def")
    tree = json.loads(path.read_text())
    path.write_text(json.dumps({**tree, "format": 99}))
    with pytest.raises(CheckpointError, match="format"):
        Calibration.load(path)
    pair, threshold = tree["pair"], tree["pair_thresholds"][0]
    size, found = tree["search_thresholds"][0]
    wrong = [
        {"people": -4},
        {"same_pairs": 0},
        {"people": "many"},
        {"sightings_per_person": 0.0},
        {"pair": {**pair, "a": float("nan")}},
        {"pair": {**pair, "b": -1.0}},
        {"pair_thresholds": []},
        {"pair_thresholds": [{**threshold, "score": 2.0}, *tree["pair_thresholds"][1:]]},
        {"pair_thresholds": [{**threshold, "low": float("nan")}, *tree["pair_thresholds"][1:]]},
        {"search_thresholds": [[0, found]]},
        {"search_thresholds": [[size, found], [size, found]]},
        {"quantiles": []},
        {"quantiles": [0.1, float("nan")]},
        {"cameras": [{**tree["cameras"][0], "far": 7.0}]},
    ]
    for text in ("{", "[]", json.dumps({**tree, "pair": 3}), json.dumps({"format": 1}),
                 *(json.dumps({**tree, **values}) for values in wrong)):  # fmt: skip
        path.write_text(text)
        with pytest.raises(CheckpointError, match="not a calibration"):
            Calibration.load(path)


def test_questions_out_of_range_are_refused(calibration: Calibration) -> None:
    with pytest.raises(InputError, match="far"):
        calibration.threshold(0.9)
    with pytest.raises(InputError, match="people"):
        calibration.threshold(0.01, people=10**9)
    with pytest.raises(InputError, match="people must be 1 to"):
        calibration.threshold(0.01, people=float("nan"))  # type: ignore[arg-type]
    with pytest.raises(InputError, match="prior"):
        calibration.probability(0.3, prior=1.0)
    with pytest.raises(InputError, match="candidates"):
        calibration.identify([0.1, 0.2], people=1)
    with pytest.raises(InputError, match="one score of each candidate"):
        calibration.identify([[0.1, 0.2]], people=5)


@pytest.mark.parametrize("score", [float("nan"), float("inf"), 2.0, -1.01])
def test_what_is_no_cosine_similarity_is_refused(calibration: Calibration, score: float) -> None:
    message = r"scores must be cosine similarities in \[-1, 1\], got .* \(1 of"
    with pytest.raises(InputError, match=message):
        calibration.probability(score)
    with pytest.raises(InputError, match=message):
        calibration.identify([0.5, score], people=10)
    with pytest.raises(InputError, match=message):
        calibration.drift([0.0] * 300 + [score])
    with pytest.raises(InputError, match="scores must be numbers"):
        calibration.probability("high")
    assert float(calibration.probability(1.0 + 1e-6)) == float(calibration.probability(1.0))


def test_a_list_of_pairs_knows_nothing_of_searches() -> None:
    random = np.random.default_rng(0)
    scores = np.concatenate([random.normal(0.6, 0.1, 200), random.normal(0.1, 0.15, 400)])
    found = fit(of_pairs(scores.clip(-1, 1), np.arange(600) < 200), model="m", data="d")
    assert found.probability(0.6) > 0.9 > 0.1 > found.probability(0.1)
    assert (scores[200:] > found.threshold(0.1).score).mean() <= 0.1
    with pytest.raises(InputError, match="list of pairs"):
        found.threshold(0.1, people=10)


def test_rates_between_the_calibrated_ones_lie_between(calibration: Calibration) -> None:
    some = [calibration.threshold(f).score for f in (*RATES[:3], 0.02, *RATES[3:])]
    assert some == sorted(some, reverse=True)
