"""Whole sets: layout, determinism, going on after a stop, presets, errors."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from crosscam.data.datasets import market1501
from crosscam.errors import DataError, InputError
from crosscam.synth import (
    PRESETS,
    contact_sheet,
    dataset,
    read_annotations,
    read_labels,
    read_texture,
    sheet,
    synthesize,
)
from crosscam.synth.identity import draw_identity
from crosscam.synth.person import make_person

TINY = {"ids": 4, "cameras": 2, "shots": 2, "seed": 5, "progress": False}


def size_of(path: Path) -> tuple[int, int]:
    with Image.open(path) as picture:
        return picture.size


def digests(root: Path) -> dict[str, str]:
    return {
        str(p.relative_to(root)): hashlib.sha256(p.read_bytes()).hexdigest()
        for p in sorted(root.rglob("*"))
        if p.is_file()
    }


@pytest.fixture(scope="module")
def tiny(tmp_path_factory) -> Path:
    return synthesize(tmp_path_factory.mktemp("set") / "tiny", **TINY, pairs=1, junk=1)


def test_layout_and_counts(tiny) -> None:
    names = {s: sorted(p.name for p in (tiny / s).iterdir())
             for s in ("bounding_box_train", "query", "bounding_box_test", "pairs")}  # fmt: skip
    assert [len(v) for v in names.values()] == [8, 4, 4 + 1 + 1, 2]
    train = {n[:4] for n in names["bounding_box_train"]}
    test = {n[:4] for n in names["query"]}
    assert train == {"0001", "0002"}
    assert test == {"0003", "0004"}
    assert sum(n.startswith("-1_") for n in names["bounding_box_test"]) == 1
    assert sum(n.startswith("0000_") for n in names["bounding_box_test"]) == 1
    assert not (tiny / ".shards").exists()
    manifest = json.loads((tiny / "manifest.json").read_text())
    assert "CC0" in manifest["license"]
    assert manifest["settings"]["seed"] == 5
    assert len(manifest["parts"]) == 17
    assert len(manifest["keypoints"]) == 17
    assert len((tiny / "identities.jsonl").read_text().splitlines()) == 4


def test_annotations_and_labels_belong_to_the_images(tiny) -> None:
    rows = read_annotations(tiny)
    files = sorted(
        str(p.relative_to(tiny)) for p in tiny.glob("*/*.jpg") if p.parent.name != "textures"
    )
    assert [str(n) for n in rows["name"]] == files
    assert rows["keypoints"].shape == (len(files), 17, 3)
    for name, pid, camid in zip(rows["name"], rows["pid"], rows["camid"], strict=True):
        stem = str(name).split("/")[1]
        assert int(stem.split("_")[0]) == pid
        assert f"_c{camid}s" in stem
        labels = read_labels(tiny, str(name))
        assert labels.part.shape == (256, 128)
        assert labels.iuv.shape == (128, 64, 3)
        assert size_of(tiny / str(name)) == (128, 256)
        if pid > 0:
            assert labels.person.mean() > 0.08
    color, valid = read_texture(tiny, 1)
    assert color.shape == (256, 256, 3)
    assert 0.5 < valid.mean() < 0.7
    exact, _ = make_person(draw_identity(5, 0, families=0.3)).texture()
    assert np.abs(color.astype(int) - exact)[valid].mean() < 4  # JPEG
    with pytest.raises(DataError, match="no texture"):
        read_texture(tiny, 99)


def test_the_market_parser_reads_it(tiny) -> None:
    parsed = market1501(tiny)
    assert {s.pid for s in parsed.dataset.train} == {1, 2}
    assert sorted({s.pid for s in parsed.dataset.gallery} - {-1}) == [0, 3, 4]
    assert {s.camid for s in parsed.dataset.query} == {1, 2}


def test_order_and_interruption_leave_no_trace(tiny, tmp_path, monkeypatch) -> None:
    work, done = dataset._work, []

    def stops(job):
        if len(done) == 3:
            raise KeyboardInterrupt
        done.append(job)
        return work(job)

    tasks = dataset._Plan.tasks
    monkeypatch.setattr(dataset._Plan, "tasks", lambda plan: tasks(plan)[::-1])
    monkeypatch.setattr(dataset, "_work", stops)
    with pytest.raises(KeyboardInterrupt):
        synthesize(tmp_path / "set", **TINY, pairs=1, junk=1)
    with pytest.raises(DataError, match="goes on where it stopped"):
        read_annotations(tmp_path / "set")
    monkeypatch.setattr(dataset, "_work", work)
    synthesize(tmp_path / "set", **TINY, pairs=1, junk=1)
    assert digests(tmp_path / "set") == digests(tiny)


@pytest.mark.slow
def test_workers_leave_no_trace(tiny, tmp_path) -> None:
    synthesize(tmp_path / "set", **TINY, pairs=1, junk=1, workers=2)
    assert digests(tmp_path / "set") == digests(tiny)


def test_a_dozen_people_in_three_cameras(tmp_path) -> None:
    root = synthesize(tmp_path / "dozen", ids=12, cameras=3, shots=2, seed=2, progress=False)
    rows = read_annotations(root)
    people = rows["pid"][rows["pid"] > 0]
    assert sorted(set(people)) == list(range(1, 13))
    assert (np.bincount(people)[1:] == 6).all()
    parsed = market1501(root)
    counts = [len(s) for s in (parsed.dataset.train, parsed.dataset.query)]
    assert counts == [36, 18]


def test_each_person_is_seen_by_some_of_the_cameras(tmp_path) -> None:
    settings = {**TINY, "cameras": 5, "shots": 1, "distractors": 0, "junk": 0}
    root = synthesize(tmp_path / "some", **settings, seen=2)
    rows = read_annotations(root)
    seen = {pid: tuple(rows["camid"][rows["pid"] == pid]) for pid in range(1, 5)}
    assert all(len(set(cameras)) == 2 for cameras in seen.values())
    assert len(set(seen.values())) > 1
    # Of a test person one picture asks, and its match is in the gallery.
    for split in ("query", "bounding_box_test"):
        assert sorted(p.name[:4] for p in (root / split).iterdir()) == ["0003", "0004"]
    assert json.loads((root / "manifest.json").read_text())["settings"]["seen"] == 2
    # What a camera sees of a person does not depend on who else sees them.
    whole = synthesize(tmp_path / "all", **settings)
    assert "seen" not in json.loads((whole / "manifest.json").read_text())["settings"]
    pictures = {p.name: p.read_bytes() for p in whole.rglob("*_c*.jpg")}
    assert len(pictures) == 20
    for path in root.rglob("*_c*.jpg"):
        assert pictures[path.name] == path.read_bytes()


def test_a_finished_set_is_left_alone_and_others_refused(tiny, tmp_path) -> None:
    before = digests(tiny)
    synthesize(tiny, **TINY, pairs=1, junk=1)
    assert digests(tiny) == before
    with pytest.raises(DataError, match="other settings"):
        synthesize(tiny, **{**TINY, "seed": 6})
    (tmp_path / "mine.txt").write_text("x")
    with pytest.raises(DataError, match="not empty"):
        synthesize(tmp_path, **TINY)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"preset": "marketlike"}, "market-like"),
        ({"ids": 0}, "ids must be at least 1"),
        ({"train_share": 1.5}, "in 0..1"),
        ({"seed": -1}, "seed"),
        ({"seen": -1}, "seen must be at least 0"),
        ({"seen": 3}, "seen=3 of 2 cameras cannot be"),
    ],
)
def test_bad_settings_are_named(tmp_path, wrong, message) -> None:
    with pytest.raises(InputError, match=message):
        synthesize(tmp_path / "x", **{**TINY, **wrong})
    assert not (tmp_path / "x").exists()


def test_unknown_images_are_named(tiny) -> None:
    with pytest.raises(DataError, match="not an image of the set"):
        read_labels(tiny, "query/9999_c1s1_000000_00.jpg")


@pytest.mark.parametrize("preset", sorted(PRESETS))
def test_presets_are_what_they_say(preset, tmp_path) -> None:
    root = synthesize(tmp_path / "s", 2, 1, 3, preset, seed=1, distractors=0, junk=0,
                      progress=False)  # fmt: skip
    rows = read_annotations(root)
    split = np.array([str(n).split("/")[0] for n in rows["name"]])
    query, gallery = split == "query", split == "bounding_box_test"
    assert query.sum() == 1
    assert gallery.sum() == 2
    if preset == "cloth-change":
        assert set(rows["outfit"][query]) == {1}
        assert set(rows["outfit"][gallery]) == {0}
        assert (root / "textures" / "0001_1.jpg").exists()
    elif preset == "cross-domain":
        train = split == "bounding_box_train"
        assert not set(rows["camid"][train]) & set(rows["camid"][query | gallery])
    elif preset == "occluded":
        assert rows["occlusion"][gallery].max() < 0.05
    elif preset == "partial":
        joints = (rows["keypoints"][..., 2] > 0).sum(1)
        assert joints[query].mean() < joints[gallery].mean()


def test_a_sheet_is_drawn(tmp_path) -> None:
    path = contact_sheet(tmp_path / "new" / "sheet.JPG", rows=1, cameras=2, seed=1)
    assert size_of(path) == (260 + 5 * 132, 260)
    with pytest.raises(InputError, match="rows and cameras"):
        contact_sheet(tmp_path / "no.jpg", rows=0)


@pytest.mark.parametrize("name", ["sheet", "sheet.txt"])
def test_a_sheet_that_is_no_picture_is_refused_before_it_is_drawn(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sheet, "render_shot", lambda *_: pytest.fail("was drawn"))
    with pytest.raises(InputError, match=f"a .jpg or .png file, got {name}"):
        contact_sheet(tmp_path / name)
