"""Your own pictures: one folder per person, or a list in a CSV file.

Persons may have any name; they become numbers.  Cameras are optional: without them nothing is
left out of a ranking.  Where no split is given, one is made that depends only on the names and
a seed, and that keeps every person on one side.
"""

from __future__ import annotations

import difflib
import os
import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from crosscam.data.findings import Finding, Parsed, finding, row
from crosscam.data.listing import shuffled
from crosscam.errors import DataError
from crosscam.pictures import camera_number, camera_of, image_files, person_and_camera
from crosscam.table import Table, read_header, read_table
from crosscam.types import DISTRACTOR_PID, JUNK_PID, Dataset, Protocol, Sample
from crosscam.wording import counted, either

__all__ = ["from_csv", "from_folder", "make_split"]

Cameras = Literal["auto", "none"]
SPLITS = ("train", "query", "gallery")

_FOLDERS = {
    "train": ("train", "bounding_box_train", "image_train"),
    "query": ("query", "probe", "image_query"),
    "gallery": ("gallery", "test", "bounding_box_test", "image_test"),
}
_CAMERA_COLUMN = re.compile(r"cam(?:era)?s?(?:[ _-]?(?:id|no|nr|number|name))?", re.IGNORECASE)


@dataclass(frozen=True)
class _Entry:
    """A picture as named by its owner."""

    path: Path
    key: str  # its place below the root, with '/', for splits that are the same everywhere
    person: str
    camera: str  # "" where unknown
    split: str  # "" where none is given


def from_folder(
    root: Path,
    *,
    train_fraction: float = 0.5,
    query_fraction: float = 0.25,
    seed: int = 0,
    cameras: Cameras = "auto",
) -> Parsed:
    """Own pictures in folders: ``root/PERSON/*.jpg``, or the same below train, query and gallery.

    The camera is the folder between person and picture (``alice/cam2/1.jpg``; of several, the one
    named like that) or stands in the name (``alice/x_c2_1.jpg``); ``cameras="none"`` reads none.
    In a split folder, pictures may also lie flat with names like ``0002_c1_....jpg``.  Without
    split folders the persons are split: ``train_fraction`` of them train, and of the others
    ``query_fraction`` of the images ask (at least one each, and only such as have a match).
    """
    if not root.is_dir():
        raise DataError(
            f"folder: {root} is {'a file' if root.exists() else 'not there'}. Give a folder that "
            "holds one folder per person."
        )
    findings: list[Finding] = []
    by_lower = {p.name.lower(): p for p in root.iterdir() if p.is_dir()}
    split_folders = {
        split: by_lower[n] for split, names in _FOLDERS.items() for n in names if n in by_lower
    }
    entries: list[_Entry] = []
    if split_folders:
        used = set(split_folders.values())
        unread = sorted(
            p.name for p in by_lower.values() if p not in used and not p.name.startswith(".")
        )
        if unread:
            findings.append(
                finding(
                    "warning",
                    "unread-folder",
                    f"{counted(len(unread), 'folder')} beside {', '.join(p.name for p in used)} "
                    f"{either(len(unread), 'is', 'are')} not read.",
                    "Where there are split folders, every picture belongs in one.",
                    "Move these folders into train, query or gallery.",
                    unread,
                )
            )
        for split, base in split_folders.items():
            entries += _person_folders(root, base, split, findings)
    else:
        entries = _person_folders(root, root, "", findings)
    return _assemble(
        "folder", root, entries, findings, cameras, train_fraction, query_fraction, seed
    )


