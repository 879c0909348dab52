"""Times, ids and names."""

from __future__ import annotations

import uuid
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from crosscam.errors import InputError
from crosscam.gallery import Item, Sighting, Where, format_time, parse_time
from crosscam.gallery.sighting import clean_name, sighting_id


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("1970-01-01T00:00:00Z", 0.0),
        ("1970-01-02", 86400.0),
        ("2026-05-04T10:00:00+02:00", 1777881600.0),
        ("2026-05-04 08:00:00", 1777881600.0),
        ("2026-05-04T08:00:00.250z", 1777881600.25),
        ("1777881600.5", 1777881600.5),
        (1777881600, 1777881600.0),
        (" -5 ", -5.0),
    ],
)
def test_times_are_read(text: str | float, seconds: float) -> None:
    assert parse_time(text) == seconds


def test_times_without_an_offset_are_in_the_zone_given() -> None:
    berlin = ZoneInfo("Europe/Berlin")
    assert parse_time("2026-05-04T10:00:00", berlin) == 1777881600.0
    assert parse_time("2026-12-04T09:00:00", berlin) == parse_time("2026-12-04T08:00:00Z")
    fixed = timezone(timedelta(hours=-3))
    assert parse_time("2026-05-04T05:00:00", fixed) == 1777881600.0
    assert parse_time("2026-05-04T10:00:00+02:00", fixed) == 1777881600.0


