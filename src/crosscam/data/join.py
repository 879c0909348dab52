"""Several data sets as one list to train on, with the test pictures of the first of them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from crosscam.data.listing import require_new_list, write_list
from crosscam.errors import DataError
from crosscam.types import DISTRACTOR_PID, JUNK_PID, Dataset, Protocol, Sample

__all__ = ["COLUMNS", "join"]

COLUMNS = ("path", "pid", "camid", "split", "set", "set_pid", "set_camid")
"""Of the list; the last three say what the picture is called at home, and nobody reads them."""


def join(sets: Sequence[Dataset], path: Path, *, test: bool = True) -> dict[str, int]:
    """Write a CSV file of the training pictures of all ``sets`` and the test pictures of the first.

    It is read as the data set ``csv``.  Person and camera ids are counted on from set to set, so
    that those of different sets never meet; junk and distractors of the test pictures stay what
    they are.  Paths are absolute.

    Args:
        sets: two or more, in the order in which they are counted.
        path: the file to write, ending in .csv; one that is there is not replaced.
        test: whether query and gallery of the first set go along.

    Returns:
        How many pictures of each split were written.

    Raises:
        DataError: fewer than two sets, one without training pictures, one twice, a file that is
            there or no ``.csv``, or test pictures whose rankings follow other rules than
            Market-1501's (a list has no place for them).
        DiskError: the file cannot be written.
    """
    if len(sets) < 2:
        raise DataError(f"joining takes two data sets or more, got {len(sets)}.")
    require_new_list(path)
    folders = [(s.name, s.variant, s.root.resolve()) for s in sets]
    if len(set(folders)) < len(folders):
        raise DataError("a data set stands twice among those to join: name each once.")
    if test and sets[0].protocol != Protocol():
        raise DataError(
            f"rankings of {sets[0].title} follow rules of their own, which a list cannot hold: "
            "join without its test pictures (--no-test) and measure with `crosscam evaluate RUN "
            "--data ...`."
        )
    rows: list[list[str | int]] = []
    numbers = _Numbers()
    count = {"train": 0, "query": 0, "gallery": 0}
    for number, dataset in enumerate(sets):
        splits = {"train": dataset.require_train()}
        if test and not number:
            query, gallery = dataset.require_test()
            splits |= {"query": query, "gallery": gallery}
        label = f"{number + 1} {dataset.title}"
        for split, samples in splits.items():
            count[split] += len(samples)
            rows += [numbers.row(sample, split, label) for sample in samples]
    write_list(path, COLUMNS, rows)
    return count


class _Numbers:
    """Persons and cameras of all sets, counted from 1 as they come."""

    def __init__(self) -> None:
        self.people: dict[tuple[str, int], int] = {}
        self.cameras: dict[tuple[str, int], int] = {}

    def row(self, sample: Sample, split: str, label: str) -> list[str | int]:
        pid = sample.pid
        if pid not in (JUNK_PID, DISTRACTOR_PID):
            pid = self.people.setdefault((label, pid), len(self.people) + 1)
        camid = self.cameras.setdefault((label, sample.camid), len(self.cameras) + 1)
        path = str(sample.path.resolve())
        return [path, pid, camid, split, label, sample.pid, sample.camid]
