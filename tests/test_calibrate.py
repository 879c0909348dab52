"""Calibration on a data set: what it promises is held against other people."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from crosscam.calibrate import Calibrated, calibrate, calibrate_pairs, read_pairs
from crosscam.cli import main
from crosscam.decision import Calibration
from crosscam.errors import DataError
from crosscam.models import resolve
from crosscam.types import Dataset, Sample


def sighting(path: Path) -> npt.NDArray[np.float32]:
    """The vector of a sighting, drawn around its person's: names are PERSON_CAMERA_NUMBER."""
    pid, camid, number = (int(x) for x in path.name.split("_"))
    center = np.random.default_rng([1, pid]).normal(size=24)
    own = np.random.default_rng([2, pid, camid, number]).normal(size=24)
    vector = center + 0.9 * own
    return (vector / np.linalg.norm(vector)).astype(np.float32)


def embed(paths: Sequence[Path]) -> npt.NDArray[np.float32]:
    return np.stack([sighting(p) for p in paths])


def dataset(people: int = 80) -> Dataset:
    def of(pid: int, camid: int, number: int) -> Sample:
        return Sample(Path(f"{pid}_{camid}_{number}"), pid, camid)

    ids = range(1, people + 1)
    query = [of(p, c, 0) for p in ids for c in (1, 2)]
    gallery = [of(p, c, n) for p in ids for c in (1, 2, 3) for n in (1, 2)]
    return Dataset("own", Path("somewhere"), (), tuple(query), tuple(gallery), variant="toys")


@pytest.fixture(scope="module")
def found() -> Calibrated:
    return calibrate(embed, dataset(), model="abc")


def test_promises_are_kept_on_people_it_was_not_learned_from(found: Calibrated) -> None:
    measured = found.calibration.measured
    assert measured is not None
    for kind in ("pairs", "searches"):
        for row in measured[kind]:
            if row["far"] >= 0.03:
                assert row["achieved"] == pytest.approx(row["far"], rel=0.5)
            assert row["low"] <= row["achieved"] <= row["high"]
    accepted = [row["accepted"] for row in measured["pairs"]]
    assert accepted == sorted(accepted)
    assert measured["pair_error"] < 0.05
    assert measured["search_error"] < 0.12
    assert measured["dir"]["dir"] == sorted(measured["dir"]["dir"])


def test_the_kept_calibration_is_learned_from_everybody(found: Calibrated) -> None:
    assert found.calibration.people == 80
    assert found.calibration.model == "abc"
    assert found.calibration.same_pairs == 80 * 2 * 4  # two other cameras, two sightings each
    assert {p.cameras for p in found.calibration.cameras} == {
        (1, 1),
        (1, 2),
        (1, 3),
        (2, 2),
        (2, 3),
    }


def test_the_same_seed_gives_the_same_calibration(found: Calibrated) -> None:
    assert calibrate(embed, dataset(), model="abc").calibration == found.calibration


def test_text_and_page(found: Calibrated, tmp_path: Path) -> None:
    assert "promised 1.0%, on other people" in found.text()
    page = found.report(tmp_path / "calibration.html").read_text(encoding="utf-8")
    assert page.count("<svg") == 1
    assert "1 and 3" in page
    found.calibration.save(tmp_path / "c.json")
    assert Calibration.load(tmp_path / "c.json", "abc") == found.calibration


def test_extrapolated_rates_are_marked(found: Calibrated, tmp_path: Path) -> None:
    measured = found.calibration.measured
    assert measured is not None
    # 80 queries in a half: ten of them are more than 10 %, and of 80 * 39 * 6 pairs under 0.1 %.
    marked = {r["far"]: r["extrapolated"] for r in measured["searches"]}
    assert marked == {0.001: True, 0.003: True, 0.01: True, 0.03: True, 0.1: True, 0.3: False}
    assert not any(r["extrapolated"] for r in measured["pairs"])
    page = found.report(tmp_path / "calibration.html").read_text(encoding="utf-8")
    assert page.count("% (extrapolated)</td>") == 5
    assert "rests on fewer trials" in page
    assert found.text().count(", extrapolated") == 5


