"""What lies in a folder: where a set's home is, its named pictures, its lists.

Everything is sorted, so that the same folder gives the same data set on every file system.
"""

from __future__ import annotations

import csv
import hashlib
import io
import itertools
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from crosscam.data.findings import Finding, finding
from crosscam.errors import DataError
from crosscam.files import write_atomically
from crosscam.pictures import image_files
from crosscam.types import Sample
from crosscam.wording import any_of, counted, either

__all__ = [
    "find_home",
    "named_samples",
    "read_lines",
    "require_new_list",
    "shuffled",
    "split_folder",
    "write_list",
]

_ARCHIVES = (".zip", ".tar", ".gz", ".tgz", ".rar", ".7z")


def find_home(name: str, root: Path, needs: Sequence[str], wrappers: Sequence[str] = ()) -> Path:
    """The folder that holds any of ``needs``: ``root`` itself or one of the known wrappers in it.

    Sets are handed out wrapped in a folder of their own (``Market-1501-v15.09.15``), and people
    point at either; wrappers may be nested twice.

    Raises ``DataError`` that says where was looked and what was found instead.
    """
    if not root.exists():
        raise DataError(
            f"{name}: there is no folder {root}. Give the folder that holds {any_of(needs)}."
        )
    if not root.is_dir():
        hint = " Unpack the archive first." if root.suffix.lower() in _ARCHIVES else ""
        raise DataError(
            f"{name}: {root} is a file, but a folder that holds {any_of(needs)} is needed.{hint}"
        )
    inner = [root / w for w in wrappers]
    inner += [root / a / b for a, b in itertools.permutations(wrappers, 2)]
    for home in (root, *inner):
        if any((home / n).exists() for n in needs):
            return home
    children = sorted(p.name for p in root.iterdir() if not p.name.startswith("."))
    found = ", ".join(children[:8]) + (" ..." if len(children) > 8 else "") or "nothing"
    nested = [c for c in children if any((root / c / n).exists() for n in needs)]
    fix = (
        f"Give {root / nested[0]} instead."
        if nested
        else "Give the folder that holds them; the layout of every set is in docs/data.md."
    )
    raise DataError(f"{name}: {root} holds {found}, but {any_of(needs)} is needed. {fix}")


def split_folder(home: Path, names: Sequence[str]) -> Path:
    """The first of ``names`` that is a folder in ``home``; the first name where none is."""
    return next((home / n for n in names if (home / n).is_dir()), home / names[0])


def named_samples(
    folder: Path,
    pattern: re.Pattern[str],
    form: str,
    findings: list[Finding],
    *,
    camid: int = 0,
    deep: bool = False,
) -> tuple[Sample, ...]:
    """Samples of the image files whose name says who is shown and from which camera.

    ``pattern`` has a group ``pid`` and may have a group ``cam`` (else ``camid`` is taken).  Names
    that do not fit are reported as one finding that quotes ``form``.
    """
    samples: list[Sample] = []
    unknown: list[str] = []
    has_camera = "cam" in pattern.groupindex
    for path in image_files(folder, deep=deep):
        m = pattern.match(path.name)
        if m is None:
            unknown.append(path.name)
            continue
        samples.append(Sample(path, int(m["pid"]), int(m["cam"]) if has_camera else camid))
    if unknown:
        findings.append(
            finding(
                "error",
                "unknown-name",
                f"{counted(len(unknown), 'image file')} in {folder} "
                f"{either(len(unknown), 'has', 'have')} a name that does not say who is shown.",
                f"Names of this set look like {form}.",
                "Move these files away; read your own pictures with the set 'folder' or 'csv'.",
                unknown,
            )
        )
    return tuple(samples)


def read_lines(path: Path) -> list[str]:
    """The lines of a text file that are not blank, stripped; ``DataError`` if it is unreadable."""
    try:
        text = path.read_text(encoding="utf-8-sig", errors="replace")
    except OSError as error:
        raise DataError(
            f"the list {path} cannot be read ({error.strerror}). It comes with the data set: "
            "unpack it beside the images."
        ) from error
    return [line.strip() for line in text.splitlines() if line.strip()]


def shuffled(keys: Iterable[str], seed: int) -> list[str]:
    """``keys`` in an order that depends on ``seed`` and on each key alone.

    Sorted by a hash, not by a random generator: the same on every machine and version, and adding
    a key moves no other key before or behind another.
    """

    def place(key: str) -> bytes:
        return hashlib.blake2b(f"{seed}:{key}".encode("utf-8", "surrogateescape")).digest()

    return sorted(keys, key=place)


def require_new_list(path: Path) -> None:
    """Refuse a file name that is taken, or that no list is read from."""
    if path.suffix.lower() != ".csv" or path.exists():
        what = "is there already" if path.exists() else "does not end in .csv"
        raise DataError(f"{path} {what}: give the list another name.")


def write_list(path: Path, columns: Sequence[str], rows: Iterable[Sequence[str | int]]) -> None:
    """Write a CSV file with a header line, as the set ``csv`` reads it; its folder is made.

    Raises ``DiskError`` if it cannot be written.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(rows)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, text.getvalue())
