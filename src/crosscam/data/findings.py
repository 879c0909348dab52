"""What a parser hands over, and the rules every data set must keep.

A parser reads a folder into ``Parsed``: the ``Dataset``, the counts it found beside the counts it
should have found, and what it could not read.  ``inspect`` adds what can be said without opening
a picture; ``crosscam.data.check`` adds what takes opening them.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from crosscam.types import DISTRACTOR_PID, JUNK_PID, Dataset, Sample
from crosscam.wording import counted, either

__all__ = [
    "Count",
    "Finding",
    "Level",
    "Parsed",
    "Row",
    "count",
    "finding",
    "inspect",
    "printable",
    "row",
    "splits",
]

Level = Literal["error", "warning", "info"]

MAX_EXAMPLES = 5


@dataclass(frozen=True)
class Finding:
    """One thing worth saying about a data set: what came, what is needed, what to do."""

    level: Level
    kind: str  # short name for programs: "wrong-count", "unknown-name"
    found: str
    needed: str  # needed and fix may be empty where nothing is wrong
    fix: str
    examples: tuple[str, ...] = ()  # at most MAX_EXAMPLES
    total: int = 0  # how many there are in all

    def __str__(self) -> str:
        return " ".join(filter(None, (self.found, self.needed, self.fix, self.sample())))

    def sample(self) -> str:
        """ "Examples: a, b and 7 more.", empty where there are none."""
        if not self.examples:
            return ""
        more = self.total - len(self.examples)
        tail = f" and {more:,} more." if more > 0 else "."
        return f"Examples: {', '.join(self.examples)}{tail}"

    def to_dict(self) -> dict[str, Any]:
        """The fields as plain values for JSON."""
        return {
            "level": self.level,
            "kind": self.kind,
            "found": self.found,
            "needed": self.needed,
            "fix": self.fix,
            "examples": list(self.examples),
            "total": self.total,
        }


def finding(
    level: Level,
    kind: str,
    found: str,
    needed: str = "",
    fix: str = "",
    examples: Iterable[object] = (),
) -> Finding:
    """A ``Finding`` that keeps the first few of ``examples`` and counts them all."""
    every = list(examples)
    shown = tuple(printable(str(e)) for e in every[:MAX_EXAMPLES])
    return Finding(level, kind, printable(found), needed, printable(fix), shown, len(every))


def printable(text: str) -> str:
    """File names may hold bytes that are no text; those are shown as ``\\udcf6``."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


@dataclass(frozen=True)
class Count:
    """How many persons, images and cameras; ``None`` where nobody knows.

    Junk (-1) counts neither as person nor as image, distractors (0) count as images only.
    """

    ids: int | None = None
    images: int | None = None
    cameras: int | None = None


@dataclass(frozen=True)
class Row:
    """One line of the table found/expected."""

    split: str
    found: Count
    expected: Count = Count()
    where: str = ""  # the folder or list the images come from

    @property
    def ok(self) -> bool:
        """Whether every number that is known beforehand was found."""
        return all(
            want is None or got == want
            for got, want in (
                (self.found.ids, self.expected.ids),
                (self.found.images, self.expected.images),
            )
        )


@dataclass(frozen=True)
class Parsed:
    """A data set as read, before anything was judged."""

    dataset: Dataset
    rows: tuple[Row, ...] = ()
    findings: tuple[Finding, ...] = ()
    cameras: range | None = None  # camera ids that may occur, None where any may


def count(samples: Iterable[Sample]) -> Count:
    """Persons, images and cameras of ``samples``."""
    ids: set[int] = set()
    cameras: set[int] = set()
    images = 0
    for s in samples:
        if s.pid == JUNK_PID:
            continue
        images += 1
        cameras.add(s.camid)
        if s.pid != DISTRACTOR_PID:
            ids.add(s.pid)
    return Count(len(ids), images, len(cameras))


def row(
    split: str, samples: Iterable[Sample], expected: Count | None = None, where: str = ""
) -> Row:
    """The line of the table for one split."""
    return Row(split, count(samples), expected or Count(), where)


def splits(dataset: Dataset) -> Iterator[tuple[str, tuple[Sample, ...]]]:
    """("train", samples), ("query", samples), ("gallery", samples)."""
    yield "train", dataset.train
    yield "query", dataset.query
    yield "gallery", dataset.gallery


