"""Folders and lists of pictures."""

from __future__ import annotations

from pathlib import Path
from zoneinfo import ZoneInfo

import pytest
import toy
from PIL import Image

from crosscam.errors import DataError
from crosscam.gallery.sources import from_csv, from_folder


def write(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(toy.person(0, 0, 0)).save(folder / name)


def test_names_say_camera_and_frame(tmp_path: Path) -> None:
    write(tmp_path, "0002_c1s1_000451_03.jpg", "-1_c5s2_000001_00.jpg", "b/x_cam12.png",
          "b/y_C3_1.jpg", "0000_c2s1_000001_00.jpg", "0005_c2_f0046985.jpg", "000_c4f3.jpg",
          "frame-cam-7.001.jpg", "plain.jpg", ".hidden.jpg", ".git/z_c1.jpg")  # fmt: skip
    (tmp_path / "Thumbs.db").write_text("x")
    found = from_folder(tmp_path, people="name")
    assert [(i.picture.name, i.camera, i.frame, i.person) for i in found.items] == [
        ("-1_c5s2_000001_00.jpg", "5", "s2:000001", ""),
        ("0000_c2s1_000001_00.jpg", "2", "s1:000001", ""),
        ("0002_c1s1_000451_03.jpg", "1", "s1:000451", "0002"),
        ("0005_c2_f0046985.jpg", "2", "", "0005"),
        ("000_c4f3.jpg", "", "", ""),
        ("x_cam12.png", "12", "", ""),
        ("y_C3_1.jpg", "3", "", ""),
        ("frame-cam-7.001.jpg", "7", "", ""),
        ("plain.jpg", "", "", ""),
    ]
    assert found.notes
    assert "2 of 9 pictures have no camera" in found.notes[0]
    given = from_folder(tmp_path, camera="gate", time=7.0, people="folder")
    assert {i.camera for i in given.items} == {"gate"}
    assert {i.time for i in given.items} == {7.0}
    assert [i.person for i in given.items if i.person] == ["b", "b"]
    assert given.notes == []


def test_a_folder_between_person_and_picture_is_the_camera(tmp_path: Path) -> None:
    write(tmp_path, "anna/hall/1.jpg", "anna/cam3/deep/x_c2.jpg", "anna/2024/c5/1.jpg",
          "anna/2024/may/1.jpg", "anna/2024/may/x_c2.jpg", "bob/C_07/1.jpg",
          "bob/x_c2_1.jpg", "bob/plain.jpg", "flat_c4.jpg")  # fmt: skip
    found = from_folder(tmp_path, people="folder")
    assert {
        i.picture.relative_to(tmp_path).as_posix(): (i.person, i.camera)  # type: ignore[union-attr]
        for i in found.items
    } == {
        "anna/hall/1.jpg": ("anna", "hall"),
        "anna/cam3/deep/x_c2.jpg": ("anna", "3"),
        "anna/2024/c5/1.jpg": ("anna", "5"),
        "anna/2024/may/1.jpg": ("anna", "2024"),
        "anna/2024/may/x_c2.jpg": ("anna", "2"),
        "bob/C_07/1.jpg": ("bob", "07"),
        "bob/x_c2_1.jpg": ("bob", "2"),
        "bob/plain.jpg": ("bob", ""),
        "flat_c4.jpg": ("", "4"),
    }
    assert "(_c3 or _cam3) or as a folder (PERSON/CAMERA/PICTURE)" in found.notes[0]
    plain = from_folder(tmp_path)  # a folder may mean anything where it is not said what
    assert [i.camera for i in plain.items if i.picture.name == "1.jpg"] == [""] * 4
    one = from_folder(tmp_path, people="folder", camera="gate")
    assert {i.camera for i in one.items} == {"gate"}


def test_a_folder_whose_name_cannot_be_kept_is_named(tmp_path: Path) -> None:
    write(tmp_path, "anna/unknown/1.jpg")
    with pytest.raises(DataError, match=r"unknown/1\.jpg: a camera cannot be called 'unknown'"):
        from_folder(tmp_path, people="folder")


def test_folders_without_pictures_are_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    (tmp_path / "empty").mkdir()
    for name, message in (
        ("gone", "is not there"), ("file", "is a file"), ("empty", "has no pictures")
    ):  # fmt: skip
        with pytest.raises(DataError, match=message):
            from_folder(tmp_path / name)


def test_a_list_is_read(tmp_path: Path) -> None:
    path = tmp_path / "list.csv"
    path.write_text(
        "\ufeffPath;camera;time;frame;track;box;quality;person;remark;camid;split\n"
        "a/1.jpg;gate;2026-05-04T10:00:00;17;t1;1 2 30.5 60;0.5;Anna  B;hello\n"
        "\n"
        "2.jpg;;1777881600;;;;;;\n",
        encoding="utf-8",
    )
    found = from_csv(path, zone=ZoneInfo("Europe/Berlin"))
    first, second = found.items
    assert (first.picture, first.camera, first.time) == (tmp_path / "a/1.jpg", "gate", 1777881600.0)
    assert (first.frame, first.track, first.box) == ("17", "t1", (1.0, 2.0, 30.5, 60.0))
    assert (first.quality, first.person) == (0.5, "Anna B")
    assert (second.camera, second.time, second.box, second.person) == ("", 1777881600.0, None, "")
    assert found.notes == ["columns that are not read: remark, camid, split"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "needs a header line with path"),
        ("path\n", "lists no pictures"),
        ("file,camera\na,b\n", "needs a header line with path.*got file, camera"),
        ("path,camrea\na,b\n", "column 'camrea'; is 'camera' meant"),
        ("path,pid,camid,split\na,1,2,query\n", "column 'pid'; is 'person' meant"),
        ("path,person,CamID\na,1,2\n", "column 'camid'; is 'camera' meant"),
        ("path,timestamp\na,2\n", "column 'timestamp'; is 'time' meant"),
        ("path,path\na,b\n", "'path' more than once"),
        ("path,time\na,noon\n,5\nb,6\n", "2 of 3 rows.*line 2: 'noon' is not a time.*line 3: no"),
        ("path,box\na,1 2 3\n", "line 2: box '1 2 3' must be 4 numbers"),
        ("path,box\na,9 2 3 4\n", "left < right"),
        ("path,quality\na,2\n", "line 2: .* must be in 0..1"),
        ("path,camera\na,unknown\n", "line 2: a camera cannot be called 'unknown'"),
        ("path,time\na,20260504\n", "line 2: '20260504' looks like a date without its dashes"),
        ("path,quality\na,nan\n", "must be 1 number"),
    ],
)
def test_a_list_that_cannot_be_understood_is_refused_whole(
    tmp_path: Path, text: str, message: str
) -> None:
    (tmp_path / "l.csv").write_text(text)
    with pytest.raises(DataError, match=message):
        from_csv(tmp_path / "l.csv")


def test_a_list_in_another_code_is_refused(tmp_path: Path) -> None:
    (tmp_path / "l.csv").write_bytes("path\nFu\xdf.jpg\n".encode("latin-1"))
    with pytest.raises(DataError, match="not UTF-8"):
        from_csv(tmp_path / "l.csv")
    with pytest.raises(DataError, match="cannot be read"):
        from_csv(tmp_path / "gone.csv")