def test_the_histogram_spans_the_scores_there_are(found: Calibrated) -> None:
    scores = found.curves["scores"]
    edges = np.array(scores["edges"])
    samples = [*dataset().query, *dataset().gallery]
    cosines = embed([s.path for s in samples[:160]]) @ embed([s.path for s in samples[160:]]).T
    assert cosines.min() - 0.1 < edges[0]
    assert edges[-1] < cosines.max() + 0.1
    for name in ("same", "other"):
        assert len(scores[name]) == len(edges) - 1 <= 64
        assert 0.998 <= sum(scores[name]) <= 1.0 + 1e-12


def crowded(paths: Sequence[Path]) -> npt.NDArray[np.float32]:
    """Vectors all cosines of which are above 0.99."""
    vectors = embed(paths) * np.float32(0.05)
    vectors[:, 0] += 1
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def test_the_histogram_has_bins_enough_for_scores_close_together() -> None:
    scores = calibrate(crowded, dataset(), model="abc").curves["scores"]
    assert scores["edges"][0] > 0.98
    assert len(scores["same"]) >= 8  # of 1/2048, the finest there are


def row(far: float, achieved: float, low: float, high: float) -> dict[str, float]:
    return {"far": far, "achieved": achieved, "low": low, "high": high, "accepted": 0.5,
            "extrapolated": False}  # fmt: skip


def test_a_promise_that_is_clearly_missed_is_said(found: Calibrated, tmp_path: Path) -> None:
    def with_rows(*rows: dict[str, float]) -> Calibrated:
        measured = {"pairs": [row(0.01, 0.011, 0.009, 0.013)], "searches": list(rows)}
        calibration = dataclasses.replace(found.calibration, measured=measured)
        return dataclasses.replace(found, calibration=calibration)

    missed = with_rows(row(0.01, 0.26, 0.2, 0.31), row(0.1, 0.3, 0.25, 0.36))
    (warning,) = missed.warnings
    assert "of searches among strangers, 26.0% passed (95 %: 20.0% to 31.0%) where 1.0%" in warning
    assert f"warning         {warning}" in missed.text()
    assert f"Warning: {warning}" in missed.report(tmp_path / "c.html").read_text(encoding="utf-8")
    assert with_rows(row(0.01, 0.03, 0.0, 0.05)).warnings == []  # may be chance
    assert with_rows(row(0.1, 0.12, 0.11, 0.13)).warnings == []  # close enough


def test_too_few_people_are_refused() -> None:
    with pytest.raises(DataError, match="16 or more"):
        calibrate(embed, dataset(people=10), model="m")


def test_a_list_of_pairs(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    lines = ["a,b,same"]
    for i in range(600):
        p, other = random.choice(np.arange(1, 200), 2, replace=False)
        second = f"{p}_2_{i}" if i % 3 == 0 else f"{other}_2_{i}"
        lines.append(f"{p}_1_{i},{second},{int(i % 3 == 0)}")
    (tmp_path / "pairs.csv").write_text("\n".join(lines))
    pairs = read_pairs(tmp_path / "pairs.csv")
    assert pairs[0][0].parent == tmp_path
    assert sum(same for *_, same in pairs) == 200
    found = calibrate_pairs(embed, pairs, model="m", data="pairs.csv")
    measured = found.calibration.measured
    assert measured is not None
    assert "searches" not in measured
    row = next(r for r in measured["pairs"] if r["far"] == 0.1)
    assert row["achieved"] == pytest.approx(0.1, abs=0.05)
    assert found.report(tmp_path / "p.html").is_file()


@pytest.mark.parametrize(
    ("text", "message"),
    [("a,same\nx,1", "lacks the columns b"), ("a,b,same\nx,y,yes", "must be 0 or 1")],
)
def test_bad_lists_of_pairs(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "pairs.csv"
    path.write_text(text)
    with pytest.raises(DataError, match=message):
        read_pairs(path)
    with pytest.raises(DataError, match="cannot be read"):
        read_pairs(tmp_path / "none.csv")


def test_nothing_is_written_beside_an_encoder_of_the_package(
    capsys: pytest.CaptureFixture[str],
) -> None:
    shipped = resolve("people")
    before = sorted(shipped.iterdir())
    assert main(["calibrate", "people", "--pairs", "pairs.csv"]) == 1
    assert "--out FOLDER" in capsys.readouterr().err
    assert sorted(shipped.iterdir()) == before
