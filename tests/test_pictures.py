"""Picture files of folders, and what their names say."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from crosscam.errors import DataError
from crosscam.pictures import (
    EXTENSIONS,
    MARKET_NAME,
    camera_number,
    camera_of,
    image_files,
    image_names,
    person_and_camera,
    pictures_below,
)


@pytest.mark.parametrize(
    ("stem", "person", "camera"),
    [
        ("0002_c1s1_000451_03", "0002", "1"),
        ("-1_c5s2_000001_00", "-1", "5"),
        ("0005_c2_f0046985", "0005", "2"),
        ("0001_c001_00016450_0", "0001", "001"),
        ("alice_c3_0007", "alice", "3"),
        ("alice_C3", "alice", "3"),
        ("c3_0007", "", "3"),
        ("x_cam12", "x", "12"),
        ("x_cam3s1_7", "x", "3"),
        ("cam-2.0007", "", "2"),
        ("frame_camera_12", "frame", "12"),
        ("alice-cam3", "alice", "3"),
        ("alice Camera 4 noon", "alice", "4"),
        ("x-cam2_c3", "x", "2"),  # the first
        ("plain", "", ""),
        ("webcam3", "", ""),
        ("cam3d", "", ""),
        ("cam12345", "", ""),
        ("x_c12345_1", "", ""),
        ("abc3_1", "", ""),
        ("x-c3-1", "", ""),  # made of random digits, perhaps
        ("0f_c4f3", "", ""),
        ("camera", "", ""),
    ],
)
def test_names_say_person_and_camera(stem: str, person: str, camera: str) -> None:
    assert person_and_camera(stem) == (person, camera)
    assert camera_of(stem) == camera


@pytest.mark.parametrize(
    ("folders", "stem", "camera"),
    [
        (["hall"], "x_c2", "hall"),
        (["hall", "cam-3"], "x_c2", "cam-3"),
        (["hall", "2024"], "x_c2", "2"),
        (["hall", "2024"], "x", "hall"),
        ([], "x_c2", "2"),
    ],
)
def test_folders_say_the_camera(folders: list[str], stem: str, camera: str) -> None:
    assert camera_of(stem, folders) == camera


@pytest.mark.parametrize(
    ("label", "number"),
    [("3", "3"), ("cam3", "3"), ("C_07", "07"), ("Camera 2", "2"), ("hall", ""), ("cam2b", "")],
)
def test_labels_of_cameras_have_numbers(label: str, number: str) -> None:
    assert camera_number(label) == number


@pytest.mark.parametrize(
    ("stem", "groups"),
    [
        ("0002_c1s1_000451_03", ("0002", "1", "1", "000451")),
        ("0002_c1s1_000451", ("0002", "1", "1", "000451")),
        ("-1_c5s2_000001_00", ("-1", "5", "2", "000001")),
        ("0002_c1s1_000451_03.jpg", ("0002", "1", None, None)),
        ("0005_c2_f0046985", ("0005", "2", None, None)),
        ("-2_c1s1_000451_03", None),
        ("x_0002_c1", None),
    ],
)
def test_market_names(stem: str, groups: tuple[str | None, ...] | None) -> None:
    found = MARKET_NAME.match(stem)
    assert (found and found.groups()) == groups


def test_extensions_are_lower_case_suffixes() -> None:
    assert ".jpg" in EXTENSIONS
    assert all(e == e.lower() and e.startswith(".") for e in EXTENSIONS)


def test_picture_files_are_found_and_sorted(tmp_path: Path) -> None:
    for name in ("b/2.png", "b/.x.jpg", ".git/1.jpg", "a.JPG", "Thumbs.db", "c.jpg.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert image_names(tmp_path) == ["a.JPG"]
    assert image_names(tmp_path, deep=True) == ["a.JPG", "b/2.png"]
    assert pictures_below(tmp_path) == [tmp_path / "a.JPG", tmp_path / "b" / "2.png"]
    assert image_files(tmp_path / "gone") == []
    with pytest.raises(DataError, match=r"git has no pictures \(\.bmp, .*\): give another folder"):
        pictures_below(tmp_path / "b" / ".git")


@pytest.mark.skipif(os.name == "nt", reason="links need rights there")
def test_links_are_followed_but_not_in_a_circle(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "1.jpg").touch()
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "link").symlink_to(tmp_path / "there")
    assert image_names(tmp_path / "here", deep=True) == ["link/1.jpg"]
    (tmp_path / "there" / "back").symlink_to(tmp_path / "there")
    assert image_names(tmp_path / "here", deep=True) == ["link/1.jpg"]
