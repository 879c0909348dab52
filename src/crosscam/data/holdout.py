"""Some people of a training set kept out of it, to be measured on while nothing is final.

Who chooses settings on the official test set has no test set left.  The official query and gallery
stay unseen when choices are made on people who were kept out of the training pictures.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from crosscam.errors import DataError
from crosscam.files import write_atomically
from crosscam.types import Dataset, Sample
from crosscam.wording import counted

__all__ = ["hold_out"]


def hold_out(
    dataset: Dataset, path: Path, *, people: int | None = None, seed: int = 0
) -> dict[str, int]:
    """Write a CSV file of the training pictures of ``dataset``, some people's as query and gallery.

    It is read as the data set ``csv`` and judged by Market-1501's rule.  Of those people the first
    picture of each camera, by path, is a query, all others are the gallery; where that would make
    more queries than gallery pictures, the first picture of each person.  Where cameras are not
    known (or same_camera=keep), it is the first picture of each person too, and the list has no
    cameras.  The official test pictures do not appear.  Paths are relative where the pictures lie
    below the list's folder.

    Args:
        dataset: with training pictures.
        path: the file to write, ending in .csv; one that is there is not replaced.
        people: how many are kept out; None takes a fifth.
        seed: of their choice, by ``numpy.random.default_rng(seed).choice``.

    Returns:
        How many pictures of each split were written.

    Raises:
        DataError: no training pictures, fewer than two people left on a side, a negative seed, or a
            file that is there or no ``.csv``.
        DiskError: the file cannot be written.
    """
    if path.suffix.lower() != ".csv" or path.exists():
        what = "is there already" if path.exists() else "does not end in .csv"
        raise DataError(f"{path} {what}: give the list another name.")
    if seed < 0:
        raise DataError(f"the seed of the choice must be 0 or more, got {seed}.")
    samples = dataset.require_train()
    pids = sorted({sample.pid for sample in samples})
    people = len(pids) // 5 if people is None else people
    if not 2 <= people <= len(pids) - 2:
        raise DataError(
            f"{dataset.title} has {counted(len(pids), 'person', 'people')} to train on, and "
            f"{people} of them cannot be kept out: two or more must be on each side."
        )
    out = set(np.random.default_rng(seed).choice(pids, people, replace=False).tolist())
    cameras = dataset.protocol.same_camera == "drop"
    held = sorted((s for s in samples if s.pid in out), key=lambda s: s.path.as_posix())
    queries = _first(held, by_camera=cameras)
    if len(queries) > len(held) - len(queries):
        queries = _first(held, by_camera=False)
    here = path.parent.absolute()  # links stay: another copy may lie behind them tomorrow
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["path", "pid", *(["camid"] if cameras else []), "split"])
    count = {"train": 0, "query": 0, "gallery": 0}
    for sample in samples:
        asks = "query" if sample.path in queries else "gallery"
        split = asks if sample.pid in out else "train"
        count[split] += 1
        place = sample.path.absolute()
        name = place.relative_to(here).as_posix() if place.is_relative_to(here) else str(place)
        writer.writerow([name, sample.pid, *([sample.camid] if cameras else []), split])
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, text.getvalue())
    return count


def _first(samples: Sequence[Sample], *, by_camera: bool) -> set[Path]:
    """The first picture of every person, or of every person in every camera."""
    first: dict[tuple[int, int], Path] = {}
    for sample in samples:
        first.setdefault((sample.pid, sample.camid if by_camera else 0), sample.path)
    return set(first.values())
