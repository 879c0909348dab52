"""Some people of a training set as query and gallery: against a list worked out by hand."""

from __future__ import annotations

import csv
import dataclasses
from pathlib import Path

import numpy as np
import pytest

from crosscam.cli import main
from crosscam.data.datasets import load
from crosscam.data.holdout import HeldOut, hold_out
from crosscam.errors import DataError
from crosscam.files import sha256
from crosscam.types import Sample

TRAIN = (
    "a/9.jpg,2,1", "a/1.jpg,2,1", "a/2.jpg,2,2", "a/3.jpg,2,2", "b/1.jpg,3,1", "b/2.jpg,3,2",
    "c/1.jpg,5,2", "c/4.jpg,5,2", "c/2.jpg,5,1", "c/3.jpg,5,1",
    "d/1.jpg,7,1", "d/2.jpg,7,2", "e/1.jpg,8,1", "e/2.jpg,8,2",
)  # fmt: skip


def listed(root: Path, cameras: bool = True) -> Path:
    """A data set as a list, with empty files for its pictures and test pictures of two more."""
    rows = [f"{row},train" for row in TRAIN] + ["t.jpg,11,1,query", "u.jpg,11,2,gallery"]
    header = "path,pid,camid,split"
    if not cameras:
        rows, header = (
            [",".join(r.split(",")[i] for i in (0, 1, 3)) for r in rows],
            "path,pid,split",
        )
    for row in rows:
        picture = root / row.split(",")[0]
        picture.parent.mkdir(parents=True, exist_ok=True)
        picture.touch()
    path = root / "list.csv"
    path.write_text("\n".join([header, *rows]) + "\n")
    return path


def seed_that_keeps_out(wanted: set[int]) -> int:
    pids = [2, 3, 5, 7, 8]
    return next(
        seed
        for seed in range(1000)
        if set(np.random.default_rng(seed).choice(pids, 2, replace=False)) == wanted
    )


def test_a_list_by_hand(tmp_path: Path) -> None:
    seed = seed_that_keeps_out({2, 5})
    path = tmp_path / "hold.csv"
    count = hold_out(load("csv", listed(tmp_path)), path, people=2, seed=seed)
    assert path.read_text() == (
        "path,pid,camid,split\n"
        "a/9.jpg,2,1,gallery\na/1.jpg,2,1,query\na/2.jpg,2,2,query\na/3.jpg,2,2,gallery\n"
        "b/1.jpg,3,1,train\nb/2.jpg,3,2,train\n"
        "c/1.jpg,5,2,query\nc/4.jpg,5,2,gallery\nc/2.jpg,5,1,query\nc/3.jpg,5,1,gallery\n"
        "d/1.jpg,7,1,train\nd/2.jpg,7,2,train\ne/1.jpg,8,1,train\ne/2.jpg,8,2,train\n"
    )
    assert count == HeldOut(6, 4, 4, 0)
    found = load("csv", path)
    assert (len(found.train), len(found.query), len(found.gallery)) == (6, 4, 4)
    assert found.protocol.same_camera == "drop"


def test_without_cameras_the_first_picture_asks(tmp_path: Path) -> None:
    path = tmp_path / "lists" / "hold.csv"
    dataset = load("csv", listed(tmp_path / "set", cameras=False))
    count = hold_out(dataset, path, people=2, seed=seed_that_keeps_out({2, 5}))
    assert count == HeldOut(6, 2, 6, 0)
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["path", "pid", "split"]
    asking = [row["path"] for row in rows if row["split"] == "query"]
    assert asking == [str(tmp_path / "set" / name) for name in ("a/1.jpg", "c/1.jpg")]
    assert load("csv", path).protocol.same_camera == "keep"


def test_people_of_one_picture_a_camera_ask_once(tmp_path: Path) -> None:
    path = tmp_path / "hold.csv"
    dataset = load("csv", listed(tmp_path))
    assert hold_out(dataset, path, people=2, seed=seed_that_keeps_out({3, 8})) == HeldOut(
        10, 2, 2, 0
    )
    found = load("csv", path)
    assert [s.path.parent.name for s in found.query] == ["b", "e"]
    assert [s.path.name for s in found.query] == ["1.jpg", "1.jpg"]


