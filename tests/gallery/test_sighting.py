"""Times, ids and names."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from zoneinfo import ZoneInfo

import pytest

from crosscam.errors import InputError
from crosscam.gallery import Sighting, format_time, parse_time
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


@pytest.mark.parametrize("text", ["", "noon", "2026-13-01", "nan", "inf", "1e300", "04.05.2026"])
def test_what_is_no_time_is_refused(text: str) -> None:
    with pytest.raises(InputError):
        parse_time(text)


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
