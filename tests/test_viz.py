"""Pages hold their pictures and say what is right and wrong."""

from __future__ import annotations

import base64
import io
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from crosscam import viz
from crosscam.errors import InputError


@pytest.fixture
def pictures(tmp_path: Path) -> list[Path]:
    paths = []
    for pid in range(3):
        path = tmp_path / f"größe & <{pid}>.png"
        color = (200, 40 + 60 * pid, 90)
        Image.new("RGB", (64, 128), color).save(path)
        paths.append(path)
    return paths


class Reader(HTMLParser):
    """Collects figures and complains about tags that are not closed in order."""

    VOID = frozenset({"meta", "img", "br"})

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.images: list[dict[str, str | None]] = []
        self.classes: list[str | None] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "img":
            self.images.append(dict(attrs))
        if tag == "figure":
            self.classes.append(dict(attrs)["class"])
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_page_holds_its_pictures(pictures: list[Path], tmp_path: Path) -> None:
    rows = [
        viz.Row(
            pictures[0],
            [viz.Hit(pictures[1], 0.9, True), viz.Hit(pictures[2], 0.123, False)],
            group="Best",
        ),
        viz.Row(pictures[1], [viz.Hit(pictures[2], 0.5)], group="Worst"),
    ]
    table = viz.Table(("figure", "value"), [("rank-1", "50 %")])
    page = viz.ranked_page(
        tmp_path / "new" / "page.html", "A <title>", rows, notes=["x & y"], tables=[table]
    )
    text = page.read_text(encoding="utf-8")
    reader = Reader()
    reader.feed(text)
    assert reader.open == []
    assert reader.classes == ["query", "right", "wrong", "query", "unknown"]
    assert "A &lt;title&gt;" in text
    assert "0.123" in text
    assert "rank-1" in text
    assert "http" not in text.replace("http-equiv", "")
    assert reader.images[0]["alt"] == pictures[0].name
    source = reader.images[1]["src"]
    assert source is not None
    data = base64.b64decode(source.removeprefix("data:image/jpeg;base64,"))
    shown = np.asarray(Image.open(io.BytesIO(data))).astype(int)
    assert shown.shape == (128, 64, 3)
    assert abs(shown - [200, 100, 90]).max() <= 3  # JPEG of one color


def test_an_unreadable_picture_leaves_a_gray_place(pictures: list[Path], tmp_path: Path) -> None:
    pictures[1].write_bytes(b"")
    page = viz.ranked_page(
        tmp_path / "p.html", "t", [viz.Row(pictures[0], [viz.Hit(pictures[1], 1.0)])]
    )
    assert len(re.findall("data:image/jpeg", page.read_text())) == 2


def test_picture_of_ranked_lists(pictures: list[Path], tmp_path: Path) -> None:
    hits = [viz.Hit(pictures[1], 0.9, True), viz.Hit(pictures[2], 0.4, False)]
    path = viz.ranked_picture(tmp_path / "lists.png", [viz.Row(pictures[0], hits)], scale=1)
    sheet = np.asarray(Image.open(path).convert("RGB")).reshape(-1, 3)
    for color in ((0x1A, 0x98, 0x50), (0xD7, 0x30, 0x27)):
        assert (sheet == color).all(1).sum() > 500  # a frame of two pixels around 64x128


def test_right_and_wrong_can_be_told_without_colors(pictures: list[Path], tmp_path: Path) -> None:
    hits = [viz.Hit(pictures[1], 0.9, True), viz.Hit(pictures[1], 0.9, False)]
    row = viz.Row(pictures[0], hits)
    text = viz.ranked_page(tmp_path / "p.html", "t", [row]).read_text(encoding="utf-8")
    assert "\u2713 1. 0.900" in text
    assert "\u2717 2. 0.900" in text
    assert "\u2713, solid green frame" in text  # the legend
    assert "\u2717, dashed red frame" in text
    assert re.search(r"figure\.wrong img \{[^}]*dashed", text)

    unknown = viz.Row(pictures[0], [viz.Hit(pictures[1], 0.9)])
    text = viz.ranked_page(tmp_path / "u.html", "t", [unknown]).read_text(encoding="utf-8")
    assert "\u2713" not in text

    path = viz.ranked_picture(tmp_path / "lists.png", [row], scale=2)
    sheet = np.asarray(Image.open(path).convert("L"))
    # At scale 2 a cell is 148 wide, hits begin at 178 and 326; the upper frame lies 1 px above.
    right, wrong = (sheet[9, left : left + 128] < 250 for left in (178, 326))
    assert right.all()
    assert 0.5 < wrong.mean() < 0.85  # gaps in the dashed one
    under = slice(10 + 256 + 2, 10 + 256 + 18)
    marks = [sheet[under, left + 104 : left + 128] < 200 for left in (178, 326)]
    assert all(m.sum() > 20 for m in marks)
    assert (marks[0] != marks[1]).sum() > 20  # a check is no cross


def test_no_rows_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="at least one row"):
        viz.ranked_picture(tmp_path / "x.png", [])