def from_csv(
    root: Path,
    *,
    train_fraction: float = 0.5,
    query_fraction: float = 0.25,
    seed: int = 0,
    cameras: Cameras = "auto",
) -> Parsed:
    """Own pictures in a list: columns ``path,pid`` and, if known, ``camid`` and ``split``.

    ``root`` is the CSV file, or a folder with one such file.  Paths are relative to the file's
    folder.  ``split`` is train, query or gallery; without that column persons are split as for
    ``from_folder``.  Other columns are passed over.  ``cameras="none"`` ignores ``camid``.
    """
    path = _csv_file(root)
    table = _read(path)
    _require_columns(path, table, cameras)
    findings: list[Finding] = []
    entries: list[_Entry] = []
    bad: dict[str, list[str]] = defaultdict(list)
    for line, cells in table:
        get = {name: cells.get(name, "") for name in ("path", "pid", "camid", "split")}
        get["split"] = get["split"].lower()
        if not get["path"] or not get["pid"]:
            bad["blank"].append(f"line {line}")
            continue
        if "split" in table.columns and get["split"] not in SPLITS:
            bad["split"].append(f"line {line} ({get['split'] or 'blank'})")
            continue
        file = path.parent / get["path"]
        if not os.path.isfile(file):  # noqa: PTH113 a third of the time of Path.is_file
            file = path.parent / get["path"].replace("\\", "/")
            if not file.is_file():
                bad["file"].append(get["path"])
                continue
        entries.append(_Entry(file, get["path"], get["pid"], get["camid"], get["split"]))
    rows = counted(len(table), "row")
    if bad["blank"]:
        findings.append(
            finding(
                "error",
                "blank-cell",
                f"{len(bad['blank']):,} of {rows} of {path} "
                f"{either(len(bad['blank']), 'has', 'have')} no path or no pid.",
                "Every row needs both.",
                "Fill them in, or remove the rows.",
                bad["blank"],
            )
        )
    if bad["split"]:
        word = bad["split"][0].partition("(")[2].rstrip(")")
        close = {"test": "gallery", "probe": "query"}.get(word) or next(
            iter(difflib.get_close_matches(word, SPLITS, 1)), ""
        )
        findings.append(
            finding(
                "error",
                "unknown-split",
                f"{len(bad['split']):,} of {rows} of {path} "
                f"{either(len(bad['split']), 'has', 'have')} a split that is not known.",
                "split is train, query or gallery.",
                (f"Did you mean {close!r}? " if close else "")
                + "Correct the rows, or leave the column out to have persons split.",
                bad["split"],
            )
        )
    if bad["file"]:
        findings.append(
            finding(
                "error",
                "missing-file",
                f"{len(bad['file']):,} of {counted(len(table), 'file')} that {path} names "
                f"{either(len(bad['file']), 'does', 'do')} not exist.",
                f"Paths are relative to the folder of the CSV file ({path.parent.resolve()}).",
                "Correct the paths, or put the CSV file where they start.",
                bad["file"],
            )
        )
    return _assemble("csv", path, entries, findings, cameras, train_fraction, query_fraction, seed)


# --- reading --------------------------------------------------------------------------------------


def _person_folders(root: Path, base: Path, split: str, findings: list[Finding]) -> list[_Entry]:
    entries: list[_Entry] = []
    empty: list[str] = []

    def add(path: Path, person: str, camera: str) -> None:
        entries.append(_Entry(path, path.relative_to(root).as_posix(), person, camera, split))

    for person in sorted(p for p in base.iterdir() if p.is_dir() and not p.name.startswith(".")):
        files = image_files(person, deep=True)
        if not files:
            empty.append(person.name)
        for path in files:
            add(path, person.name, camera_of(path.stem, path.relative_to(person).parts[:-1]))
    flat = image_files(base)
    unknown: list[str] = []
    for path in flat:
        who, camera = person_and_camera(path.stem)
        if split and who:
            add(path, who, camera)
        else:
            unknown.append(path.name)
    if unknown:
        findings.append(
            finding(
                "error",
                "unknown-name",
                f"{counted(len(unknown), 'image file lies', 'image files lie')} in {base} itself "
                f"{either(len(unknown), 'and does not', 'and do not')} say who is shown.",
                "Pictures lie in one folder per person"
                + (", or are named like 0002_c1_0007.jpg (person, camera)." if split else "."),
                "Sort them into folders, or write a CSV with path and pid and read it as 'csv'.",
                unknown,
            )
        )
    if empty:
        findings.append(
            finding(
                "warning",
                "empty-folder",
                f"{counted(len(empty), 'person folder')} in {base} "
                f"{either(len(empty), 'holds', 'hold')} no image.",
                "A person needs at least one image.",
                "Add images or remove the folders.",
                empty,
            )
        )
    return entries


def _csv_file(root: Path) -> Path:
    if root.is_file():
        return root
    if not root.exists():
        raise DataError(f"csv: there is no file {root}. Give a CSV file with columns path,pid.")
    files = sorted(p for p in root.iterdir() if p.suffix.lower() == ".csv")
    fitting = [p for p in files if {"path", "pid"} <= set(read_header(p))]
    if len(fitting) == 1:
        return fitting[0]
    names = ", ".join(p.name for p in fitting or files) or "none"
    raise DataError(
        f"csv: {root} is a folder with {len(fitting)} CSV files that have the columns path and pid "
        f"({names}), but one is needed. Give the file itself."
    )