def test_a_rule_without_cameras_keeps_none(tmp_path: Path) -> None:
    dataset = load("csv", listed(tmp_path / "set"), same_camera="keep")
    path = tmp_path / "hold.csv"
    count = hold_out(dataset, path, people=2, seed=seed_that_keeps_out({2, 5}))
    assert count == HeldOut(6, 2, 6, 0)
    assert load("csv", path).protocol.same_camera == "keep"


def test_a_fifth_is_kept_out_and_the_seed_says_who(tmp_path: Path) -> None:
    rows = [f"{p}_{c}.jpg,{p},{c},train" for p in range(101, 120) for c in (1, 2)]
    for row in rows:
        (tmp_path / row.split(",")[0]).touch()
    (tmp_path / "list.csv").write_text("\n".join(["path,pid,camid,split", *rows]) + "\n")
    dataset = load("csv", tmp_path / "list.csv")
    kept = []
    for seed in (0, 0, 1):
        path = tmp_path / f"hold{len(kept)}.csv"
        assert hold_out(dataset, path, seed=seed) == HeldOut(32, 3, 3, 0)
        found = load("csv", path)
        kept.append({sample.pid for sample in found.query})
        assert len(kept[-1]) == 3  # a fifth of 19
        assert kept[-1].isdisjoint({sample.pid for sample in found.train})
    assert kept[0] == kept[1] != kept[2]


def test_what_cannot_be_written_is_said(tmp_path: Path) -> None:
    dataset = load("csv", listed(tmp_path))
    for people in (-1, 0, 1, 4, 99):
        with pytest.raises(DataError, match=rf"has 5 people to train on, and {people} of them"):
            hold_out(dataset, tmp_path / "hold.csv", people=people)
    with pytest.raises(DataError, match=r"seed .* must be 0 or more, got -1"):
        hold_out(dataset, tmp_path / "hold.csv", people=2, seed=-1)
    with pytest.raises(DataError, match=r"list\.csv is there already"):
        hold_out(dataset, tmp_path / "list.csv", people=2)
    with pytest.raises(DataError, match=r"hold\.txt does not end in \.csv"):
        hold_out(dataset, tmp_path / "hold.txt", people=2)
    assert not list(tmp_path.glob("hold*"))


def rows(root: Path, *lines: str) -> Path:
    root.mkdir(exist_ok=True)
    for line in lines:
        (root / line.split(",")[0]).touch()
    (root / "list.csv").write_text("path,pid,camid,split\n" + "\n".join(lines) + "\n")
    return root / "list.csv"


def test_a_list_in_which_nobody_could_be_found_is_not_written(tmp_path: Path) -> None:
    alone = [f"{pid}_{k}.jpg,{pid},{pid % 2 + 1},train" for pid in range(1, 9) for k in range(3)]
    known = rows(tmp_path / "alone", *alone)
    path = tmp_path / "hold.csv"
    with pytest.raises(DataError, match=r"nobody has two pictures in different cam.*same_camera"):
        hold_out(load("csv", known), path, people=4)
    assert not path.exists()
    assert hold_out(load("csv", known, same_camera="keep"), path) == HeldOut(18, 2, 4, 0)
    single = rows(tmp_path / "single", *(f"{p}.jpg,{p},{p % 2},train" for p in range(1, 9)))
    with pytest.raises(DataError, match="nobody has two pictures or more, so no query"):
        hold_out(load("csv", single, same_camera="keep"), tmp_path / "none.csv")


def test_the_way_that_matches_more_is_taken_and_the_rest_is_told(tmp_path: Path) -> None:
    """Two people of one picture a camera, one of many: by hand, 1 + 1 + 1 against 0 + 0 + 2."""
    lines = [f"{p}_{c}.jpg,{p},{c},train" for p in (1, 2, 8, 9) for c in (1, 2)]
    lines += [f"3_{c}_{k}.jpg,3,{c},train" for c in (1, 2) for k in (1, 2, 3)]
    lines += ["4_1_1.jpg,4,1,train", "4_1_2.jpg,4,1,train"]
    dataset = load("csv", rows(tmp_path, *lines))
    seed = next(
        seed
        for seed in range(1000)
        if set(np.random.default_rng(seed).choice([1, 2, 3, 4, 8, 9], 4, replace=False))
        == {1, 2, 3, 4}
    )
    found = hold_out(dataset, tmp_path / "hold.csv", people=4, seed=seed)
    assert found == HeldOut(4, 4, 8, 1)
    assert found.text() == (
        "4 train, 4 query, 8 gallery pictures (1 of the queries has no match and will not be "
        "counted)"
    )
    made = load("csv", tmp_path / "hold.csv")
    matched = [any(g.pid == q.pid and g.camid != q.camid for g in made.gallery) for q in made.query]
    assert matched == [True, True, True, False]


