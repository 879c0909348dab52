"""A sighting: one person on one picture, and where and when it was taken."""

from __future__ import annotations

import math
import numbers
import re
import unicodedata
import uuid
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from datetime import datetime, timezone, tzinfo
from typing import Any

from crosscam.errors import InputError

__all__ = [
    "UNKNOWN",
    "Sighting",
    "Where",
    "camera_name",
    "checked_facts",
    "checked_time",
    "clean_name",
    "format_time",
    "parse_time",
    "printable",
    "sighting_id",
    "tidy",
    "valid_id",
]

UNKNOWN = "unknown"
"""What sightings without a camera are counted under; no camera can be called so."""

_NAMESPACE = uuid.UUID("7c1a6f8e-5d0e-5b5e-9f0a-2b8f6c1d4e3a")
_FIRST, _END = -62_135_596_800.0, 253_402_300_800.0  # the years 1 to 9999, which can be written
_LATEST = 1e10  # the year 2286: beyond it a number in a text is no time in seconds
_LONGEST = 200
_UNSTORABLE = re.compile(
    "[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]"
)
_NUMBER = re.compile(r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?")
# 2026, 202605, 20260504, 202605041000, 20260504100000
_DATE = re.compile(
    r"((?:19|20|21)[0-9]{2})(?:([0-9]{2})(?:([0-9]{2})(?:([0-9]{2})([0-9]{2})([0-9]{2})?)?)?)?"
)


@dataclass(frozen=True, slots=True)
class Sighting:
    """What a gallery knows of one picture of one person.

    Empty strings and None mean "unknown".
    """

    id: str  # a UUID made of content, camera, frame and time, see sighting_id
    picture: str = ""  # file name in the picture store: SHA-256 and suffix
    camera: str = ""
    time: float | None = None  # seconds since 1970-01-01 UTC
    frame: str = ""  # two sightings of one camera with one frame stand side by side in it
    track: str = ""  # sightings of one camera and track were followed by a tracker
    source: str = ""  # the file it came from
    added: float | None = None  # when it came into the gallery, seconds since 1970-01-01 UTC
    box: tuple[float, float, float, float] | None = None  # left, top, right, bottom in the frame
    quality: float | None = None  # 0..1, higher is better
    person: str = ""
    how: str = ""  # who says so: given (came with the data), enrolled, confirmed
    decided: float | None = None  # when a person was last set or rejected
    rejected: tuple[str, ...] = ()  # persons somebody said it does not show
    model: str = ""  # first 16 hex digits of the hash of the model its vector came from

    @property
    def frame_key(self) -> tuple[str, str] | None:
        """Equal for sightings of one camera at one instant; None where that is unknown."""
        if self.frame:
            return self.camera, self.frame
        return None if self.time is None else (self.camera, f"@{self.time!r}")

    @property
    def track_key(self) -> tuple[str, str] | None:
        """Equal for sightings of one track; None without one."""
        return (self.camera, self.track) if self.track else None

    def payload(self) -> dict[str, Any]:
        """Plain values for a store, without the id; what is unknown is left out."""
        values: dict[str, Any] = {}
        for name in _PAYLOAD:
            value = getattr(self, name)
            if value is not None and value != "" and value != ():
                values[name] = list(value) if isinstance(value, tuple) else value
        return values

    @classmethod
    def from_payload(cls, id: str, payload: Mapping[str, Any] | None) -> Sighting:
        """The inverse of :meth:`payload`; entries of newer versions are passed over."""
        values = {k: v for k, v in (payload or {}).items() if k in _PAYLOAD and v is not None}
        for key in ("box", "rejected"):
            if key in values:
                values[key] = tuple(values[key])
        return cls(id=id, **values)

    def to_json(self) -> dict[str, Any]:
        """Plain values for people: the time as ISO 8601."""
        values = {"id": self.id, **self.payload()}
        for key in ("time", "added", "decided"):
            if key in values:
                values[key] = format_time(values[key])
        return values


_PAYLOAD = tuple(f.name for f in fields(Sighting) if f.name != "id")


@dataclass(frozen=True, slots=True)
class Where:
    """Which sightings are meant; everything given must hold.

    ``after <= time < before`` and ``added < added_before``, in seconds since 1970 UTC; a sighting
    without a time is in no range of times.  The others are tuples of texts (any sequence but a
    text itself is made one); ids may be written in any case.  A name also means its tidy
    spelling, where it has another, unless ``verbatim``; changes always take names verbatim.

    Raises:
        InputError: a text where several are meant, what is no id, a time that cannot be, or a
            range that ends before it starts.
    """

    ids: tuple[str, ...] = ()
    not_ids: tuple[str, ...] = ()
    cameras: tuple[str, ...] = ()
    not_cameras: tuple[str, ...] = ()
    persons: tuple[str, ...] = ()
    not_persons: tuple[str, ...] = ()
    not_rejected_for: tuple[str, ...] = ()
    rejected_for: tuple[str, ...] = ()
    tracks: tuple[str, ...] = ()
    pictures: tuple[str, ...] = ()
    after: float | None = None
    before: float | None = None
    added_before: float | None = None
    verbatim: bool = False

    def __post_init__(self) -> None:
        for f in fields(self):
            if f.name == "verbatim":
                continue
            value = getattr(self, f.name)
            if f.default == ():
                value = _texts(value, f.name)
                if f.name in ("ids", "not_ids"):
                    value = tuple(map(valid_id, value))
            elif value is not None:
                value = checked_time(value, f.name)
            object.__setattr__(self, f.name, value)
        if self.after is not None and self.before is not None and self.after >= self.before:
            raise InputError(
                f"a time range needs its start before its end, got {format_time(self.after)} to "
                f"{format_time(self.before)}."
            )

    def __bool__(self) -> bool:
        return any(getattr(self, f.name) not in ((), None, False) for f in fields(self)
                   if f.name != "verbatim")  # fmt: skip


def sighting_id(content: str, camera: str, time: float | None, frame: str = "") -> str:
    """The id of a sighting: the same for the same picture, camera, time and frame.

    ``content`` is the SHA-256 of the picture's bytes (or of the vector, where there is no
    picture), in hex.
    """
    when = "" if time is None else repr(float(time))
    return str(uuid.uuid5(_NAMESPACE, "\0".join((content, camera, when, frame))))


def valid_id(id: str) -> str:
    """``id`` as galleries write it (lower case), or an ``InputError`` where it is no id at all."""
    try:
        return str(uuid.UUID(str(id)))
    except ValueError:
        raise InputError(
            f"{id!r} is not the id of a sighting; it looks like "
            "1b4e28ba-2fa1-51d2-883f-0016d3cca427."
        ) from None


def tidy(name: str) -> str:
    """``name`` as it is kept: one space for several, none around it, and accents in one way.

    "é" can be written as one character or as two (Unicode's NFC and NFD), which look the same.
    """
    return unicodedata.normalize("NFC", " ".join(name.split()))


def clean_name(name: str, what: str = "a person's name") -> str:
    """:func:`tidy`, or an ``InputError``: 1..200 characters, none a control."""
    if not isinstance(name, str):
        raise InputError(f"{what} is text, got {name!r} ({type(name).__name__}).")
    text = tidy(name)
    if not text or len(text) > _LONGEST or not text.isprintable():
        raise InputError(f"{what} has 1 to {_LONGEST} printable characters, got {name!r}.")
    return text


def camera_name(name: str) -> str:
    """A camera's name as it is kept, "" where it is not known; ``InputError`` as clean_name.

    Sightings without a camera are counted under :data:`UNKNOWN`, which is nobody's name.
    """
    camera = _word(name, "a camera's name")
    if camera.casefold() == UNKNOWN:
        raise InputError(
            f"a camera cannot be called {camera!r}: sightings without a camera are counted under "
            "that. Leave the camera out, or give it another name."
        )
    return camera


def printable(text: str) -> str:
    """``text`` with U+FFFD for what a terminal would obey or cannot show."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)


def _storable(text: str) -> str:
    """``text`` with U+FFFD for control characters, lone surrogates and what turns the direction of
    writing; other spaces and joiners stay, so that it still names its file."""
    return _UNSTORABLE.sub("\N{REPLACEMENT CHARACTER}", text)


def checked_facts(said: Any) -> dict[str, Any]:
    """What is said of a sighting, as it is kept: names tidied, numbers in their ranges.

    ``said`` has the attributes camera, time, frame, track, source, box, quality and person, as an
    ``Item`` and a ``Sighting`` do; what is unknown is "" or None.

    Raises:
        InputError: names a thing of another kind, or out of range.
    """
    if not isinstance(said.source, str):
        raise InputError(f"the source of a sighting is text, got {said.source!r}.")
    return {
        "camera": camera_name(said.camera),
        "time": None if said.time is None else checked_time(said.time, "the time of a sighting"),
        "frame": _word(said.frame, "a frame's name"),
        "track": _word(said.track, "a track's name"),
        "source": _storable(said.source),
        "box": None if said.box is None else _checked_box(said.box),
        "quality": None if said.quality is None else _checked_quality(said.quality),
        "person": _word(said.person, "a person's name"),
    }


def checked_time(seconds: float, what: str = "a time") -> float:
    """Seconds since 1970 UTC as a float, in the years 1 to 9999, which can be written."""
    if not _is_number(seconds):
        raise InputError(
            f"{what} is a number of seconds since 1970 UTC, got {seconds!r}; parse_time reads one "
            "from text."
        )
    if not _FIRST <= seconds < _END:  # NaN neither
        raise InputError(
            f"{what} must be in seconds since 1970 UTC and in the years 1 to 9999, got "
            f"{seconds!r}.{_hint(float(seconds))}"
        )
    return float(seconds)


def parse_time(text: str | float, zone: tzinfo = timezone.utc) -> float:
    """Seconds since 1970 UTC of an ISO 8601 time or of a number of seconds.

    ``2026-05-04T10:00:00+02:00``, ``2026-05-04 08:00:00Z``, ``2026-05-04`` (midnight),
    ``1777881600.5``.  A time without an offset is in ``zone``.

    Raises:
        InputError: anything else.  Milliseconds are named as such; so are digits that may be a
            date (``20260504``, ``2026``), because they would be a day in 1970.
    """
    if isinstance(text, (int, float)) and not isinstance(text, bool):
        return _seconds(float(text), text)
    given = str(text).strip()
    date = _DATE.fullmatch(given)
    if date:
        year, month, day, hour, minute, second = date.groups()
        iso = f"{year}-{month or '01'}-{day or '01'}"
        iso += f"T{hour}:{minute}:{second or '00'}" if hour else ""
        seconds = "" if hour else f", or as seconds since 1970: {given}.0"
        raise InputError(f"{given!r} looks like a date without its dashes: write {iso}{seconds}.")
    if _NUMBER.fullmatch(given):
        return _seconds(float(given), given)
    # Python 3.10 reads no "Z".
    iso = given[:-1] + "+00:00" if given[-1:] in ("Z", "z") else given
    try:
        moment = datetime.fromisoformat(iso)
    except ValueError:
        raise InputError(
            f"{given!r} is not a time: give ISO 8601 such as 2026-05-04T10:00:00+02:00, or seconds "
            "since 1970 in plain digits."
        ) from None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=zone)
    try:
        return checked_time(moment.timestamp())
    except InputError:
        raise InputError(f"{given!r} is not in the years 1 to 9999 of UTC.") from None


def format_time(seconds: float | None) -> str:
    """ISO 8601 in UTC, to the microsecond where it has them; "" for None."""
    if seconds is None:
        return ""
    moment = datetime.fromtimestamp(seconds, timezone.utc)
    return moment.isoformat().replace("+00:00", "Z")


def _seconds(value: float, given: object) -> float:
    if not -_LATEST < value < _LATEST:  # NaN neither
        raise InputError(f"{given!r} is not a time in seconds since 1970.{_hint(value)}")
    return value


def _hint(seconds: float) -> str:
    milliseconds = _LATEST <= abs(seconds) < 1e13
    return " It looks like milliseconds: divide by 1000." if milliseconds else ""


def _is_number(value: object) -> bool:
    return isinstance(value, numbers.Real) and not isinstance(value, bool)


def _texts(values: Any, name: str) -> tuple[str, ...]:
    """``values`` as a tuple; one text is refused, whose characters would each be asked for."""
    several = isinstance(values, Iterable) and not isinstance(values, str)
    texts = tuple(values) if several else ()
    if not several or not all(isinstance(text, str) for text in texts):
        raise InputError(f'{name} is a tuple of texts such as ("3",), got {values!r}.')
    return texts


def _word(value: str, what: str) -> str:
    return "" if isinstance(value, str) and not value else clean_name(value, what)


def _checked_box(box: Iterable[float]) -> tuple[float, float, float, float]:
    try:
        values = tuple(box)
    except TypeError:
        values = ()
    if len(values) != 4 or not all(_is_number(v) and math.isfinite(v) for v in values):
        raise InputError(f"a box is four numbers, left top right bottom, got {box!r}.")
    left, top, right, bottom = map(float, values)
    if left >= right or top >= bottom:
        raise InputError(
            f"a box is left top right bottom with left < right and top < bottom, got {box!r}."
        )
    return left, top, right, bottom


def _checked_quality(quality: float) -> float:
    if not _is_number(quality) or not 0 <= quality <= 1:  # NaN neither
        raise InputError(f"the quality of a sighting must be in 0..1, got {quality!r}.")
    return float(quality)