def _read(path: Path) -> Table:
    table = read_table(path)
    columns = table.columns
    if not columns:
        raise DataError(f"{path} is empty. It needs a header line: path,pid,camid,split.")
    lacking = [c for c in ("path", "pid") if c not in columns]
    if lacking:
        close = difflib.get_close_matches(lacking[0], columns, 1, 0.4)
        shown = ", ".join(columns[:8]) + (" ..." if len(columns) > 8 else "")
        raise DataError(
            f"{path} has the columns {shown}, but no {' and no '.join(lacking)}. "
            "The first line must be a header with path and pid, and may have camid and split."
            + (f" Is {close[0]!r} meant to be {lacking[0]!r}?" if close else "")
        )
    return table


def _require_columns(path: Path, table: Table, cameras: Cameras) -> None:
    """Refuse a list whose cameras or splits stand in columns of other names.

    Without them it would be split anew and ranked without the camera rule, and look fine.
    """
    others = [c for c in table.columns if c not in ("path", "pid", "camid", "split")]
    cells = {c: {row[c].lower() for _, row in table} - {""} for c in others}
    splits = {*SPLITS, "test", "probe", "val", "valid", "validation"}
    for name, like, otherwise in (
        (
            "camid",
            [c for c in others if _CAMERA_COLUMN.fullmatch(c) and cells[c]],
            "pass cameras=none to use no cameras",
        ),
        (
            "split",
            [c for c in others if len(cells[c]) > 1 and cells[c] <= splits],
            "remove it to have persons split",
        ),
    ):
        unused = name in table.columns or (name == "camid" and cameras == "none")
        if like and not unused:
            raise DataError(
                f"{path} has the column {like[0]!r}, but none called {name!r}. Is it meant to be "
                f"that? Rename it, or {otherwise}."
            )


# --- numbers, cameras, splits ---------------------------------------------------------------------


def _assemble(
    name: str,
    root: Path,
    entries: Sequence[_Entry],
    findings: list[Finding],
    cameras: Cameras,
    train_fraction: float,
    query_fraction: float,
    seed: int,
) -> Parsed:
    for option, value in (("train_fraction", train_fraction), ("query_fraction", query_fraction)):
        if not 0 <= value <= 1:
            raise DataError(f"{name}: {option}={value} was asked for; it is between 0 and 1.")
    camids = [0] * len(entries)
    if cameras == "auto":
        camids = _camera_numbers(entries, findings)
    entries, camids, twice = _once(entries, camids)
    if twice:
        findings.append(
            finding(
                "warning",
                "listed-twice",
                f"{counted(len(twice), 'file is', 'files are')} listed more than once in a split.",
                "A file counts once.",
                "Remove the repeated rows.",
                twice,
            )
        )
    rule: Literal["drop", "keep"] = "drop" if len(set(camids)) > 1 else "keep"
    pids = _person_numbers(entries)
    samples = [
        Sample(e.path, pids[e.person], camid) for e, camid in zip(entries, camids, strict=True)
    ]
    variant = "" if rule == "drop" else "no camera rule"
    if entries and not any(e.split for e in entries):
        parts = make_split(
            [(e.key, s) for e, s in zip(entries, samples, strict=True)],
            train_fraction,
            query_fraction,
            seed,
            rule,
        )
        made = f"split by persons, train {train_fraction:g}, query {query_fraction:g}, seed {seed}"
        variant = ", ".join(filter(None, (made, variant)))
    else:
        parts = {
            split: tuple(s for e, s in zip(entries, samples, strict=True) if e.split == split)
            for split in SPLITS
        }
    return Parsed(
        Dataset(
            name,
            root,
            parts["train"],
            parts["query"],
            parts["gallery"],
            Protocol(same_camera=rule),
            variant,
        ),
        tuple(row(split, parts[split]) for split in SPLITS),
        tuple(findings),
    )


def _once(
    entries: Sequence[_Entry], camids: Sequence[int]
) -> tuple[list[_Entry], list[int], list[Path]]:
    """The entries and cameras without what was there before; and the files that were there again.

    A file that comes again as somebody else, or from another camera, stays.
    """
    seen: set[tuple[str, str, str, int]] = set()
    kept: list[_Entry] = []
    cameras: list[int] = []
    twice: list[Path] = []
    for e, camid in zip(entries, camids, strict=True):
        what = (os.path.normpath(e.path), e.split, e.person, camid)
        if what in seen:
            twice.append(e.path)
            continue
        seen.add(what)
        kept.append(e)
        cameras.append(camid)
    return kept, cameras, twice


