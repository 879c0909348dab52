"""Judging a search's results, by hand."""

from __future__ import annotations

import dataclasses

import pytest
from test_calibration import people

from crosscam.decision import Calibration, collect, fit, judge
from crosscam.decision.trials import of_pairs


@pytest.fixture(scope="module")
def calibration() -> Calibration:
    return fit(collect(*people(0)), model="m", data="d")


def test_lines_probabilities_and_what_is_known(calibration: Calibration) -> None:
    pair = calibration.threshold(0.1).score
    search = calibration.threshold(0.1, people=20).score
    scores = [search + 0.01, (pair + search) / 2, pair - 0.01]
    said = judge(calibration, scores, 60, far=0.1, present=0.5)  # three sightings a person
    assert said.people == 20
    assert said.decisions == ("match", "possible", "unlikely")
    assert said.known is True
    for score, chance in zip(scores, said.probabilities, strict=True):
        assert chance == pytest.approx(float(calibration.probability(score, 0.5 / 20)))
    assert judge(calibration, scores[1:], 60, far=0.1).known is False
    assert said.to_json()["threshold"] == round(search, 4)


def test_several_pictures_taken_together_are_remarked_on(calibration: Calibration) -> None:
    assert judge(calibration, [0.9], 60).notes == ()
    (note,) = judge(calibration, [0.9], 60, pictures=2).notes
    assert "the calibration is of single pictures" in note


def test_an_empty_gallery_and_a_huge_one(calibration: Calibration) -> None:
    assert judge(calibration, [], 0).known is False
    assert judge(calibration, [0.99], 10**9).people == 100_000


def test_pairs_alone_decide_nothing() -> None:
    it = fit(of_pairs([0.9] * 20 + [0.1] * 20, [True] * 20 + [False] * 20), model="m", data="d")
    said = judge(dataclasses.replace(it, sightings_per_person=2.0), [0.95], 10, far=0.1)
    assert said.known is None
    assert said.decisions == ("possible",)
    assert said.people == 5
    assert said.text() == ""


def test_the_sentence_says_when_the_rate_is_extrapolated(calibration: Calibration) -> None:
    few = judge(calibration, [0.99], 60, far=0.1)
    assert not few.line.extrapolated
    assert few.text() == (
        f"probably seen here: above {few.line.score:.3f}, which 10.0% of strangers' searches pass"
    )
    many = judge(calibration, [0.0], 10**6, far=0.1)
    assert many.line.extrapolated
    assert many.text().startswith(f"UNKNOWN: nobody is above {many.line.score:.3f}, which 10.0%")
    assert "extrapolated" in many.text()