@pytest.mark.parametrize(
    "text",
    ["", "noon", "2026-13-01", "nan", "inf", "1e300", "04.05.2026", "1.777882E+09", "04052026",
     "1_000_000_000", "\u0661\u0667\u0667\u0667\u0668\u0668\u0661\u0666\u0660\u0660", "+5", "0x10"],
)  # fmt: skip
def test_what_is_no_time_is_refused(text: str) -> None:
    with pytest.raises(InputError):
        parse_time(text)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("2026", "write 2026-01-01, or as seconds since 1970: 2026.0"),
        ("202605", "write 2026-05-01, or as seconds since 1970: 202605.0"),
        ("20260504", "write 2026-05-04, or as seconds since 1970: 20260504.0"),
        ("202605041030", r"write 2026-05-04T10:30:00\.$"),
        ("20260504103015", r"write 2026-05-04T10:30:15\.$"),
    ],
)
def test_a_date_without_dashes_is_no_day_of_1970(text: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        parse_time(text)


def test_what_looks_like_a_date_can_be_meant_as_seconds() -> None:
    assert parse_time("20260504.0") == parse_time(20260504) == 20260504.0
    assert parse_time("1804") == 1804.0


@pytest.mark.parametrize("text", ["9999-12-31T23:59:59-05:00", "0001-01-01T00:00:00+01:00"])
def test_times_that_could_not_be_written_are_refused(text: str) -> None:
    with pytest.raises(InputError, match="years 1 to 9999"):
        parse_time(text)
    for edge in ("0001-01-01T00:00:00Z", "9999-12-31T23:59:59Z"):
        assert format_time(parse_time(edge)) == edge


@pytest.mark.parametrize(
    "seconds", [1e300, float("nan"), float("inf"), 253402300800.0, -62135596801]
)
def test_times_out_of_range_are_refused_wherever_they_come_from(seconds: float) -> None:
    with pytest.raises(InputError, match=r"the time of a sighting must be .* years 1 to 9999"):
        Item(b"x", time=seconds)
    for name in ("after", "before", "added_before"):
        with pytest.raises(InputError, match=f"{name} must be in seconds since 1970"):
            Where(**{name: seconds})
    assert Item(b"x", time=253402300799.0).time == 253402300799.0


def test_milliseconds_are_called_by_their_name() -> None:
    with pytest.raises(InputError, match="milliseconds: divide by 1000"):
        parse_time("1777881600000")


def test_times_are_written_in_utc_and_read_back() -> None:
    assert format_time(None) == ""
    assert format_time(1777881600.25) == "2026-05-04T08:00:00.250000Z"
    for seconds in (0.0, 1.5, 1777881600.0, 1e9 + 1 / 3):
        back = parse_time(format_time(seconds))
        assert back == pytest.approx(seconds, abs=1e-6)
        assert format_time(seconds)[:19] == datetime.fromtimestamp(seconds, timezone.utc).strftime(
            "%Y-%m-%dT%H:%M:%S"
        )


def test_an_id_depends_on_content_camera_time_and_frame() -> None:
    base = sighting_id("ab" * 32, "1", 5.0, "f")
    assert base == sighting_id("ab" * 32, "1", 5, "f")
    others = [
        sighting_id("ac" * 32, "1", 5.0, "f"),
        sighting_id("ab" * 32, "2", 5.0, "f"),
        sighting_id("ab" * 32, "1", 5.5, "f"),
        sighting_id("ab" * 32, "1", None, "f"),
        sighting_id("ab" * 32, "1", 5.0, ""),
    ]
    assert len({base, *others}) == 6
    # Kept for good: galleries that exist were made with it.
    assert sighting_id("00" * 32, "1", None) == "ddf254e4-e5e6-5b1b-8762-7219b7547266"


def test_frames_and_tracks_are_told_apart_by_camera() -> None:
    a = Sighting("a", camera="1", time=2.0, frame="7", track="3")
    assert a.frame_key == ("1", "7")
    assert a.track_key == ("1", "3")
    b = Sighting("b", camera="1", time=2.0)
    assert b.frame_key == Sighting("c", camera="1", time=2.0).frame_key
    assert b.frame_key != Sighting("c", camera="2", time=2.0).frame_key
    assert Sighting("d", camera="1").frame_key is None
    assert Sighting("d", camera="1").track_key is None


def test_a_payload_has_only_what_is_known_and_comes_back() -> None:
    s = Sighting("a", picture="p", time=0.0, box=(1, 2, 3, 4), rejected=("x",), quality=0.0)
    payload = s.payload()
    assert payload == {"picture": "p", "time": 0.0, "box": [1, 2, 3, 4], "rejected": ["x"],
                       "quality": 0.0}  # fmt: skip
    assert Sighting.from_payload("a", {**payload, "of a newer version": 1}) == s


@pytest.mark.parametrize("name", ["", " \n ", "a\x07", "x" * 201, "\u202egnp"])
def test_bad_names_are_refused(name: str) -> None:
    with pytest.raises(InputError, match="1 to 200 printable"):
        clean_name(name)


def test_names_are_trimmed() -> None:
    assert clean_name("  Zoë \t O’Neil ") == "Zoë O’Neil"


def test_two_spellings_of_a_name_are_one() -> None:
    composed, decomposed = "Zo\N{LATIN SMALL LETTER E WITH ACUTE}", "Zoe\N{COMBINING ACUTE ACCENT}"
    assert clean_name(decomposed) == clean_name(composed) == composed
    assert Item(b"x", person=decomposed, camera=decomposed) == Item(
        b"x", person=composed, camera=composed
    )


def test_what_is_said_of_a_sighting_is_kept_tidy() -> None:
    item = Item(
        "a/b.jpg", camera="  3 ", frame=" 7", track="t  1 ", person=" Anna", box=[1, 2, 3, 4]
    )
    assert (item.picture, item.source) == (Path("a/b.jpg"), "a/b.jpg")
    assert (item.camera, item.frame, item.track, item.person) == ("3", "7", "t 1", "Anna")
    assert item.box == (1.0, 2.0, 3.0, 4.0)
    # A path may be anything, and a terminal must not obey it.
    assert Item("a\x1b[31m\n\udcff.jpg").source == "a\ufffd[31m\ufffd\ufffd.jpg"
    assert Item("a\u202egpj.exe\x85").source == "a\ufffdgpj.exe\ufffd"
    named = "Bildschirmfoto 10.15\u202fUhr\u00a0\u200d\u3000.jpg"  # as systems name them
    assert Item(named).source == named


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ({"picture": None}, "is a path, bytes or an array"),
        ({"camera": 3}, r"a camera's name is text, got 3 \(int\)"),
        ({"camera": "   "}, "a camera's name has 1 to 200 printable"),
        ({"camera": "3\x1b[31m"}, "a camera's name has 1 to 200 printable"),
        ({"camera": "\ud800"}, "a camera's name has 1 to 200 printable"),
        ({"camera": "Unknown"}, "a camera cannot be called 'Unknown'"),
        ({"frame": 17}, "a frame's name is text, got 17"),
        ({"track": "a\nb\0"}, "a track's name has"),
        ({"person": "\u202egnp"}, "a person's name has"),
        ({"source": 3}, "source of a sighting is text"),
        ({"time": "2026-05-04"}, "number of seconds .* parse_time reads"),
        ({"time": True}, "number of seconds"),
        ({"time": 1777881600000}, "milliseconds: divide by 1000"),
        ({"quality": float("nan")}, "quality of a sighting must be in 0..1"),
        ({"quality": 1.5}, "quality of a sighting must be in 0..1"),
        ({"box": (1, 2, 3)}, "a box is four numbers"),
        ({"box": (1, 2, float("nan"), 4)}, "a box is four numbers"),
        ({"box": (3, 2, 1, 4)}, "left < right"),
    ],
)
def test_what_cannot_be_said_of_a_sighting_is_refused(said: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Item(**{"picture": b"x", **said})


def test_filters_take_several_of_each_and_no_text_for_several() -> None:
    for name in ("cameras", "not_cameras", "persons", "ids", "tracks", "rejected_for"):
        with pytest.raises(InputError, match=f"{name} is a tuple of texts"):
            Where(**{name: "12"})
    with pytest.raises(InputError, match="cameras is a tuple of texts"):
        Where(cameras=(1, 2))
    assert Where(cameras=["1", "2"]) == Where(cameras=("1", "2"))
    assert not Where(cameras=[])  # which asks for nothing, so that nothing is deleted by it
    with pytest.raises(InputError, match="not the id of a sighting"):
        Where(ids=("nonsense",))
    assert Where(not_ids=(str(uuid.UUID(int=10**37)).upper(),)).not_ids == (
        str(uuid.UUID(int=10**37)),
    )