def inspect(parsed: Parsed, *, partial: bool) -> tuple[Finding, ...]:
    """What the parser found plus every rule that can be judged without opening a picture.

    ``partial`` says that the data set is knowingly a subset, so counts need not match.
    """
    rules = (
        _nothing(parsed),
        _wrong_counts(parsed.rows, partial),
        _cameras(parsed),
        _special_ids(parsed.dataset),
        _shared_ids(parsed.dataset),
        _shared_paths(parsed.dataset),
        _unmatched_queries(parsed, partial),
        _single_images(parsed.dataset),
    )
    return parsed.findings + tuple(f for rule in rules for f in rule)


def _nothing(parsed: Parsed) -> Iterator[Finding]:
    if not any(samples for _, samples in splits(parsed.dataset)):
        yield finding(
            "error",
            "no-images",
            f"No image of {parsed.dataset.name} was found under {parsed.dataset.root}.",
            *_LAYOUTS.get(
                parsed.dataset.name,
                (
                    "At least one split with images is needed.",
                    "Check the folder against the layout in docs/data.md.",
                ),
            ),
        )


_LAYOUTS = {  # of own data: what was looked for, and what to do
    "folder": (
        "Looked for images at PERSON/IMAGE and PERSON/CAMERA/IMAGE, in the folder itself or in its "
        "folders train, query and gallery.",
        "Make one folder per person, such as alice/cam1/0001.jpg or alice/0001_c1.jpg, or write a "
        "CSV with the columns path and pid and read it as 'csv'.",
    ),
    "csv": (
        "Looked for rows under a header line with path and pid, and camid and split if known.",
        "Write a row for every image, such as alice/0001.jpg,1,1,query under the header "
        "path,pid,camid,split; paths start at the file's folder.",
    ),
}


def _wrong_counts(rows: Sequence[Row], partial: bool) -> Iterator[Finding]:
    for r in rows:
        if r.ok:
            continue
        got = _words(r.found, r.expected)
        if r.where and not Path(r.where).exists():
            got += f" ({r.where} does not exist)"
        want = _words(r.expected, r.expected)
        if partial:
            yield finding(
                "info",
                "subset",
                f"{r.split}: found {got}.",
                f"The complete set has {want}.",
                "Accepted as a subset; do not compare numbers on it with published ones.",
            )
        else:
            fewer = (r.found.images or 0) < (r.expected.images or 0)
            yield finding(
                "error",
                "wrong-count",
                f"{r.split}: found {got}.",
                f"The set has {want}.",
                (
                    "Unpack or download it again; "
                    if fewer
                    else "Remove what does not belong to it; "
                )
                + "if a subset is meant, say so with --partial (partial=True, data.partial=true).",
            )


def _words(c: Count, mask: Count) -> str:
    parts = []
    if mask.images is not None:
        parts.append(counted(c.images or 0, "image"))
    if mask.ids is not None:
        parts.append(counted(c.ids or 0, "id"))
    return " of ".join(parts)


def _cameras(parsed: Parsed) -> Iterator[Finding]:
    allowed = parsed.cameras
    if allowed is None:
        return
    bad = [s for _, samples in splits(parsed.dataset) for s in samples if s.camid not in allowed]
    if bad:
        seen = ", ".join(map(str, sorted({s.camid for s in bad})))
        yield finding(
            "error",
            "camera-out-of-range",
            f"{counted(len(bad), 'image has', 'images have')} a camera number outside the set's "
            f"own: {seen}.",
            f"Cameras of {parsed.dataset.name} run from {allowed[0]} to {allowed[-1]}.",
            "Remove files of other data sets; read your own pictures as 'folder' or 'csv'.",
            (s.path.name for s in bad),
        )


def _special_ids(dataset: Dataset) -> Iterator[Finding]:
    junk = [s for s in (*dataset.train, *dataset.query) if s.pid == JUNK_PID]
    if junk:
        yield finding(
            "error",
            "junk-outside-gallery",
            f"{counted(len(junk), 'image')} with the junk id -1 {either(len(junk), 'is', 'are')} "
            "in train or query.",
            "Junk boxes belong to the gallery, where they are left out of every ranking.",
            "Remove them from train and query.",
            (s.path.name for s in junk),
        )
    distractors = [s for s in dataset.query if s.pid == DISTRACTOR_PID]
    if distractors:
        yield finding(
            "error",
            "distractor-query",
            f"{counted(len(distractors), 'query has', 'queries have')} the distractor id 0, which "
            "matches nobody.",
            "A query needs the id of a person.",
            "Number persons from 1.",
            (s.path.name for s in distractors),
        )