def _camera_numbers(entries: Sequence[_Entry], findings: list[Finding]) -> list[int]:
    """Camera ids: the number in the label where every label has one, else its place when sorted.

    Labels with the same number are one camera: 1, 01 and cam1.
    """
    named = [e for e in entries if e.camera]
    if not named:
        return [0] * len(entries)
    if len(named) < len(entries):
        lacking = [e.key for e in entries if not e.camera]
        findings.append(
            finding(
                "error",
                "camera-for-some",
                f"{len(lacking):,} of {counted(len(entries), 'image')} "
                f"{either(len(lacking), 'has', 'have')} no camera, the others have one.",
                "Cameras must be known for all images or for none.",
                "Add the missing cameras, or pass cameras=none to ignore them all.",
                lacking,
            )
        )
    labels = sorted({e.camera for e in named})
    numbers = {x: int(digits) for x in labels if (digits := camera_number(x))}
    if len(numbers) < len(labels):
        numbers = {x: i for i, x in enumerate(labels, start=1)}
    return [numbers.get(e.camera, 0) for e in entries]


def _person_numbers(entries: Sequence[_Entry]) -> dict[str, int]:
    """A number for every person's name.

    Whole numbers stay as they are: -1 is junk, and 0 a distractor if it occurs in the gallery
    only.  Names, or numbers where 0 is a person, become 1, 2, ... in sorted order.
    """
    names = {e.person for e in entries}
    if all(re.fullmatch(r"-1|\d{1,9}", n) for n in names):
        numbers = {n: int(n) for n in names}
        zero_is_person = any(
            numbers[e.person] == DISTRACTOR_PID and e.split != "gallery" for e in entries
        )
        if len(set(numbers.values())) == len(names) and not zero_is_person:
            return numbers
        order = sorted(names - {str(JUNK_PID)}, key=lambda n: (numbers[n], n))
        return {str(JUNK_PID): JUNK_PID} | {n: i for i, n in enumerate(order, start=1)}
    return {n: i for i, n in enumerate(sorted(names), start=1)}


def make_split(
    named: Sequence[tuple[str, Sample]],
    train_fraction: float,
    query_fraction: float,
    seed: int,
    same_camera: Literal["drop", "keep"],
) -> dict[str, tuple[Sample, ...]]:
    """Split (name, sample) pairs by persons: no person is on both sides.

    ``round(train_fraction * persons)`` persons train.  Of every other person at most
    ``query_fraction`` of the images (but at least one) become queries, each only if the gallery
    keeps a match for it and for the queries before it; the rest is gallery.  Depends on names and
    seed alone, not on the order given.
    """
    images: dict[int, dict[str, Sample]] = defaultdict(dict)
    for name, sample in named:
        images[sample.pid][name] = sample
    # A person is known by the name of the first image, which a renumbering does not change.
    persons = {min(of): pid for pid, of in images.items() if pid not in (JUNK_PID, DISTRACTOR_PID)}
    order = shuffled(persons, seed)
    in_train = set(order[: round(train_fraction * len(order))])
    parts: dict[str, list[tuple[str, Sample]]] = {split: [] for split in SPLITS}
    special = [images[pid] for pid in (JUNK_PID, DISTRACTOR_PID) if pid in images]
    parts["gallery"] = [item for of in special for item in of.items()]
    for first, pid in persons.items():
        of = images[pid]
        if first in in_train:
            parts["train"] += of.items()
            continue
        chosen: set[str] = set()
        wanted = max(1, round(query_fraction * len(of)))
        for name in shuffled(of, seed):
            if len(chosen) == wanted:
                break
            queries = chosen | {name}
            left = [s.camid for n, s in of.items() if n not in queries]
            if all(
                left if same_camera == "keep" else any(c != of[q].camid for c in left)
                for q in queries
            ):
                chosen = queries
        parts["query"] += [(n, s) for n, s in of.items() if n in chosen]
        parts["gallery"] += [(n, s) for n, s in of.items() if n not in chosen]
    return {
        split: tuple(s for _, s in sorted(items, key=lambda x: x[0]))
        for split, items in parts.items()
    }
