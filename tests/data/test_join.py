"""Joining data sets: every picture once, nobody taken for somebody of another set."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from crosscam.cli import main
from crosscam.data.datasets import load
from crosscam.data.join import COLUMNS, join
from crosscam.errors import DataError

HERE = "path,pid,camid,split\n"


def listed(root: Path, text: str) -> Path:
    """A data set as a list, with empty files for its pictures."""
    root.mkdir(parents=True)
    for line in text.splitlines():
        (root / line.split(",")[0]).touch()
    path = root / "list.csv"
    path.write_text(HERE + text)
    return path


@pytest.fixture
def roots(tmp_path: Path) -> tuple[Path, Path]:
    one = (
        "a.jpg,2,1,train\nb.jpg,2,2,train\nc.jpg,7,1,train\n"
        "d.jpg,5,1,query\ne.jpg,5,2,gallery\nf.jpg,-1,2,gallery\ng.jpg,0,2,gallery\n"
    )
    other = "a.jpg,2,1,train\nb.jpg,5,3,train\nc.jpg,9,1,query\nd.jpg,9,3,gallery\n"
    return listed(tmp_path / "one", one), listed(tmp_path / "other", other)


def test_people_and_cameras_of_two_sets_never_meet(
    roots: tuple[Path, Path], tmp_path: Path
) -> None:
    one, other = (load("csv", root) for root in roots)
    count = join([one, other], tmp_path / "lists" / "both.csv")
    assert count == {"train": 5, "query": 1, "gallery": 3}
    found = load("csv", tmp_path / "lists" / "both.csv")
    assert [s.path for s in found.train] == [s.path for s in (*one.train, *other.train)]
    assert [(s.pid, s.camid) for s in found.train] == [(1, 1), (1, 2), (2, 1), (4, 3), (5, 4)]
    assert [(s.pid, s.camid) for s in found.query] == [(3, 1)]
    assert [(s.pid, s.camid) for s in found.gallery] == [(3, 2), (-1, 2), (0, 2)]
    assert found.protocol == one.protocol


def test_the_list_says_what_pictures_are_called_at_home(
    roots: tuple[Path, Path], tmp_path: Path
) -> None:
    one, other = (load("csv", root) for root in roots)
    path = tmp_path / "both.csv"
    join([one, other], path, test=False)
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert tuple(rows[0]) == COLUMNS
    home = [(r["set"], r["set_pid"], r["set_camid"]) for r in rows]
    assert home[:1] + home[-1:] == [("1 csv list.csv", "2", "1"), ("2 csv list.csv", "5", "3")]
    assert {r["split"] for r in rows} == {"train"}


def test_the_command(
    roots: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = str(tmp_path / "both.csv")
    words = ["data", "join", out, "--set", "csv", str(roots[0])]
    both = [*words, "--set", "csv", str(roots[1]), "same_camera=keep"]
    assert main([*both, "--no-test"]) == 0
    assert "5 train, 0 query, 0 gallery pictures" in capsys.readouterr().out
    assert main(both) != 0
    assert "is there already" in capsys.readouterr().err
    assert main([*words, "--set", "csv"]) != 0
    assert "--set csv lacks a folder" in capsys.readouterr().err


def test_mistakes(roots: tuple[Path, Path], tmp_path: Path) -> None:
    one, other = (load("csv", root) for root in roots)
    out = tmp_path / "both.csv"
    with pytest.raises(DataError, match="two data sets or more, got 1"):
        join([one], out)
    with pytest.raises(DataError, match="stands twice"):
        join([one, other, one], out)
    with pytest.raises(DataError, match=r"does not end in \.csv"):
        join([one, other], tmp_path / "both.txt")
    keeps = load("csv", roots[0], same_camera="keep")
    with pytest.raises(DataError, match=r"rules of their own.*test pictures \(--no-test\)"):
        join([keeps, other], out)
    assert not out.exists()
