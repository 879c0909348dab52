"""What can be added to a gallery: a folder of crops, or a list in a CSV file.

File names say where and when a picture was taken if they look like Market-1501's
(``0002_c1s1_000451_03.jpg``: camera 1, sequence 1, frame 451) or carry a camera like ``_c3`` or
``cam-3`` (:mod:`crosscam.pictures`).  Where folders are people, a folder between a person's and
the picture is the camera.
"""

from __future__ import annotations

import difflib
import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import timezone, tzinfo
from pathlib import Path
from typing import Literal

from crosscam.errors import DataError, InputError
from crosscam.gallery.gallery import Item
from crosscam.gallery.sighting import parse_time, printable
from crosscam.pictures import MARKET_NAME, camera_number, camera_of, pictures_below
from crosscam.table import Table, read_table
from crosscam.wording import counted, either

__all__ = ["COLUMNS", "Items", "People", "from_csv", "from_files", "from_folder"]

People = Literal["none", "folder", "name"]

COLUMNS = ("path", "camera", "time", "frame", "track", "box", "quality", "person")
"""Columns of a CSV file; only ``path`` is required."""

_ELSEWHERE = {  # what others call these columns
    "camera": ("camid", "cam", "camera_id", "cameraid", "cam_id"),
    "person": ("pid", "name", "identity", "person_id", "personid"),
    "time": ("timestamp", "datetime", "date"),
}


@dataclass(frozen=True)
class Items:
    """What was found, and what the reader should know."""

    items: Sequence[Item]
    notes: list[str] = field(default_factory=list)


def from_folder(
    root: Path, *, camera: str = "", time: float | None = None, people: People = "none"
) -> Items:
    """The pictures below a folder, in the order of their names.

    Args:
        root: the folder; hidden files and folders are passed over.
        camera: of all pictures; "" reads it from their names, and with ``people="folder"`` from the
            folder below a person's if there is one: ``anna/hall/1.jpg``, ``anna/cam3/1.jpg``
            (camera 3, as in names of files); of several, from the one named like a camera.
        time: of all pictures, in seconds since 1970 UTC.
        people: "folder" names a person by the folder right below ``root``, "name" by the number
            that a Market-1501 name begins with (``0002_c1``), unless it is -1 or 0.

    Raises:
        DataError: no such folder, one below it that cannot be read, or no pictures in it.
    """
    if not root.is_dir():
        kind = "a file" if root.exists() else "not there"
        raise DataError(f"{root} is {kind}: give a folder of pictures.")
    return from_files(pictures_below(root), root=root, camera=camera, time=time, people=people)


def from_files(
    paths: Sequence[Path],
    *,
    root: Path | None = None,
    camera: str = "",
    time: float | None = None,
    people: People = "none",
) -> Items:
    """Picture files, as :func:`from_folder`."""
    items, unnamed = [], 0
    for path in paths:
        stem = _text(path.stem)
        market = MARKET_NAME.match(stem)
        person, folders = "", []
        if people == "folder" and root is not None:
            person, *folders = [*map(_text, path.relative_to(root).parts[:-1])] or [""]
        own = camera_of(stem, folders)
        own = camera_number(own) or own
        # 000_c4f3 is no name of a person and a camera; -1 is junk, 0 a distractor.
        if people == "name" and own and market and int(market["pid"]) > 0:
            person = market["pid"]
        unnamed += not (camera or own)
        try:
            item = Item(
                path,
                camera=camera or own,
                time=time,
                frame=f"s{market['seq']}:{market['frame']}" if market and market["frame"] else "",
                person=person,
            )
        except InputError as error:
            raise DataError(f"{printable(_text(path))}: {error}") from error
        items.append(item)
    notes = []
    if unnamed:
        places = " or as a folder (PERSON/CAMERA/PICTURE)" if people == "folder" else ""
        notes.append(
            f"{unnamed:,} of {counted(len(items), 'picture')} {either(unnamed, 'has', 'have')} no "
            f"camera in the name (_c3 or _cam3){places}; --camera names one for all, a CSV file "
            "one for each."
        )
    return Items(items, notes)


def from_csv(
    path: Path, *, camera: str = "", time: float | None = None, zone: tzinfo = timezone.utc
) -> Items:
    """A list of pictures: a header line with ``path`` and any of the other ``COLUMNS``.

    ``camera`` and ``time`` (seconds since 1970 UTC) are of the rows that say none.

    ``path`` is relative to the CSV file.  ``time`` is ISO 8601 (without an offset: in ``zone``)
    or seconds since 1970.  ``frame`` is any word: equal ones of one camera were seen together.
    ``box`` is "left top right bottom" in pixels of the frame that the picture was cut from.
    ``quality`` is 0..1.  Other columns are passed over, and named in the notes.

    Raises:
        DataError: unreadable, no ``path`` column, one of ``COLUMNS`` by another name (``camid``),
            or rows that cannot be understood; all of them are counted and the first ones quoted,
            and nothing is added.
    """
    table = _read(path)
    items: list[Item] = []
    bad: list[str] = []
    for line, row in table:
        if not row["path"]:
            bad.append(f"line {line}: no path")
            continue
        file = path.parent / row["path"]
        try:
            items.append(
                Item(
                    file,
                    camera=row.get("camera") or camera,
                    time=parse_time(row["time"], zone) if row.get("time") else time,
                    frame=row.get("frame", ""),
                    track=row.get("track", ""),
                    box=_box(row["box"]) if row.get("box") else None,
                    quality=_quality(row["quality"]) if row.get("quality") else None,
                    person=row.get("person", ""),
                )
            )
        except InputError as error:
            bad.append(f"line {line}: {error}")
    if bad:
        raise DataError(
            f"{path}: {len(bad):,} of {counted(len(table), 'row')} cannot be understood. "
            + " ".join(bad[:3])
            + (" ..." if len(bad) > 3 else "")
        )
    if not items:
        raise DataError(f"{path} lists no pictures: it has a header only.")
    other = [c for c in table.columns if c and c not in COLUMNS]
    notes = [f"columns that are not read: {', '.join(other)}"] if other else []
    return Items(items, notes)


def _read(path: Path) -> Table:
    table = read_table(path)
    for name in table.columns:
        if name in COLUMNS:
            continue
        close = [own for own, others in _ELSEWHERE.items() if name in others]
        close = close or difflib.get_close_matches(name, COLUMNS, 1, 0.75)
        if close and close[0] not in table.columns:
            raise DataError(f"{path} has a column {name!r}; is {close[0]!r} meant? Rename it.")
    if "path" not in table.columns:
        raise DataError(
            f"{path} needs a header line with path, and may have {', '.join(COLUMNS[1:])}; "
            f"got {', '.join(table.columns[:8]) or 'an empty file'}."
        )
    return table


def _box(text: str) -> tuple[float, float, float, float]:
    left, top, right, bottom = _floats(text.replace(",", " ").split(), 4, f"box {text!r}")
    return left, top, right, bottom


def _quality(text: str) -> float:
    (value,) = _floats([text], 1, f"quality {text!r}")
    return value


def _floats(words: Sequence[str], count: int, what: str) -> list[float]:
    read: Callable[[str], float] = float
    try:
        numbers = [read(w) for w in words]
    except ValueError:
        numbers = []
    if len(numbers) != count or not all(map(math.isfinite, numbers)):
        raise InputError(f"{what} must be {count} number{'s' if count > 1 else ''}.")
    return numbers


def _text(path: Path | str) -> str:
    """A path as text that can be stored: bytes that are no UTF-8 become question marks."""
    return os.fsencode(path).decode("utf-8", "replace")