def test_names_that_a_list_cannot_hold(tmp_path: Path) -> None:
    for person in (" p1", "p2", "p3", "p4"):
        for number in range(2):
            picture = tmp_path / "own" / person / f"x_c{number + 1}.jpg"
            picture.parent.mkdir(parents=True, exist_ok=True)
            picture.touch()
    path = tmp_path / "own" / "hold.csv"
    parsed = load("folder", tmp_path / "own", train_fraction=0.999)
    train = [dataclasses.replace(s, pid=n // 2 + 1) for n, s in enumerate(parsed.train)]
    more = tmp_path / "own" / " p1" / "x_c1.jpg"
    samples = [Sample(more, 9, 1), Sample(more.with_name("x_c2.jpg"), 9, 2), *train]
    dataset = dataclasses.replace(parsed, train=tuple(samples))
    hold_out(dataset, path, people=2)
    assert f"{tmp_path / 'own' / ' p1' / 'x_c1.jpg'},9,1," in path.read_text()
    path.unlink()
    odd = [dataclasses.replace(s, path=Path("x\udcf6.jpg")) for s in samples[:1]]
    with pytest.raises(DataError, match=r"the name of x\\udcf6\.jpg is no text"):
        hold_out(dataclasses.replace(dataset, train=(*odd, *samples[1:])), path, people=2)
    assert not path.exists()


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "hold.csv"
    words = ["data", "holdout", "csv", str(listed(tmp_path)), str(out), "--people", "2"]
    assert main([*words, "--seed", str(seed_that_keeps_out({2, 5}))]) == 0
    said = capsys.readouterr().out.splitlines()
    assert said[0] == f"{out}: 6 train, 4 query, 4 gallery pictures"
    assert said[1].endswith(f"data.name=csv data.root={out}")
    assert main(words) == 1
    assert "is there already" in capsys.readouterr().err


def test_own_pictures_without_splits_lose_nobody(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    listed(tmp_path)
    (tmp_path / "list.csv").unlink()
    people = tmp_path / "people"
    people.mkdir()
    for person in "abcde":
        (tmp_path / person).rename(people / person)
    rows = [f"people/{row.split(',')[0]},{row.split(',')[1]}" for row in TRAIN]
    (tmp_path / "own.csv").write_text("\n".join(["path,pid", *rows]) + "\n")
    for name, root in (("folder", people), ("csv", tmp_path / "own.csv")):
        out = tmp_path / f"{name}-held.csv"
        assert main(["data", "holdout", name, str(root), str(out), "--people", "2"]) == 0
        with out.open() as file:
            assert len(list(csv.DictReader(file))) == len(TRAIN)
        capsys.readouterr()
    half = ["data", "holdout", "folder", str(people), str(tmp_path / "half.csv"), "--people", "2"]
    assert main([*half, "--option", "train_fraction=0.8"]) == 0
    with (tmp_path / "half.csv").open() as file:
        assert len({row["pid"] for row in csv.DictReader(file)}) == 4


def test_the_list_of_the_results(real_data: Path, tmp_path: Path) -> None:
    """Made as docs/data.md says, it is the one that all figures on Market's hold-out are of."""
    name = "bounding_box_train"
    (tmp_path / name).symlink_to(real_data / "market1501" / name)
    dataset = load("market1501", tmp_path, partial=True)
    found = hold_out(dataset, tmp_path / "hold.csv", people=150, seed=1501)
    assert found == HeldOut(10_354, 663, 1_919, 12)
    assert sha256(tmp_path / "hold.csv").startswith("fa72872158f917de")  # as docs/data.md has it
    made, known = (load("csv", p) for p in (tmp_path, real_data / "market1501" / "holdout.csv"))
    assert len(known.train) == 10_354
    for split in ("train", "query", "gallery"):
        one, two = getattr(made, split), getattr(known, split)
        assert [(s.path.name, s.pid, s.camid) for s in one] == [
            (s.path.name, s.pid, s.camid) for s in two
        ]
