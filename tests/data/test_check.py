"""The check: each thing it finds, made on purpose."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from crosscam.data.check import Report, check, main_check, main_list
from crosscam.data.findings import Finding, finding
from crosscam.errors import DataError


def draw(path: Path, seed: int = 0, size: tuple[int, int] = (24, 48)) -> Path:
    """A picture of noise; the same seed gives the same file content."""
    path.parent.mkdir(parents=True, exist_ok=True)
    w, h = size
    pixels = np.random.default_rng(seed).integers(0, 256, (h, w, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return path


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """Two persons train, two are tested, all from two cameras; nothing is wrong."""
    seed = 0
    for split, people in (("train", "ab"), ("query", "cd"), ("gallery", "cd")):
        for person in people:
            for camera in (1, 2):
                seed += 1
                draw(tmp_path / split / person / f"x_c{camera}_{split[0]}.jpg", seed)
    return tmp_path


def only(report: Report, kind: str) -> Finding:
    found = [f for f in report.findings if f.kind == kind]
    assert len(found) == 1, [f.kind for f in report.findings]
    return found[0]


def test_nothing_wrong(own: Path) -> None:
    report = check("folder", own)
    assert report.ok
    assert [f.level for f in report.findings] == ["info"]
    assert "24x48" in only(report, "one-size").found
    assert report.decoded == 12
    assert [(r.split, r.found.images, r.found.ids, r.found.cameras) for r in report.rows] == [
        ("train", 4, 2, 2),
        ("query", 4, 2, 2),
        ("gallery", 4, 2, 2),
    ]


def test_own_data_has_no_expected_columns(own: Path) -> None:
    console = Console(width=300)
    with console.capture() as capture:
        console.print(check("folder", own))
    text = capture.get()
    assert "images found" not in text
    assert text.count("expected") == str(own).count("expected")
    assert [line.split() for line in text.splitlines() if "query" in line] == [
        ["\u2502", "query", "\u2502", "4", "\u2502", "2", "\u2502", "2", "\u2502"]
    ]


def test_own_data_without_an_image_is_told_what_works(tmp_path: Path) -> None:
    found = only(check("folder", tmp_path), "no-images")
    assert "PERSON/CAMERA/IMAGE" in found.needed
    assert "train, query and gallery" in found.needed
    assert "alice/cam1/0001.jpg" in found.fix
    (tmp_path / "list.csv").write_text("path,pid\n")
    found = only(check("csv", tmp_path / "list.csv"), "no-images")
    assert "path and pid" in found.needed
    assert "path,pid,camid,split" in found.fix


@pytest.mark.parametrize("decode", [True, False])
def test_empty_files(own: Path, decode: bool) -> None:
    (own / "train" / "a" / "x_c1_t.jpg").write_bytes(b"")
    report = check("folder", own, decode=decode)
    assert not report.ok
    assert "1 of 12 image files is empty" in only(report, "empty-file").found
    assert only(report, "empty-file").examples[0].endswith("train/a/x_c1_t.jpg")


def test_corrupt_and_truncated_images(own: Path) -> None:
    whole = draw(own / "train" / "a" / "x_c1_t.jpg", 90, (64, 128))
    whole.write_bytes(whole.read_bytes()[: whole.stat().st_size * 2 // 3])
    (own / "train" / "b" / "x_c1_t.jpg").write_bytes(b"<html>404</html>")
    png = draw(own / "train" / "b" / "y_c1_t.png", 91)
    png.write_bytes(png.read_bytes()[:-400])
    found = only(check("folder", own), "corrupt-image")
    assert found.level == "error"
    assert found.total == 3
    assert all(any(p in e for e in found.examples) for p in ("a/x_c1", "b/x_c1", "b/y_c1"))
    assert not any("upload" in e or "Copy" in e for e in found.examples)
    assert check("folder", own, decode=False).ok  # not opened, not known


def test_huge_pictures_and_files_are_not_read(own: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bomb = Image.new("1", (9_000, 9_000))
    bomb.save(own / "train" / "a" / "y_c1_t.png")
    assert "9000 x 9000 pixels" in only(check("folder", own), "corrupt-image").examples[0]
    monkeypatch.setattr("crosscam.data.check.MAX_BYTES", 100)
    assert only(check("folder", own), "corrupt-image").total == 13


@pytest.mark.parametrize("decode", [True, False])
def test_a_file_that_cannot_be_read_is_reported(
    own: Path, monkeypatch: pytest.MonkeyPatch, decode: bool
) -> None:
    draw(own / "gallery" / "c" / "x_c1_g.jpg", 1)  # the same size as train/a, so it is compared
    real = Path.read_bytes

    def gone(self: Path) -> bytes:
        if self.name == "x_c1_t.jpg" and self.parent.name == "a":
            raise PermissionError(13, "Permission denied")
        return real(self)

    monkeypatch.setattr(Path, "read_bytes", gone)
    report = check("folder", own, decode=decode)
    assert "Permission denied" in only(report, "corrupt-image").examples[0]


def test_tiny_images(own: Path) -> None:
    draw(own / "train" / "a" / "x_c1_t.jpg", 5, (1, 1))
    report = check("folder", own)
    assert report.ok
    assert "(1x1)" in only(report, "tiny-image").examples[0]
    assert "1 to 24 pixels wide" in only(report, "sizes").found


@pytest.mark.parametrize("decode", [True, False])
def test_same_content_in_train_and_test(own: Path, decode: bool) -> None:
    draw(own / "train" / "a" / "z_c1_t.jpg", 77)
    draw(own / "gallery" / "c" / "z_c2_g.jpg", 77)
    report = check("folder", own, decode=decode)
    found = only(report, "same-file-train-test")
    assert (found.level, found.total) == ("error", 1)
    assert found.examples == ("train/z_c1_t.jpg = gallery/z_c2_g.jpg",)
    assert only(report, "same-file-two-ids").level == "warning"


def test_a_query_in_the_gallery(own: Path) -> None:
    same_camera = draw(own / "query" / "c" / "same_c1_q.jpg", 60)
    (own / "gallery" / "c" / "same_c1_g.jpg").write_bytes(same_camera.read_bytes())
    report = check("folder", own)
    assert report.ok  # the camera rule leaves it out
    assert only(report, "query-in-gallery").level == "info"
    kept = check("folder", own, same_camera="keep")
    assert not kept.ok
    assert "A query must not find itself" in only(kept, "same-file-query-gallery").needed


def test_same_content_in_a_published_set_is_a_warning(tmp_path: Path) -> None:
    draw(tmp_path / "bounding_box_train" / "0002_c1s1_1_01.png", 1)
    draw(tmp_path / "bounding_box_test" / "0003_c1s1_1_01.png", 1)
    draw(tmp_path / "bounding_box_test" / "-1_c1s1_2_01.png", 1)
    report = check("market1501", tmp_path, partial=True)
    assert only(report, "same-file-train-test").level == "warning"
    assert report.ok


def test_wrong_counts_and_partial(tmp_path: Path) -> None:
    draw(tmp_path / "query" / "0001_c1s1_1_01.png", 1)
    report = check("market1501", tmp_path)
    assert not report.ok
    wrong = [f for f in report.findings if f.kind == "wrong-count"]
    assert len(wrong) == 3
    assert "bounding_box_train does not exist" in wrong[0].found
    partial = check("market1501", tmp_path, partial=True)
    assert partial.ok
    assert {f.kind for f in partial.findings} >= {"subset", "one-size"}


def test_queries_without_match_say_how_many_which_and_what_to_do(own: Path) -> None:
    (own / "gallery" / "c" / "x_c1_g.jpg").unlink()  # the query of camera 2 is left without
    draw(own / "query" / "e" / "x_c1_q.jpg", 40)  # nobody like that in the gallery
    found = only(check("folder", own), "query-without-match")
    assert found.level == "warning"
    assert found.found.startswith("2 of 5 queries (2 ids) have no match: 1 because their person")
    assert "same-camera rule" in found.found
    assert "same_camera=keep" in found.fix
    assert "evaluation skips these queries" in found.fix
    assert found.total == 2
    kept = only(check("folder", own, same_camera="keep"), "query-without-match")
    assert kept.found.startswith("1 of 5 queries")


def test_an_id_with_one_image(own: Path) -> None:
    (own / "train" / "a" / "x_c1_t.jpg").unlink()
    found = only(check("folder", own), "id-with-one-image")
    assert found.found == "1 of 2 train ids has one image only."
    assert found.examples == ("id 1",)


def test_resized_cuhk03_is_pointed_out(tmp_path: Path) -> None:
    for i in range(1, 102):
        draw(tmp_path / "detected" / "bounding_box_train" / f"0001_c1_{i:03d}.png", i, (16, 32))
    found = only(check("cuhk03-np", tmp_path, partial=True), "one-size")
    assert found.level == "warning"
    assert "resized copies" in found.fix


def test_nothing_to_report_on_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="Did you mean 'market1501'"):
        check("market", tmp_path)
    with pytest.raises(DataError, match="there is no folder"):
        check("market1501", tmp_path / "gone")


def test_findings_count_all_and_show_few() -> None:
    many = finding("error", "kind", "Got.", "Need.", "Do.", (f"[{i}]" for i in range(12)))
    assert many.total == 12
    assert str(many) == "Got. Need. Do. Examples: [0], [1], [2], [3], [4] and 7 more."
    assert str(finding("info", "kind", "Got.")) == "Got."


# --- what is printed -----------------------------------------------------------------------------


def printed(call: Any, *args: Any, **kwargs: Any) -> tuple[int, str]:
    stream = io.StringIO()
    status = call(*args, console=Console(file=stream, width=160), **kwargs)
    return status, stream.getvalue()


def test_the_printed_report(tmp_path: Path) -> None:
    draw(tmp_path / "query" / "0001_c1s1_1_01.png", 1)
    status, text = printed(main_check, "market1501", tmp_path)
    assert status == 1
    assert "3,368" in text
    assert "wrong" in text
    assert "error: query: found 1 image of 1 id." in text
    assert "not ok · 1 picture opened" in text
    status, text = printed(main_check, "market1501", tmp_path, partial=True, decode=False)
    assert status == 0
    assert "subset" in text
    assert "ok · no picture opened" in text


def test_names_with_brackets_are_printed_as_they_are(own: Path) -> None:
    (own / "train" / "a" / "[red]_c1_t.jpg").write_bytes(b"")
    _, text = printed(main_check, "folder", own)
    assert "[red]_c1_t.jpg" in text


def test_names_that_are_no_text_are_printed(own: Path) -> None:
    odd = own / "train" / "a" / "\udcf6_c1_t.jpg"  # a byte that is no UTF-8, as old archives have
    try:
        odd.write_bytes(b"")
    except (OSError, UnicodeEncodeError):
        pytest.skip("this file system takes text only")
    _, text = printed(main_check, "folder", own)
    assert "\\udcf6_c1_t.jpg" in text
    json.dumps(check("folder", own).to_dict()).encode()


def test_json_report(own: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (own / "train" / "a" / "x_c1_t.jpg").write_bytes(b"")
    status = main_check("folder", own, as_json=True, options=["cameras=auto"])
    report = json.loads(capsys.readouterr().out)
    assert status == 1
    assert report["ok"] is False
    assert report["counts"][0] == {
        "split": "train",
        "found": {"ids": 2, "images": 4, "cameras": 2},
        "expected": {"ids": None, "images": None, "cameras": None},
        "ok": True,
    }
    assert [f["kind"] for f in report["findings"] if f["level"] == "error"] == ["empty-file"]


def test_list(capsys: pytest.CaptureFixture[str]) -> None:
    status, text = printed(main_list)
    assert status == 0
    assert "market1501" in text
    assert "withdrawn" in text
    main_list(as_json=True)
    assert json.loads(capsys.readouterr().out)[0]["name"] == "market1501"


# --- real images ---------------------------------------------------------------------------------


@pytest.mark.data
@pytest.mark.slow
def test_real_sets_pass(real_data: Path) -> None:
    report = check("csv", real_data / "market1501" / "holdout.csv")
    assert report.ok
    assert report.decoded == 12_936
    assert only(report, "query-without-match").found.startswith("12 of 663 queries (11 ids)")
    report = check("cuhk03-np", real_data / "cuhk03-np")
    assert report.ok
    assert report.decoded == 14_097
    assert all(r.ok for r in report.rows)
    assert "64x128" in only(report, "one-size").found
    assert not check("market1501", real_data / "market1501", decode=False).ok
