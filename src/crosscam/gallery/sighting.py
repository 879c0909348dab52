"""A sighting: one person on one picture, and where and when it was taken."""

from __future__ import annotations

import math
import re
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, fields
from datetime import datetime, timezone, tzinfo
from typing import Any

from crosscam.errors import InputError

__all__ = ["Sighting", "Where", "clean_name", "format_time", "parse_time", "sighting_id"]

_NAMESPACE = uuid.UUID("7c1a6f8e-5d0e-5b5e-9f0a-2b8f6c1d4e3a")
_LATEST = 1e10  # the year 2286: beyond it a number is no time in seconds
_LONGEST = 200


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
    without a time is in no range of times.
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

    def __post_init__(self) -> None:
        if self.after is not None and self.before is not None and self.after >= self.before:
            raise InputError(
                f"a time range needs its start before its end, got {format_time(self.after)} to "
                f"{format_time(self.before)}."
            )

    def __bool__(self) -> bool:
        return any(getattr(self, f.name) not in ((), None) for f in fields(self))


def sighting_id(content: str, camera: str, time: float | None, frame: str = "") -> str:
    """The id of a sighting: the same for the same picture, camera, time and frame.

    ``content`` is the SHA-256 of the picture's bytes (or of the vector, where there is no
    picture), in hex.
    """
    when = "" if time is None else repr(float(time))
    return str(uuid.uuid5(_NAMESPACE, "\0".join((content, camera, when, frame))))


def clean_name(name: str, what: str = "a person's name") -> str:
    """``name`` with spaces trimmed, or an ``InputError``: 1..200 characters, none a control."""
    text = re.sub(r"\s+", " ", str(name)).strip()
    if not text or len(text) > _LONGEST or not text.isprintable():
        raise InputError(f"{what} has 1 to {_LONGEST} printable characters, got {name!r}.")
    return text


def parse_time(text: str | float, zone: tzinfo = timezone.utc) -> float:
    """Seconds since 1970 UTC of an ISO 8601 time or of a number of seconds.

    ``2026-05-04T10:00:00+02:00``, ``2026-05-04 08:00:00Z``, ``2026-05-04`` (midnight),
    ``1777881600.5``.  A time without an offset is in ``zone``.

    Raises:
        InputError: anything else; milliseconds are named as such.
    """
    if isinstance(text, (int, float)) and not isinstance(text, bool):
        return _seconds(float(text), text)
    given = str(text).strip()
    try:
        return _seconds(float(given), given)
    except ValueError as error:
        if isinstance(error, InputError):
            raise
    # Python 3.10 reads no "Z".
    iso = given[:-1] + "+00:00" if given[-1:] in ("Z", "z") else given
    try:
        moment = datetime.fromisoformat(iso)
    except ValueError:
        raise InputError(
            f"{given!r} is not a time: give ISO 8601 such as 2026-05-04T10:00:00+02:00, or seconds "
            "since 1970."
        ) from None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=zone)
    return moment.timestamp()


def format_time(seconds: float | None) -> str:
    """ISO 8601 in UTC, to the microsecond where it has them; "" for None."""
    if seconds is None:
        return ""
    moment = datetime.fromtimestamp(seconds, timezone.utc)
    return moment.isoformat().replace("+00:00", "Z")


def _seconds(value: float, given: object) -> float:
    if not math.isfinite(value) or not -_LATEST < value < _LATEST:
        hint = " It looks like milliseconds: divide by 1000." if abs(value) < 1e13 else ""
        raise InputError(f"{given!r} is not a time in seconds since 1970.{hint}")
    return value