def _shared_ids(dataset: Dataset) -> Iterator[Finding]:
    train = {s.pid for s in dataset.train} - {JUNK_PID, DISTRACTOR_PID}
    test = {s.pid for s in (*dataset.query, *dataset.gallery)} - {JUNK_PID, DISTRACTOR_PID}
    shared = sorted(train & test)
    if shared:
        yield finding(
            "error",
            "id-in-train-and-test",
            f"{counted(len(shared), 'id is', 'ids are')} in train and in query or gallery.",
            "A test is only fair on persons that training never saw.",
            "Keep all images of a person on one side of the split.",
            shared,
        )


def _shared_paths(dataset: Dataset) -> Iterator[Finding]:
    train = {s.path for s in dataset.train}
    query = {s.path for s in dataset.query}
    gallery = {s.path for s in dataset.gallery}
    both = sorted(train & (query | gallery))
    if both:
        yield finding(
            "error",
            "file-in-train-and-test",
            f"{counted(len(both), 'file is', 'files are')} listed in train and in query or "
            "gallery.",
            "A file belongs to one side of the split.",
            "List each file once.",
            both,
        )
    # Under the camera rule a query's own file is of its own person and camera, so it is left out.
    twice = sorted(query & gallery) if dataset.protocol.same_camera == "keep" else []
    if twice:
        yield finding(
            "error",
            "file-in-query-and-gallery",
            f"{counted(len(twice), 'file is', 'files are')} both query and gallery, and no camera "
            f"rule leaves {either(len(twice), 'it', 'them')} out.",
            "A query must not find itself.",
            "List each file once.",
            twice,
        )


def _unmatched_queries(parsed: Parsed, partial: bool) -> Iterator[Finding]:
    dataset = parsed.dataset
    if bool(dataset.query) != bool(dataset.gallery):
        have, lack = ("query", "gallery") if dataset.query else ("gallery", "query")
        yield finding(
            "warning",
            "half-a-test",
            f"There are {have} images and no {lack} images.",
            "Evaluation needs both.",
            f"Add {lack} images, or leave it: training needs neither.",
        )
    if not dataset.query or not dataset.gallery:
        return
    seen_by: dict[int, set[int]] = defaultdict(set)
    for s in dataset.gallery:
        seen_by[s.pid].add(s.camid)
    drop = dataset.protocol.same_camera == "drop"
    absent = [s for s in dataset.query if s.pid not in seen_by]
    one_camera = [s for s in dataset.query if drop and seen_by.get(s.pid) == {s.camid}]
    lost = absent + one_camera
    if not lost:
        return
    ids = sorted({s.pid for s in lost})
    why = []
    if absent:
        why.append(f"{len(absent):,} because their person has no gallery image at all")
    if one_camera:
        why.append(
            f"{len(one_camera):,} because every gallery image of their person is from the query's "
            "own camera, and such images are left out of the ranking (the same-camera rule)"
        )
    every = len(lost) == len(dataset.query)
    # In a complete benchmark every query has a match, so that figures compare.
    complete = not partial and any(r.expected != Count() for r in parsed.rows)
    fix = "Add gallery images of these persons"
    fix += " from another camera" if one_camera else ""
    if complete:
        fix = "Unpack or download the set again; if a subset is meant, say so with --partial "
        fix += "(partial=True, data.partial=true)"
    elif not every:
        fix += "; or leave it: evaluation skips these queries and says how many"
    if one_camera and not complete:
        fix += (
            "; or, where one camera is all there is, let images of the same camera count as "
            "matches with the data option same_camera=keep"
        )
    yield finding(
        "error" if every or complete else "warning",
        "query-without-match",
        f"{len(lost):,} of {counted(len(dataset.query), 'query', 'queries')} "
        f"({counted(len(ids), 'id')}) {either(len(lost), 'has', 'have')} no match: "
        f"{' and '.join(why)}.",
        "A query counts only if the gallery shows its person"
        + (" in another camera." if drop else "."),
        fix + ".",
        (f"id {pid} ({name})" for pid, name in sorted({s.pid: s.path.name for s in lost}.items())),
    )


def _single_images(dataset: Dataset) -> Iterator[Finding]:
    per_id = Counter(s.pid for s in dataset.train)
    single = sorted(pid for pid, n in per_id.items() if n == 1)
    if single:
        yield finding(
            "warning",
            "id-with-one-image",
            f"{len(single):,} of {counted(len(per_id), 'train id')} "
            f"{either(len(single), 'has', 'have')} one image only.",
            "A triplet needs two images of a person.",
            "Add images, or leave it: the sampler repeats the one image.",
            (f"id {pid}" for pid in single),
        )
