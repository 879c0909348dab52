"""Some people of a training set kept out of it, to be measured on while nothing is final.

Who chooses settings on the official test set has no test set left.  The official query and gallery
stay unseen when choices are made on people who were kept out of the training pictures.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from crosscam.data.findings import printable
from crosscam.data.listing import require_new_list, write_list
from crosscam.errors import DataError
from crosscam.types import Dataset, Sample
from crosscam.wording import counted, either

__all__ = ["HeldOut", "hold_out"]


@dataclass(frozen=True)
class HeldOut:
    """How many pictures of each split a list has; ``unmatched`` queries have no right answer."""

    train: int
    query: int
    gallery: int
    unmatched: int

    def text(self) -> str:
        """A line for a terminal."""
        without = (
            f" ({self.unmatched:,} of the queries {either(self.unmatched, 'has', 'have')} no match "
            "and will not be counted)"
        )
        return (
            f"{self.train:,} train, {self.query:,} query, {self.gallery:,} gallery pictures"
            f"{without if self.unmatched else ''}"
        )


def hold_out(dataset: Dataset, path: Path, *, people: int | None = None, seed: int = 0) -> HeldOut:
    """Write a CSV file of the training pictures of ``dataset``, some people's as query and gallery.

    It is read as the data set ``csv`` and judged by Market-1501's rule.  Of those people the first
    picture of each camera, by path, is a query and all others are the gallery; or the first picture
    of each person, where more queries have a match then (one picture a camera).  Where cameras are
    not known (or same_camera=keep) it is the first picture of each person, and the list has no
    cameras.  The official test pictures do not appear.  Paths are relative where the pictures lie
    below the list's folder.

    Args:
        dataset: with training pictures.
        path: the file to write, ending in .csv; one that is there is not replaced.
        people: how many are kept out; None takes a fifth, two at least.
        seed: of their choice, by ``numpy.random.default_rng(seed).choice``.

    Raises:
        DataError: no training pictures, fewer than two people left on a side, nobody kept out with
            a picture that another one could find, a negative seed, a file name that is no text, or
            a list that is there or no ``.csv``.
        DiskError: the file cannot be written.
    """
    require_new_list(path)
    if seed < 0:
        raise DataError(f"the seed of the choice must be 0 or more, got {seed}.")
    samples = dataset.require_train()
    pids = sorted({sample.pid for sample in samples})
    people = max(2, len(pids) // 5) if people is None else people
    if not 2 <= people <= len(pids) - 2:
        raise DataError(
            f"{dataset.title} has {counted(len(pids), 'person', 'people')} to train on, and "
            f"{people} of them cannot be kept out: two or more must be on each side."
        )
    out = set(np.random.default_rng(seed).choice(pids, people, replace=False).tolist())
    cameras = dataset.protocol.same_camera == "drop"
    held = sorted((s for s in samples if s.pid in out), key=lambda s: s.path.as_posix())
    ways = [_first(held, by_camera=way) for way in ([True, False] if cameras else [False])]
    of_ways = [(_matched(held, queries, cameras), queries) for queries in ways]
    matched, queries = max(of_ways, key=lambda way: way[0])  # the first of equals
    if not matched:
        raise DataError(
            f"of the {people} people kept out nobody has two pictures "
            f"{'in different cameras' if cameras else 'or more'}, so no query has a match. "
            + (
                "--option same_camera=keep makes every match count."
                if cameras
                else "Keep out others."
            )
        )
    rows: list[list[str | int]] = []
    count = Counter[str]()
    for sample in samples:
        split = "train" if sample.pid not in out else "query" if sample in queries else "gallery"
        count[split] += 1
        name = _name(sample.path, path.parent)
        rows.append([name, sample.pid, *([sample.camid] if cameras else []), split])
    write_list(path, ["path", "pid", *(["camid"] if cameras else []), "split"], rows)
    return HeldOut(count["train"], len(queries), count["gallery"], len(queries) - matched)


def _first(samples: Sequence[Sample], *, by_camera: bool) -> set[Sample]:
    """The first picture of every person, or of every person in every camera."""
    first: dict[tuple[int, int], Sample] = {}
    for sample in samples:
        first.setdefault((sample.pid, sample.camid if by_camera else 0), sample)
    return set(first.values())


def _matched(samples: Sequence[Sample], queries: set[Sample], cameras: bool) -> int:
    """How many queries find a gallery picture of their person, in another camera if there are."""
    gallery = [s for s in samples if s not in queries]
    of_person = Counter(s.pid for s in gallery)
    of_camera = Counter((s.pid, s.camid) for s in gallery)
    return sum(of_person[q.pid] > (of_camera[q.pid, q.camid] if cameras else 0) for q in queries)


def _name(picture: Path, folder: Path) -> str:
    """What the list calls a picture: below its folder where it lies there.  Links stay links."""
    place, here = picture.absolute(), folder.absolute()
    name = place.relative_to(here).as_posix() if place.is_relative_to(here) else str(place)
    if name != name.strip():  # who reads a list drops blanks around a cell
        name = str(place)
    try:
        name.encode("utf-8")
    except UnicodeEncodeError as error:
        raise DataError(
            f"the name of {printable(str(picture))} is no text, and a list cannot hold it. Rename "
            "the file."
        ) from error
    return name
